"""What every tokenizer file is turned into: one `tokenizers` object and the names of its special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import tokenizers
from tokenizers import AddedToken, processors

from headrace.errors import DamagedFile


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A loaded vocabulary, whatever file it came from."""

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Role to text, under the names that chat templates use: {"bos_token": "<s>", …}"""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end a generation"""


@dataclass(frozen=True, slots=True)
class Surround:
    """The special tokens that `encode` puts before and after a text, as (text, id)."""

    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()
    between: tuple[tuple[str, int], ...] | None = None
    """What stands before the second text of a pair, which has type 1 then; None is what stands before the first"""

    def processor(self) -> processors.TemplateProcessing | None:
        """The post-processor that does it, or None when there is nothing to add."""
        if not self.before and not self.after:
            return None
        single = [*(text for text, _ in self.before), "$A", *(text for text, _ in self.after)]
        between = self.before if self.between is None else self.between
        second = [*(text for text, _ in between), "$B", *(text for text, _ in self.after)]
        if self.between is not None:
            second = [f"{text}:1" for text in second]
        special = dict.fromkeys((*self.before, *between, *self.after))
        return processors.TemplateProcessing(single=single, pair=[*single, *second], special_tokens=list(special))


def add_tokens(backend: tokenizers.Tokenizer, tokens: Iterable[tuple[int, AddedToken]], source: object) -> None:
    """Declare tokens that are found in a text before anything else, each under the given id.

    Raises:
        DamagedFile: an id that is neither the token's own in the vocabulary nor the next free one.
    """
    declared = sorted(tokens, key=lambda item: item[0])
    next_id = backend.get_vocab_size()
    for token_id, token in declared:
        expected = backend.token_to_id(token.content)
        if expected is None:
            expected, next_id = next_id, next_id + 1
        if expected != token_id:
            raise DamagedFile(
                f"{source} gives the added token {token.content!r} the id {token_id}, expected {expected}; "
                "export the tokenizer again"
            )
    backend.add_tokens([token for _, token in declared])
