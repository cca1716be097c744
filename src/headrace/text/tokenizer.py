"""Text to token ids and back, the same way whatever file the vocabulary came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import tokenizers

from headrace.errors import RequestError
from headrace.hub.files import ModelFiles
from headrace.text import folder_vocab, gguf_vocab
from headrace.text.byte_table import ByteTable
from headrace.text.detokenizer import Detokenizer
from headrace.text.vocabulary import Vocabulary

_Text = TypeVar("_Text", str, str | tuple[str, str])


class EncodedText(NamedTuple):
    """Token ids, and which text of a pair each belongs to."""

    ids: list[int]
    type_ids: list[int]


class TokenSpan(NamedTuple):
    """A token and the characters of the text that it stands for; a special token from outside the text has none."""

    id: int
    start: int
    stop: int


class Tokenizer:
    """A model's tokenizer. Safe to share between threads; nothing changes after it is built, but for its limit.

    Special tokens that are written out in a text are always recognised as such, as in Hugging Face's tokenizers.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._backend = vocabulary.backend
        self.most_characters: int | None = None
        """Of a text; None: any number. Each takes a hundred bytes of memory while it becomes tokens, which a server
        has to bound."""
        self.special_tokens: Mapping[str, str] = dict(vocabulary.special_tokens)
        """Role to text, under the names that chat templates use: {"bos_token": "<s>", …}"""
        self.eos_token_ids = vocabulary.eos_token_ids
        """Tokens that end a generation: of the generation config, the model's config and the tokenizer"""
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        """Tokens that `decode` leaves out when it skips special tokens"""
        self.special_token_ids: Mapping[str, int] = {
            added[token_id].content: token_id for token_id in self.special_ids if added[token_id].content
        }
        """Text to id of every special token"""

    @classmethod
    def from_files(cls, files: ModelFiles) -> Tokenizer | None:
        """The tokenizer of a model, or None when it comes without one.

        Raises:
            UnsupportedModel: a kind of vocabulary that is not implemented; the message names it.
            DamagedFile: a tokenizer file that cannot be read.
        """
        if files.gguf is not None:
            vocabulary = gguf_vocab.load(files.gguf.metadata, files.gguf_path)
        else:
            vocabulary = folder_vocab.load(files)
        return None if vocabulary is None else cls(vocabulary)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text, between the special tokens that the model expects around it (such as BOS).

        Text from a chat template has its special tokens already: encode it with `add_special_tokens=False`.

        Raises:
            RequestError: the text has a lone surrogate, which is no character.
        """
        if len(text) >= _LONG_TEXT:
            return self.encode_batch([text], add_special_tokens)[0]
        self._check_text(text)
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def spans(self, text: str, add_special_tokens: bool = True) -> list[TokenSpan]:
        """`encode`, and where in the text each token stands. The tokens of one character all stand for it.

        Raises:
            RequestError: as `encode`.
        """
        self._check_text(text)
        encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return [
            TokenSpan(token_id, start, stop)
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def special_ids_in(self, texts: Sequence[str]) -> frozenset[int]:
        """The special tokens that are written in one of the texts."""
        whole = "\n".join(texts)
        return frozenset(token_id for special, token_id in self.special_token_ids.items() if special in whole)

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """`encode` of each text, on several threads."""
        for text in texts:
            self._check_text(text)
        return [
            encoding.ids
            for group in _groups(texts)
            for encoding in self._backend.encode_batch_fast(group, add_special_tokens=add_special_tokens)
        ]

    def encode_parts(self, texts: Sequence[str | tuple[str, str]], max_tokens: int | None = None) -> list[EncodedText]:
        """Each text, or pair of texts, as the tokenizer's own template puts it together with special tokens.

        What is longer than `max_tokens` is cut at its end, of a pair the longer text first; None cuts nothing.

        Raises:
            RequestError: a text has a lone surrogate, or `max_tokens` leaves no room beside the special tokens.
        """
        for text in texts:
            for part in (text,) if isinstance(text, str) else text:
                self._check_text(part)
        return [
            EncodedText(encoding.ids, encoding.type_ids)
            for group in _groups(texts)
            for encoding in self._encodings(group, max_tokens)
        ]

    def _encodings(
        self, texts: Sequence[str | tuple[str, str]], max_tokens: int | None
    ) -> Iterator[tokenizers.Encoding]:
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=True)
        for text, encoding in zip(texts, found, strict=True):
            yield self._cut(text, max_tokens) if max_tokens is not None and len(encoding.ids) > max_tokens else encoding

    def _check_text(self, text: str) -> None:
        if self.most_characters is not None and len(text) > self.most_characters:
            raise RequestError(
                f"the prompt has {len(text):,} characters, expected at most {self.most_characters:,}; shorten it",
                param="prompt",
            )
        if not text.isascii() and (found := _SURROGATE.search(text)) is not None:
            raise RequestError(
                f"the prompt has a lone surrogate (U+{ord(found[0]):04X}) at character {found.start()}; "
                "expected valid Unicode",
                param="prompt",
            )

    def _cut(self, text: str | tuple[str, str], max_tokens: int) -> tokenizers.Encoding:
        parts = (text,) if isinstance(text, str) else text
        encodings = [self._backend.encode(part, add_special_tokens=False) for part in parts]
        room = max_tokens - self._backend.num_special_tokens_to_add(len(parts) > 1)
        if room < len(parts):
            raise RequestError(f"{max_tokens} tokens have no room for a text beside the special tokens")
        lengths = [len(encoding.ids) for encoding in encodings]
        kept = min(*lengths, room // 2) if len(parts) > 1 else 0
        longer = lengths.index(max(lengths)) if len(set(lengths)) > 1 else len(lengths) - 1
        for index, encoding in enumerate(encodings):
            encoding.truncate(room - kept if index == longer else kept)
        return self._backend.post_process(encodings[0], encodings[1] if len(parts) > 1 else None)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        detokenizer = Detokenizer(self, skip_special_tokens)
        return detokenizer.push(token_ids) + detokenizer.flush()

    def decode_whole(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """`decode` by the `tokenizers` library itself: for decoders that have no byte table, and as an oracle."""
        return self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for inside a text; empty for an id outside the vocabulary."""
        return self.byte_table.bytes[token_id]

    def token_text(self, token_id: int) -> str:
        """A token alone, for display: bytes that are no whole character become U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_name(self, token_id: int) -> str:
        """A token as the vocabulary spells it ("▁the", "Ġthe", "<0x0A>"); empty for an id outside of it."""
        return self._backend.id_to_token(token_id) or ""

    def token_id(self, name: str) -> int | None:
        """The token that the vocabulary spells like this."""
        return self._backend.token_to_id(name)

    @property
    def bos_token(self) -> str | None:
        """The text of the begin-of-sequence token."""
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The text of the end-of-sequence token."""
        return self.special_tokens.get("eos_token")

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def add_bos(self) -> bool:
        """Whether `encode` puts the begin-of-sequence token in front."""
        ids = self._backend.encode("", add_special_tokens=True).ids
        return self.bos_token is not None and ids[:1] == [self._backend.token_to_id(self.bos_token)]

    @cached_property
    def byte_table(self) -> ByteTable:
        """Token id to bytes, made on first use and shared by all detokenizers."""
        return ByteTable(self._backend)


def _groups(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """The texts, or pairs, in groups that take little memory while they become tokens."""
    group: list[_Text] = []
    size = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else sum(map(len, text))
        if group and size + length > _GROUP:
            yield group
            group, size = [], 0
        group.append(text)
        size += length
    if group:
        yield group


_LONG_TEXT = 10_000
"""Characters from which a text alone goes the batch's way: the same ids, without offsets and without holding the GIL,
so that the threads of a server go on meanwhile"""

_GROUP = 2**20
"""Characters"""

_SURROGATE = re.compile("[\ud800-\udfff]")
