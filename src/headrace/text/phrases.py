"""Texts of SamplingParams as token ids, which is all that the engine knows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from headrace.errors import RequestError
from headrace.text.tokenizer import Tokenizer

TokenPhrases: TypeAlias = tuple[tuple[int, ...], ...]
_MOST_BREAKERS = 16
"""Sets of DRY's breakers that are kept: finding one's tokens reads the whole vocabulary"""


class Phrases:
    """Finds the tokens of texts, of those below `vocab_size` that the model can produce. Safe to share by threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self.dry_breakers = lru_cache(_MOST_BREAKERS)(self._dry_breakers)

    def bad_words(self, words: Iterable[str]) -> TokenPhrases:
        """Each word as the tokenizer writes it alone and behind a space, as vLLM looks for it.

        Raises:
            RequestError: a word has no tokens.
        """
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            spellings = self._spellings("bad_words", word.lstrip() or word)
            if not spellings:
                raise RequestError(f"bad_words has {word!r}, for which the model has no tokens", param="bad_words")
            found |= dict.fromkeys(spellings)
        return tuple(found)

    def _dry_breakers(self, strings: tuple[str, ...]) -> TokenPhrases:
        """All tokens that hold one of the strings, and what the tokenizer writes the strings with."""
        needles = [string.encode() for string in strings]
        pieces = ((token_id, self._tokenizer.token_bytes(token_id)) for token_id in range(self._vocab_size))
        holders = [(token_id,) for token_id, piece in pieces if any(needle in piece for needle in needles)]
        single = {token_id for (token_id,) in holders}
        spelt = [spelling for string in strings for spelling in self._spellings("dry_sequence_breakers", string)]
        return (*holders, *(phrase for phrase in dict.fromkeys(spelt) if single.isdisjoint(phrase)))

    def _spellings(self, param: str, text: str) -> list[tuple[int, ...]]:
        try:
            found = [self._tokenizer.encode(each, add_special_tokens=False) for each in (text, f" {text}")]
        except RequestError:
            raise RequestError(f"{param} has {text!r}, expected valid Unicode", param=param) from None
        return [tuple(token_ids) for token_ids in found if token_ids and max(token_ids) < self._vocab_size]
