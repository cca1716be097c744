"""A model's tokens as the grammar library wants them, and the shortest way to spell a text in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from llguidance import LLTokenizer

from headrace.errors import RequestError
from headrace.text.tokenizer import Tokenizer

NUM_BYTES = 256
_LONGEST_TOKEN = 32
"""Bytes of the longest tokens that endings are spelled with"""
_MOST_TEXTS = 4096
_SENTINEL = "\x02"
"""A character in front of a text, so that no tokenizer takes it for the start of a text"""


class GrammarVocabulary:
    """The tokens of one model. Immutable once made; making it takes about 7 µs for each token.

    There are two views: `tokens` are the model's own, and `spelling` has one token for each byte, and the model's
    special tokens behind them. Endings are looked for in bytes, where a step costs a hundredth.

    Raises:
        RequestError: the model has no tokenizer, or one that does not say what bytes a token stands for.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        if tokenizer is None or tokenizer.byte_table.joining is None:
            raise RequestError(
                "structured output needs a tokenizer that says which bytes each token stands for, and the model has"
                " none; leave it out",
                param="structured",
            )
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_token_ids = frozenset(each for each in eos_token_ids if each < vocab_size)
        """May be empty"""
        special = sorted(tokenizer.special_ids | self.eos_token_ids)
        self._special_ids = [token_id for token_id in special if token_id < vocab_size]
        self._names = [self._name(token_id) for token_id in self._special_ids]
        is_special = frozenset(self._special_ids)
        table = tokenizer.byte_table.bytes
        self.bytes = [b"" if token_id in is_special else table[token_id] for token_id in range(vocab_size)]
        """What each token stands for; empty for special tokens and for rows of padding, which are never allowed"""
        self._id_of: dict[bytes, int] = {}
        for token_id in range(vocab_size - 1, -1, -1):
            if self.bytes[token_id]:
                self._id_of[self.bytes[token_id]] = token_id
        self._longest = min(max((len(each) for each in self._id_of), default=1), _LONGEST_TOKEN)
        self._shortest_text = lru_cache(_MOST_TEXTS)(self._shortest_text_anew)
        self.single_bytes = frozenset(each[0] for each in self._id_of if len(each) == 1)
        """Bytes that have a token of their own"""
        self._ids_in_spelling = {token_id: NUM_BYTES + at for at, token_id in enumerate(self._special_ids)}
        self.tokens = self._as_tokens()
        self.spelling = self._as_spelling()

    def spell(self, token_id: int) -> list[int]:
        """A token in `spelling`."""
        at = self._ids_in_spelling.get(token_id)
        return list(self.bytes[token_id]) if at is None else [at]

    def shortest(self, spelled: Sequence[int]) -> list[int] | None:
        """The fewest tokens that spell what is given in `spelling`; None if no tokens do."""
        found: list[int] = []
        start = 0
        for at, each in enumerate([*spelled, NUM_BYTES]):
            if each < NUM_BYTES:
                continue
            part = self._shortest_text(bytes(spelled[start:at]))
            if part is None:
                return None
            found.extend(part)
            if at < len(spelled):
                found.append(self._special_ids[each - NUM_BYTES])
            start = at + 1
        return found

    def written(self, token_id: int) -> bytes:
        """A token as it reads, special ones by their names."""
        if token_id in self._ids_in_spelling:
            return (self._tokenizer.byte_table.name(token_id) or "").encode()
        return self.bytes[token_id]

    def encode_marks(self, text: str) -> tuple[int, ...]:
        """A text's tokens, with the special tokens that are written out in it."""
        wanted = text.encode()
        for before in ("", _SENTINEL):
            first = self._tokenizer.encode(before, add_special_tokens=False) if before else []
            ids = self._tokenizer.encode(before + text, add_special_tokens=False)
            rest = ids[len(first) :]
            if ids[: len(first)] == first and b"".join(map(self.written, rest)) == wanted:
                return tuple(rest)
        return tuple(self._shortest_text(wanted) or ())

    def encode(self, text: str) -> list[int]:
        """A text's tokens as the model would write them in the middle of a text."""
        wanted = text.encode()
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if self._join(ids) == wanted:
            return ids
        before = self._tokenizer.encode(_SENTINEL, add_special_tokens=False)
        ids = self._tokenizer.encode(_SENTINEL + text, add_special_tokens=False)
        if ids[: len(before)] == before and self._join(ids[len(before) :]) == wanted:
            return ids[len(before) :]
        return self._shortest_text(wanted) or []

    def _join(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(self.bytes[token_id] for token_id in token_ids)

    def _shortest_text_anew(self, text: bytes) -> list[int] | None:
        fewest: list[int | None] = [0] + [None] * len(text)
        token_at = [0] * (len(text) + 1)
        for end in range(1, len(text) + 1):
            for start in range(max(end - self._longest, 0), end):
                before = fewest[start]
                if before is None or ((known := fewest[end]) is not None and known <= before + 1):
                    continue
                if (token_id := self._id_of.get(text[start:end])) is not None:
                    fewest[end], token_at[end] = before + 1, token_id
        if fewest[-1] is None:
            return None
        found: list[int] = []
        end = len(text)
        while end:
            found.append(token_at[end])
            end -= len(self.bytes[token_at[end]])
        return found[::-1]

    def _name(self, token_id: int) -> bytes:
        return _grammar_name(token_id, self._tokenizer.byte_table.name(token_id)).encode()

    @property
    def special_names(self) -> dict[str, str]:
        """The texts of the special tokens, and how grammars name them."""
        pairs = zip(self._special_ids, self._names, strict=True)
        return {self._tokenizer.byte_table.name(each) or "": name.decode() for each, name in pairs}

    def _as_tokens(self) -> LLTokenizer:
        tokens = list(self.bytes)
        for token_id, name in zip(self._special_ids, self._names, strict=True):
            tokens[token_id] = name
        return _as_library_tokenizer(tokens, self._special_ids, self.eos_token_ids, self.encode)

    def _as_spelling(self) -> LLTokenizer:
        tokens = [bytes([byte]) for byte in range(NUM_BYTES)] + self._names
        special = [self._ids_in_spelling[token_id] for token_id in self._special_ids]
        eos = [self._ids_in_spelling[token_id] for token_id in self.eos_token_ids]
        return _as_library_tokenizer(tokens, special, eos, lambda text: list(text.encode()))


_NAME = re.compile(r"<[^<>\s\[\]]+>")


def _grammar_name(token_id: int, text: str | None) -> str:
    """Grammars write special tokens between angle brackets; those that are written otherwise get a name."""
    return text if text is not None and _NAME.fullmatch(text) else f"<special-{token_id}>"


class _Wrapped:
    """The attributes that LLTokenizer reads from an object, as in llguidance's TokenizerWrapper."""

    is_tokenizer_wrapper = True
    bos_token_id: int | None = None

    def __init__(self, tokens: list[bytes], special: Iterable[int], eos: int, encode: object) -> None:
        self.tokens = tokens
        self.special_token_ids = list(special)
        self.eos_token_id = eos
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text)  # type: ignore[operator]
        return ids


def _as_library_tokenizer(
    tokens: list[bytes], special: Iterable[int], eos: Iterable[int], encode: object
) -> LLTokenizer:
    """With a token for the end of the output behind the others if there is none among them."""
    ends, special = sorted(eos), list(special)
    if not ends:
        ends = [len(tokens)]
        special = [*special, len(tokens)]
        tokens = [*tokens, b"<end of output>"]
    return LLTokenizer(_Wrapped(tokens, special, ends[0], encode), eos_token=ends)  # type: ignore[arg-type]
