"""What one rendering of a chat template may cost: CPU time, and the size of whatever it builds.

Time is looked at in each turn of a loop, each call and each operation, so that a single one of them must not take long:
that is what the sizes are for. A container weighs as much as all that is in it, counted as often as it is there: a list
that holds another one twice is small in memory and large once it is written out, compared or hashed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

MAX_CHARACTERS = 32 * 1024 * 1024
"""What a template may render, or build in one piece, in characters and items."""
MAX_BUILT = 4 * MAX_CHARACTERS
"""What it may build in all."""
MAX_SECONDS = 5.0
"""CPU time of its thread."""
_MAX_BITS = 16_384
_MAX_PIECES = 1_000_000
_TICKS_BETWEEN_LOOKS = 8
_CODECS = ("ascii", "latin-1", "unicode-escape", "utf-8", "utf8")
"""Others take time that grows with a text's square (punycode)"""
_WIDE = re.compile(r"\d{5}")
"""In a format: a width or a precision of more than four digits"""
_NESTED = re.compile(r":[^}]*\{")
"""In a format: a width that is one of the values"""


class OutOfTime(SecurityError):
    """A template has had its time."""


class Budget:
    """The costs of one rendering so far.

    All methods raise SecurityError when something is beyond its bounds.
    """

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds
        self._ticks = 0
        self._built = 0
        self._weights: dict[int, tuple[object, int]] = {}
        """By id, with the container itself, so that its id stays its own; the sandbox lets none be changed"""

    def tick(self) -> None:
        """A step has been made."""
        self._ticks += 1
        if not self._ticks % _TICKS_BETWEEN_LOOKS and time.thread_time() > self._end:
            raise OutOfTime(f"it takes longer than {self._seconds:g} s of CPU time")

    def build(self, size: int) -> None:
        """Something of so many characters or items is about to be built."""
        check_size(size)
        self._built += size
        if self._built > MAX_BUILT:
            raise SecurityError(f"it builds texts and lists of more than {MAX_BUILT:,} in all")

    def weigh(self, value: object) -> int:
        """Characters and items of a value, at least 1."""
        if isinstance(value, str | bytes):
            return len(value) + 1
        if isinstance(value, int):
            return 1 + value.bit_length() // 8
        if not isinstance(value, list | tuple | dict | set | frozenset | Namespace):
            return 1
        known = self._weights.get(id(value))
        if known is not None and not isinstance(value, Namespace):
            return known[1]
        self._weights[id(value)] = (value, 1)  # a namespace may hold itself
        items = _items(value)
        weight = 1
        for item in items:
            weight += self.weigh(item)
            check_size(weight)
        self._weights[id(value)] = (value, weight)
        return weight

    def know(self, container: list[Any] | tuple[Any, ...], weight: int) -> None:
        """The weight of a new container, from what it was made of."""
        self._weights[id(container)] = (container, weight)

    def operate(self, operator: str, left: Any, right: Any) -> None:
        """An operation is about to be made of two values."""
        self.tick()
        if operator == "**":
            if not (_is_small(left) and _is_small(right)):
                raise SecurityError(f"{_shown(left)} ** {_shown(right)} is out of bounds")
        elif operator == "+":
            if isinstance(left, str):
                self.build(self.weigh(left) + self.weigh(right))
            elif isinstance(left, list | tuple):  # what is in them is only pointed to
                check_size(self.weigh(left) + self.weigh(right))
                self.build(len(left) + (len(right) if isinstance(right, list | tuple) else 0))
        elif operator == "%":
            if isinstance(left, str):
                self.format(left, right)
        else:
            self._multiply(left, right)

    def format(self, pattern: str, *values: object) -> None:
        """Values are about to be put into a pattern, each in any of its places."""
        if _WIDE.search(pattern) or "*" in pattern:
            raise SecurityError(f"the width in {_shown(pattern)} is out of bounds")
        numbers = [abs(value) for value in values if isinstance(value, int)]
        nested = max(numbers, default=0) if _NESTED.search(pattern) else 0
        places = pattern.count("%") + pattern.count("{")
        self.build(len(pattern) + places * (9999 + nested + sum(map(self.weigh, values))))

    def method(self, text: str, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """A method of a text is about to be called, or a filter that does as much."""
        given = (*arguments, *options.values())
        match name:
            case "replace":
                old, new = (*(str(one) for one in given[:2]), "", "")[:2]
                self.build(len(text) + text.count(old) * len(new))
            case "join":
                items = list(given[0]) if given and not isinstance(given[0], Undefined) else []
                self.build(self.weigh(items) + len(text) * len(items))
            case "indent":
                self.build(len(text) + (text.count("\n") + 1) * _largest(given, 4))
            case "center" | "ljust" | "rjust" | "zfill":
                self.build(len(text) + _largest(given, 80))
            case "expandtabs":
                self.build(len(text) + text.count("\t") * _largest(given, 8))
            case "wordwrap":
                self.build(len(text) * (1 + max((len(one) for one in given if isinstance(one, str)), default=1)))
            case "split" | "rsplit" | "splitlines":
                between = next((one for one in given if isinstance(one, str) and one), None)
                if len(text) > _MAX_PIECES and (between is None or text.count(between) > _MAX_PIECES):
                    raise SecurityError(f"it splits a text into more than {_MAX_PIECES:,} pieces")
            case "format" | "format_map":
                self.format(text, *given)
            case "striptags":  # copies it for each comment
                self.build(len(text) * (1 + text.count("<!--")))
            case "translate":
                longest = max((self.weigh(one) for one in given), default=1)
                self.build(len(text) * longest)
            case _:
                self.build(len(text))

    def code(self, text: str | bytes, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """A text is about to be encoded, or bytes decoded."""
        codec = str(arguments[0] if arguments else options.get("encoding", "utf-8"))
        if codec.lower().replace("_", "-") not in _CODECS:
            raise SecurityError(f"the encoding {_shown(codec)} is not one of {', '.join(_CODECS)}")
        self.build(len(text))

    def _multiply(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > _MAX_BITS:
                raise SecurityError("a product is out of bounds")
            return
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | bytes | list | tuple) and isinstance(count, int):
                self.build(self.weigh(sequence) * max(count, 0))


def check_size(size: int) -> None:
    """Whether something of this size may be."""
    if size > MAX_CHARACTERS:
        raise SecurityError(f"it builds a text or list of {size:,} or more, at most {MAX_CHARACTERS:,} are allowed")


def _items(value: object) -> list[object]:
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    assert isinstance(value, list | tuple | set | frozenset)
    return list(value)


def _largest(given: tuple[Any, ...], default: int) -> int:
    """A width: a number, or a text to be used as one."""
    sizes = [len(one) if isinstance(one, str) else abs(one) for one in given if isinstance(one, str | int)]
    return max(sizes, default=default)


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 64


def _shown(value: object) -> str:
    return repr(value)[:50] if isinstance(value, str | int | float) else type(value).__name__
