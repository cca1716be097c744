"""How much a body's JSON unfolds to, counted before anything is made of it.

The decoder makes objects of a whole body in one go, during which nothing else runs in the process: 30 MiB of
`{"a":{}},` are a gigabyte and five seconds. The count is exact for valid JSON; of invalid JSON the decoder makes
nothing beyond the place where the count begins to err.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.server.errors import BodyTooLarge

_CHUNK = 2**18
"""Bytes counted at a time: a third of a millisecond"""
_MOST_DIGITS = 400
"""Of a number; making one of thousands takes time that grows with their square"""
_QUOTE = ord('"')
_WEIGHTS = np.zeros(256, np.uint8)
_WEIGHTS[list(b",")] = 1
_WEIGHTS[list(b"[{:")] = 4  # a list, an object or a key takes as much time and memory as four numbers
_MOST_WEIGHT = int(_WEIGHTS.max())


def check_values(body: bytes, most: int) -> None:
    """Raise BodyTooLarge if the JSON of a body has more than `most` values, or a number of more than 400 digits.

    Lists, objects and keys count for four. A body too short for so many is not looked at: what it has of digits takes
    no time either. Safe in any thread, and does not hold up the others.
    """
    _check_together((body,), most)


def check_arguments(messages: Iterable[Mapping[str, Any]], most: int) -> None:
    """The same of the arguments of the tool calls in a conversation, as ChatPrompt has it, that are JSON in a text."""
    _check_together(
        [
            arguments.encode("utf-8", "replace")
            for message in messages
            for called in message.get("tool_calls") or ()
            if isinstance(arguments := called["function"].get("arguments"), str)
        ],
        most,
    )


def _check_together(texts: Sequence[bytes], most: int) -> None:
    if sum(map(len, texts)) * _MOST_WEIGHT > most:
        weight = 0
        for text in texts:
            weight = _weighed(text, weight, most)


def _weighed(body: bytes, before: int, most: int) -> int:
    """How much there is with this text and what came before it."""
    weight = before
    digits = 0
    is_inside = False
    for chunk in _chunks(body):
        codes = np.frombuffer(chunk.replace(b"\\\\", b"  ").replace(b'\\"', b"  "), np.uint8)
        inside = np.logical_xor.accumulate(codes == _QUOTE) ^ is_inside
        is_inside = bool(inside[-1])
        outside = codes[~inside]
        weight += int(_WEIGHTS[outside].sum(dtype=np.int64))
        if weight > most:
            raise BodyTooLarge(
                f"The body's JSON has more than {most:,} values (lists, objects and keys count for four); send fewer"
            )
        digits = _check_digits(outside, digits)
    return weight


def _chunks(body: bytes) -> Iterator[bytes]:
    """Pieces that are cut between a backslash and what it is for nowhere."""
    start = 0
    while start < len(body):
        chunk = body[start : start + _CHUNK]
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
            chunk = chunk[:-1] or body[start : start + 2]
        yield chunk
        start += len(chunk)


def _check_digits(codes: np.ndarray, before: int) -> int:
    """Refuse long runs of digits, of which `before` ended the last chunk; how many end this one."""
    others = np.flatnonzero((codes < ord("0")) | (codes > ord("9")))
    if others.size == 0:
        longest = after = before + codes.size
    else:
        after = int(codes.size - 1 - others[-1])
        longest = max(before + int(others[0]), int(np.diff(others).max(initial=1)) - 1, after)
    if longest > _MOST_DIGITS:
        raise BodyTooLarge(f"The body has a number of more than {_MOST_DIGITS} digits")
    return after
