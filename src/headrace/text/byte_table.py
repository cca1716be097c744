"""What each token stands for inside a text, computed once per tokenizer.

`tokenizers` decodes token by token in one of a few ways, each a table look-up: a token's bytes, how they differ at the
start of a text, and what is stripped or replaced when the parts are joined. Any other way has no table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

import tokenizers

from headrace.text import byte_level

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_Piece: TypeAlias = Callable[[str], str]
_Value = TypeVar("_Value")

_LARGEST_ID = 2**32 - 1  # what the library's type of ids holds


@dataclass(frozen=True, slots=True)
class Joining:
    """How pieces become a text."""

    is_utf8: bool = False
    """Pieces are bytes of UTF-8 that may cut characters; otherwise each is whole characters"""
    first: _Piece | None = None
    """The piece of a token that starts a text, where it differs"""
    last: _Piece | None = None
    """The piece of a token that ends a text, where it differs"""
    has_byte_tokens: bool = False
    """Tokens <0xNN> stand for single bytes; a run of them is decoded together"""
    strip: str = ""
    """A character that is taken off the start of the text …"""
    num_strip: int = 0
    """… at most this often"""


class ByteTable:
    """Token id to text, for the decoders that allow a table.

    `joining` is None when the decoder is of another kind; the pieces are then the tokens as they stand. A vocabulary
    has 10^5 tokens and a text uses few: a token's piece is made when it is first asked for.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._piece, self.joining = _read_decoder(_decoder_state(backend))
        added = backend.get_added_tokens_decoder()
        self.special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._has_byte_tokens = self.joining is not None and self.joining.has_byte_tokens
        self.bytes: Mapping[int, bytes] = _Lazy(self._make_bytes, b"")
        """UTF-8 of each token's piece; empty for an id outside the vocabulary"""
        self.pieces: Mapping[int, str | int | None] = _Lazy(self._make_piece, None)
        """Where pieces are characters: each token's, or the byte of a <0xNN> token; None outside the vocabulary"""

    def name(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it, or None for an id outside it."""
        return self._backend.id_to_token(token_id) if 0 <= token_id <= _LARGEST_ID else None

    def _make_piece(self, token_id: int) -> str | int | None:
        name = self.name(token_id)
        if name is None:
            return None
        if self._has_byte_tokens and len(name) == len("<0xNN>") and (match := _BYTE_TOKEN.fullmatch(name)) is not None:
            return int(match[1], 16)
        return self._piece(name)

    def _make_bytes(self, token_id: int) -> bytes | None:
        if self.joining is not None and self.joining.is_utf8:
            name = self.name(token_id)
            return None if name is None else _byte_level_piece(name)
        piece = self.pieces[token_id]
        return bytes([piece]) if isinstance(piece, int) else None if piece is None else piece.encode("utf-8")


class _Lazy(dict[int, _Value]):
    """Makes a value when its key is first looked up with []; what is None is not kept and reads as `missing`."""

    def __init__(self, make: Callable[[int], _Value | None], missing: _Value) -> None:
        super().__init__()
        self._make = make
        self._missing = missing

    def __missing__(self, key: int) -> _Value:
        value = self._make(key)
        if value is None:
            return self._missing
        self[key] = value
        return value


def _decoder_state(backend: tokenizers.Tokenizer) -> list[Mapping[str, Any]] | None:
    """The decoder's steps as JSON objects, or None when there is no decoder."""
    decoder = backend.decoder
    if decoder is None:
        return None
    state = json.loads(decoder.__getstate__())  # what pickling a decoder keeps: the same JSON as in tokenizer.json
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def _read_decoder(steps: list[Mapping[str, Any]] | None) -> tuple[_Piece, Joining | None]:
    """The piece of a token inside a text, and how pieces are joined."""
    if steps is None:
        return (lambda token: f" {token}"), Joining(first=_same)
    if len(steps) == 1 and (reader := _SINGLE_DECODERS.get(steps[0]["type"])) is not None:
        return reader(steps[0])
    return _read_replacing_decoder(steps)


def _same(token: str) -> str:
    return token


def _read_byte_level(_: Mapping[str, Any]) -> tuple[_Piece, Joining | None]:
    return _same, Joining(is_utf8=True)


def _read_metaspace(step: Mapping[str, Any]) -> tuple[_Piece, Joining | None]:
    mark = step["replacement"]
    first = None if step.get("prepend_scheme") == "never" else (lambda token: token.replace(mark, ""))
    return (lambda token: token.replace(mark, " ")), Joining(first=first)


def _read_word_piece(step: Mapping[str, Any]) -> tuple[_Piece, Joining | None]:
    prefix, clean = step["prefix"], _clean_up if step["cleanup"] else _same
    inside: _Piece = lambda token: clean(token.removeprefix(prefix) if token.startswith(prefix) else f" {token}")  # noqa: E731
    return inside, Joining(first=clean)


def _read_bpe_suffix(step: Mapping[str, Any]) -> tuple[_Piece, Joining | None]:
    suffix = step["suffix"]
    return (lambda token: token.replace(suffix, " ")), Joining(last=lambda token: token.replace(suffix, ""))


_SINGLE_DECODERS: dict[str, Callable[[Mapping[str, Any]], tuple[_Piece, Joining | None]]] = {
    "ByteLevel": _read_byte_level,
    "Metaspace": _read_metaspace,
    "WordPiece": _read_word_piece,
    "BPEDecoder": _read_bpe_suffix,
}


def _read_replacing_decoder(steps: list[Mapping[str, Any]]) -> tuple[_Piece, Joining | None]:
    """Replace … ByteFallback? Fuse? Strip?, the SentencePiece family; None for any other order."""
    order = {"Replace": 0, "ByteFallback": 1, "Fuse": 2, "Strip": 3}
    kinds = [order.get(step["type"], -1) for step in steps]
    replaces = [step for step in steps if step["type"] == "Replace"]
    strips = [step for step in steps if step["type"] == "Strip"]
    is_known = (
        -1 not in kinds
        and kinds == sorted(kinds)
        and all(kinds.count(kind) <= 1 for kind in (1, 2, 3))
        and all("String" in step["pattern"] for step in replaces)
        and all(step["stop"] == 0 and order["Fuse"] in kinds for step in strips)
    )
    if not is_known:
        return _same, None
    pairs = [(step["pattern"]["String"], step["content"]) for step in replaces]

    def piece(token: str) -> str:
        for old, new in pairs:
            token = token.replace(old, new)
        return token

    strip: Mapping[str, Any] = strips[0] if strips else {"content": "", "start": 0}
    return piece, Joining(
        has_byte_tokens=order["ByteFallback"] in kinds, strip=strip["content"], num_strip=strip["start"]
    )


_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""What the WordPiece decoder tidies, token by token."""


def _clean_up(token: str) -> str:
    for old, new in _CLEAN_UPS:
        token = token.replace(old, new)
    return token


@cache
def _byte_level_translation() -> Mapping[int, int]:
    """Characters to the bytes that they stand for, and above 0xFF where they stand for none."""
    stands_for = {ord(character): byte for character, byte in byte_level.character_to_byte().items()}
    # Latin-1 characters that stand for no byte must not pass for themselves.
    return {code: stands_for.get(code, 0x100) for code in (*range(256), *stands_for)}


def _byte_level_piece(name: str) -> bytes:
    """What a byte-level token stands for; one with any other character (an added token) stands for its own UTF-8."""
    try:
        return name.translate(_byte_level_translation()).encode("latin-1")
    except UnicodeEncodeError:
        return name.encode("utf-8")
