"""JSON and literal markers in a text whose end is not there yet."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

MORE = -1
"""The text is too short to say"""
NO = -2
"""It is something else"""

_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]+")
_PARTS = re.compile(r"<[^<>\s]*>|\[[A-Z_/]+\]|[^\s<\[]+|\S")


def split_marker(literal: str) -> tuple[str, ...]:
    """A marker's parts, between which a model may write spaces and line ends or leave them out."""
    return tuple(_PARTS.findall(literal))


def skip_space(text: str, at: int) -> int:
    """Where the next character that is no space stands (perhaps the text's end)."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def match_parts(text: str, at: int, parts: Sequence[str]) -> int:
    """Where the text goes on after all parts, spaces before each; MORE or NO."""
    for part in parts:
        at = skip_space(text, at)
        if not text.startswith(part, at):
            return MORE if part.startswith(text[at:]) else NO
        at += len(part)
    return at


def skip_value(text: str, at: int) -> int:
    """Where the JSON value that begins at `at` ends; MORE or NO. Brackets are counted, not checked."""
    if at >= len(text):
        return MORE
    if text[at] in "{[":
        value = JsonValue()
        end = at + value.push(text[at:])
        return end if value.has_ended else MORE
    if text[at] == '"':
        found = _STRING.match(text, at)
        return MORE if found is None else found.end()
    found = _SCALAR.match(text, at)
    if found is None:
        return NO
    return MORE if found.end() == len(text) else found.end()


def read_string(text: str, at: int) -> tuple[str, int]:
    """The JSON string that begins at `at` and where it ends; ("", MORE) or ("", NO)."""
    if at >= len(text):
        return "", MORE
    if text[at] != '"':
        return "", NO
    end = skip_value(text, at)
    if end < 0:
        return "", end
    try:
        return json.loads(text[at:end], strict=False), end
    except ValueError:
        return "", NO


def num_held(text: str, marker: str) -> int:
    """Length of the longest end of the text with which the marker may begin."""
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-size:]):
            return size
    return 0


class JsonValue:
    """Finds the end of an object or array that comes in pieces; `depth` brackets are open already."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._is_escaped = False
        self.has_ended = False

    @property
    def has_begun(self) -> bool:
        """Whether it is inside a bracket."""
        return self._depth > 0

    def push(self, text: str) -> int:
        """How many characters of the text belong to the value."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.has_ended = True
                    return at + 1
        return len(text)
