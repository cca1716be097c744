"""The beginning of a call: from its opening up to its arguments."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from headrace.text.tools.format import ID_MARK, NamedCall, ObjectCall, PythonCall, ToolFormat
from headrace.text.tools.scan import MORE, NO, match_parts, read_string, skip_space, skip_value, split_marker

_NAME = re.compile(r"[^\s<>{}\[\]()\"'`,;]{1,256}")
_ID = re.compile(r"[^\s<>{}\[\]\"']{1,256}")


@dataclass(frozen=True, slots=True)
class Head:
    """A call that was recognised.

    `end` is where its arguments begin. `early` are arguments that came before the name, or turned out to be none; then
    `end` is behind the last thing that was read, the whole object if it `is_closed`.
    """

    name: str
    end: int
    early: str | None = None
    is_closed: bool = False
    id: str | None = None
    """As it was written, where ids are"""


class HeadReader:
    """Reads heads of one format. `names` are the tools that are there: only calls of these are recognised where
    nothing but their form marks calls, and in Python's notation, which prose may look like."""

    def __init__(self, format_: ToolFormat, names: Container[str]) -> None:
        self._format = format_
        self._names = names
        self._after_name = _split_at_id(_after_name(format_))
        self._call_open = split_marker(format_.call_open)

    def first(self, text: str, at: int) -> Head | int:
        """The head of a first call, its section's opening included; MORE or NO."""
        at = match_parts(text, at, split_marker(self._format.section_open))
        return at if at < 0 else self.next(text, at)

    def next(self, text: str, at: int) -> Head | int:
        """The head of a call, from call_open on; MORE or NO."""
        at = match_parts(text, at, self._call_open)
        if at < 0:
            return at
        at = skip_space(text, at)
        if isinstance(self._format.body, ObjectCall):
            head = _read_object(text, at, self._format.body)
        else:
            head = self._read_named(text, at)
        is_certain = not self._format.is_bare and not isinstance(self._format.body, PythonCall)
        return NO if isinstance(head, Head) and not is_certain and head.name not in self._names else head

    def _read_named(self, text: str, at: int) -> Head | int:  # noqa: PLR0911  one exit for each way to be undecided
        found = _NAME.match(text, at)
        if found is None:
            return MORE if at == len(text) else NO
        end = found.end()
        if end == len(text):
            return MORE
        before_id, after_id = self._after_name
        cut = text.rfind(before_id[0], at, end) if before_id else -1
        if cut > at:  # a marker of characters that names have too
            end = cut
        name, end, id_ = text[at:end], match_parts(text, end, before_id), None
        if end >= 0 and after_id is not None:
            found = _ID.match(text, skip_space(text, end))
            if found is None or found.end() == len(text):
                return MORE if found is not None or end == len(text) else NO
            id_, end = found[0], match_parts(text, found.end(), after_id)
        if end < 0:
            return end
        if not isinstance(self._format.body, NamedCall):
            return Head(name, end)
        end = skip_space(text, end)
        if end == len(text):
            return MORE
        return Head(name, end, id=id_) if text[end] == "{" else NO


def _after_name(format_: ToolFormat) -> str:
    return "" if isinstance(format_.body, ObjectCall) else format_.body.after_name


def _split_at_id(literal: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The parts before the id, and those after it; None where no id is written."""
    before, mark, after = literal.partition(ID_MARK)
    return split_marker(before), split_marker(after) if mark else None


def _read_object(text: str, at: int, body: ObjectCall) -> Head | int:  # noqa: PLR0911  as above
    """The object that begins at `at`, up to its arguments."""
    if not text.startswith("{", at):
        return MORE if at >= len(text) else NO
    at, name, early = at + 1, "", None
    while True:
        key, at = _read_key(text, at)
        if at < 0:
            return at
        if key is None:
            return Head(name, at, early or "{}", is_closed=True) if name else NO
        if key == body.arguments_key and name:
            return MORE if at == len(text) else Head(name, at)
        end = skip_value(text, at)
        if end < 0:
            return end
        if key == body.name_key:
            name, _ = read_string(text, at)
            if not name:
                return NO
        elif key == body.arguments_key:
            early = arguments_of(text[at:end])
        if name and early is not None:
            return Head(name, end, early)
        at = end


def _read_key(text: str, at: int) -> tuple[str | None, int]:
    """A key, after a comma perhaps, and where its value begins; None and where the object ends; MORE or NO."""
    at = skip_space(text, at)
    if text.startswith(",", at):
        at = skip_space(text, at + 1)
    if text.startswith("}", at):
        return None, at + 1
    key, at = read_string(text, at)
    at = at if at < 0 else match_parts(text, at, (":",))
    return key, at if at < 0 else skip_space(text, at)


def arguments_of(value: str) -> str:
    """Arguments that are JSON in a string as the JSON itself; null as none."""
    if value.startswith('"'):
        value, _ = read_string(value, 0)
        return value
    return "{}" if value == "null" else value
