"""Token ids to text as they come: never half a character, the same cost for each token however long the text is."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from headrace.text.byte_table import ByteTable, Joining

_REPLACEMENT = "\ufffd"
_MAX_HELD_BYTES = 64
"""A run of <0xNN> tokens is held back up to this size; see ByteRun."""


class TokenDecoder(Protocol):
    """What a detokenizer needs of a tokenizer."""

    @property
    def byte_table(self) -> ByteTable:
        """The bytes of each token, and how they are joined."""

    def decode_whole(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of all the ids, by the tokenizer's own library."""


class Detokenizer:
    """Turns one sequence's token ids into text, piece by piece.

    All pieces together are what `Tokenizer.decode` gives for all the ids. `prompt_token_ids` are ids that the sequence
    goes on from: they give no text, but decide whether the first piece starts a text, where vocabularies of
    SentencePiece drop a space. `kept` are special tokens that stay in the text all the same.
    """

    def __init__(
        self,
        tokenizer: TokenDecoder,
        skip_special_tokens: bool = True,
        prompt_token_ids: Sequence[int] = (),
        *,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        table = tokenizer.byte_table
        skipped = table.special - kept if skip_special_tokens else frozenset[int]()
        if table.joining is None:
            self._joiner: Joiner = WholeJoiner(tokenizer, skipped)
            return
        at_start = not any(
            table.name(token_id) is not None and token_id not in skipped for token_id in prompt_token_ids
        )
        kind = ByteJoiner if table.joining.is_utf8 else TextJoiner
        self._joiner = kind(table, table.joining, skipped, at_start)

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is final after these ids."""
        return self._joiner.push(token_ids)

    def flush(self) -> str:
        """The rest of the text, when no more ids come."""
        return self._joiner.flush()


class ByteJoiner:
    """Pieces are bytes: an incremental UTF-8 decoder keeps what is not a whole character yet."""

    def __init__(self, table: ByteTable, joining: Joining, skipped: frozenset[int], at_start: bool) -> None:
        assert joining.is_utf8
        del at_start  # byte-level pieces are the same everywhere
        self._bytes = table.bytes
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        bytes_of, skipped = self._bytes, self._skipped
        data = b"".join([bytes_of[token_id] for token_id in token_ids if token_id not in skipped])
        return self._decoder.decode(data)

    def flush(self) -> str:
        """See Detokenizer."""
        return self._decoder.decode(b"", final=True)


class TextJoiner:
    """Pieces are characters, except for runs of byte tokens."""

    def __init__(self, table: ByteTable, joining: Joining, skipped: frozenset[int], at_start: bool) -> None:
        self._table = table
        self._joining = joining
        self._skipped = skipped
        self._at_start = at_start
        self._num_strip = joining.num_strip if at_start else 0
        self._run = ByteRun()
        self._held: tuple[int, str] | None = None
        """The last token and its piece, while that depends on whether another one follows"""

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        pieces = self._table.pieces
        parts: list[str] = []
        for token_id in token_ids:
            piece = pieces[token_id]
            if piece is None or token_id in self._skipped:
                continue
            if isinstance(piece, int):
                parts.append(self._run.push(piece))
                continue
            parts.append(self._run.close())
            parts.append(self._place(token_id, piece))
        return self._strip("".join(parts))

    def flush(self) -> str:
        """See Detokenizer."""
        rest = self._run.close()
        if self._held is not None and self._joining.last is not None:
            rest = self._joining.last(self._table.name(self._held[0]) or "")
            self._held = None
        return self._strip(rest)

    def _place(self, token_id: int, text: str) -> str:
        is_first, self._at_start = self._at_start, False
        if is_first and self._joining.first is not None:
            text = self._joining.first(self._table.name(token_id) or "")
        if self._joining.last is not None:
            before, self._held = self._held, (token_id, text)
            return "" if before is None else before[1]
        return text

    def _strip(self, text: str) -> str:
        while self._num_strip and text:
            if not text.startswith(self._joining.strip):
                self._num_strip = 0
                break
            text = text[len(self._joining.strip) :]
            self._num_strip -= 1
        return text


class ByteRun:
    """Consecutive <0xNN> tokens. As `tokenizers` decodes them, a run that is not UTF-8 as a whole becomes U+FFFD for
    each of its bytes; so it is held back until it ends or breaks. A run longer than 64 bytes is let out character by
    character, and only what comes after can still break.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._text: list[str] = []
        self._num_bytes = 0
        """Bytes of the run that no text has been given out for"""
        self._is_broken = False
        self._is_long = False

    def push(self, byte: int) -> str:
        """The text that is final after one more byte."""
        if self._is_broken:
            return _REPLACEMENT
        self._num_bytes += 1
        try:
            text = self._decoder.decode(bytes([byte]))
        except UnicodeDecodeError:
            return self._break()
        if text:
            self._text.append(text)
            self._is_long = self._is_long or self._num_bytes > _MAX_HELD_BYTES
            if self._is_long:
                return self._take()
        return ""

    def close(self) -> str:
        """The rest of the run, when another kind of token or nothing follows."""
        if not self._num_bytes and not self._is_broken:
            return ""
        is_whole = not self._is_broken and not self._decoder.getstate()[0]
        rest = self._take() if is_whole else "" if self._is_broken else self._break()
        self._decoder.reset()
        self._is_broken = self._is_long = False
        return rest

    def _take(self) -> str:
        text = "".join(self._text)
        self._text.clear()
        self._num_bytes = 0
        return text

    def _break(self) -> str:
        num_bytes = self._num_bytes
        self._take()
        self._is_broken = True
        return _REPLACEMENT * num_bytes


class WholeJoiner:
    """For decoders without a table: decodes everything again and gives out what the last token did not change."""

    def __init__(self, tokenizer: TokenDecoder, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._token_ids: list[int] = []
        self._num_emitted = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        if not token_ids:
            return ""
        self._token_ids.extend(token_id for token_id in token_ids if token_id not in self._skipped)
        before = self._decode(self._token_ids[:-1])
        text = self._decode(self._token_ids)
        stable = 0
        for one, other in zip(before, text, strict=False):
            if one != other:
                break
            stable += 1
        stable -= len(text[:stable]) - len(text[:stable].rstrip(_REPLACEMENT))
        return self._emit(text[: max(stable, self._num_emitted)])

    def flush(self) -> str:
        """See Detokenizer."""
        return self._emit(self._decode(self._token_ids))

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode_whole(token_ids, skip_special_tokens=False)

    def _emit(self, text: str) -> str:
        piece = text[self._num_emitted :]
        self._num_emitted = max(self._num_emitted, len(text))
        return piece


Joiner = ByteJoiner | TextJoiner | WholeJoiner
