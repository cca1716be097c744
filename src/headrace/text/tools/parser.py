"""Reads tool calls out of a text that comes in pieces.

What comes out does not depend on how the text is cut: every decision is taken when the characters that it needs are
there, and on these alone. Text that could still begin a call is held back, and so are the spaces before it.

A call counts from the moment that its name is known; text that looked like one up to there is content. After that its
arguments are given as the model writes them, even if it breaks off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from headrace.text.tools.format import ObjectCall, PythonCall, TaggedCall, ToolFormat
from headrace.text.tools.head import Head, HeadReader, arguments_of
from headrace.text.tools.python import PythonArguments
from headrace.text.tools.scan import MORE, JsonValue, match_parts, num_held, skip_space, skip_value, split_marker
from headrace.text.tools.tagged import TaggedArguments
from headrace.types import ToolCallDelta

Piece: TypeAlias = "str | ToolCallDelta"


class ToolParser:
    """Use once. `tools` are the parameter schemas by name."""

    def __init__(self, format_: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self._format = format_
        self._tools = tools
        self._heads = HeadReader(format_, tools)
        self._close = split_marker(format_.call_close)
        self._separator = split_marker(format_.separator)
        self._section_close = split_marker(format_.section_close)
        self._optional_open = split_marker(format_.optional_open)
        self._buffer = ""
        self._is_last = False
        self._num_calls = 0
        self._next_number = 0
        self._pieces: list[Piece] = []
        self._json = JsonValue()
        self._translator: TaggedArguments | PythonArguments | None = None
        self._state = self._start if format_.is_bare else self._content

    def push(self, text: str) -> list[Piece]:
        """What is final after this text: pieces of content, and of calls."""
        self._buffer += text
        while self._state():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def flush(self) -> list[Piece]:
        """The rest, when no more text comes."""
        self._is_last = True
        return self.push("")

    def _take(self, end: int) -> str:
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        return taken

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(text)

    def _start(self) -> bool:
        """The beginning of an answer in a format whose calls are bare."""
        at = match_parts(self._buffer, 0, self._optional_open) if self._optional_open else 0
        head = self._heads.first(self._buffer, max(at, 0))
        if MORE in (at, head):
            if not self._is_last:
                return False
        elif isinstance(head, Head):
            return self._open(head)
        self._state = self._rest
        return True

    def _rest(self) -> bool:
        """Content to the end."""
        self._say(self._take(len(self._buffer)))
        return False

    def _content(self) -> bool:
        """Content up to what may be a call."""
        text, trigger = self._buffer, self._format.trigger
        at = text.find(trigger)
        if at < 0:
            held = 0 if self._is_last else num_held(text, trigger)
            shown = text[: len(text) - held]
            self._say(self._take(len(shown if self._is_last else shown.rstrip())))
            return False
        head = self._heads.first(text, at)
        if head == MORE and not self._is_last:
            self._say(self._take(len(text[:at].rstrip())))
            return False
        if isinstance(head, Head):
            self._say(self._take(at).rstrip())
            return self._open(replace(head, end=head.end - at))
        self._say(self._take(at + len(trigger)))
        return True

    def _open(self, head: Head) -> bool:
        """Start a call; the buffer begins with its head."""
        index, self._num_calls = self._num_calls, self._num_calls + 1
        self._take(head.end)
        self._pieces.append(ToolCallDelta(index, self._id(head, index), head.name, head.early or ""))
        if head.is_closed:
            self._state = self._after_call
        elif head.early is not None:
            self._json, self._state = JsonValue(depth=1), self._rest_of_object
        elif isinstance(self._format.body, TaggedCall):
            self._translator = TaggedArguments(self._format.body, self._tools.get(head.name, {}))
            self._state = self._translated_arguments
        elif isinstance(self._format.body, PythonCall):
            self._translator, self._state = PythonArguments(), self._translated_arguments
        else:
            self._json, self._state = JsonValue(), self._arguments
        return True

    def _id(self, head: Head, index: int) -> str:
        """As the model numbers its calls, but never the same twice."""
        number = int(head.id) if head.id is not None and head.id.isascii() and head.id.isdecimal() else index
        self._next_number = max(number, self._next_number) + 1
        return self._format.new_id(head.name, self._next_number - 1)

    def _argue(self, text: str) -> None:
        if text:
            self._pieces.append(ToolCallDelta(self._num_calls - 1, arguments=text))

    def _arguments(self) -> bool:
        """Arguments as JSON: an object, which is given out as it comes; or text that holds one; or null."""
        if not self._buffer:
            return False
        if not self._json.has_begun and self._buffer[0] not in "{[":
            end = skip_value(self._buffer, 0)
            if end == MORE:
                return False
            self._argue(arguments_of(self._take(max(end, 0))) if end > 0 else "{}")
        else:
            self._argue(self._take(self._json.push(self._buffer)))
            if not self._json.has_ended:
                return False
        is_object = isinstance(self._format.body, ObjectCall)
        self._json, self._state = JsonValue(depth=1), self._rest_of_object if is_object else self._after_call
        return True

    def _rest_of_object(self) -> bool:
        """Whatever else stands in a call's object, such as its id."""
        self._take(self._json.push(self._buffer))
        if self._json.has_ended:
            self._state = self._after_call
        return self._json.has_ended

    def _translated_arguments(self) -> bool:
        """Arguments in another notation, which come out as JSON."""
        translator = self._translator
        assert translator is not None
        self._take(translator.skip_space(self._buffer))
        if not self._buffer and not self._is_last:
            return False
        text, end = translator.push(self._buffer)
        self._argue(text)
        self._take(end)
        if translator.has_ended:
            self._state = self._after_call
        return bool(end) or translator.has_ended

    def _after_call(self) -> bool:
        at = match_parts(self._buffer, 0, self._close)
        if at == MORE and not self._is_last:
            return False
        self._take(max(at, 0))
        self._state = self._between
        return True

    def _between(self) -> bool:
        """After a call: another one, the section's end, or content again."""
        text = self._buffer
        separated = match_parts(text, 0, self._separator)
        closed = match_parts(text, 0, self._section_close) if self._section_close else 0
        heads = [self._heads.next(text, at) for at in dict.fromkeys((separated, 0)) if at >= 0]
        found = next((head for head in heads if isinstance(head, Head)), None)
        if found is not None:
            return self._open(found)
        if self._section_close and closed >= 0:
            self._take(closed)
        elif not self._is_last and MORE in (separated, closed, *heads):
            return False
        self._take(skip_space(self._buffer, 0))
        if not self._buffer and not self._is_last:
            return False
        self._state = self._rest if self._format.is_bare else self._content
        return True
