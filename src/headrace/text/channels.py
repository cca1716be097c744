"""Answers that are a sequence of messages, each with a header that says what it is: OpenAI's harmony, functionary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from headrace.text.reasoning import Thought
from headrace.text.tools.format import new_call_id
from headrace.text.tools.scan import num_held
from headrace.types import ToolCallDelta

Piece: TypeAlias = Thought | str | ToolCallDelta

_LONGEST_HEADER = 512


class _Kind(Enum):
    CONTENT = 0
    THOUGHT = 1
    CALL = 2


@dataclass(frozen=True, slots=True)
class ChannelFormat:
    """An answer is HEADER header_end BODY body_end HEADER … ; the prompt ends inside the first header."""

    header_end: str
    body_ends: tuple[str, ...]
    call: str
    """Regular expression that finds a header of a tool call; its group `name` is the tool"""
    thought: str
    """Regular expression that finds a header of a thought; what is neither is content"""
    call_header: str
    """Begins a call at the beginning of an answer, as the template writes it; {name} stands for the tool"""
    call_end: str
    closing: str
    """Closes a thought and begins the answer"""

    @property
    def has_thoughts(self) -> bool:
        """Whether some messages are thoughts."""
        return bool(self.closing)

    @property
    def markers(self) -> tuple[str, ...]:
        """All literals, in which special tokens may stand that have to stay in the text."""
        return (self.header_end, *self.body_ends, self.call_header, self.closing)


HARMONY = ChannelFormat(
    header_end="<|message|>",
    body_ends=("<|end|>", "<|call|>", "<|return|>", "<|start|>"),
    call=r"to=functions\.(?P<name>[^\s<]+)",
    thought=r"<\|channel\|>analysis",
    call_header=" to=functions.{name}<|channel|>commentary json<|message|>",
    call_end="<|call|>",
    closing="<|end|><|start|>assistant<|channel|>final<|message|>",
)
"""https://cookbook.openai.com/articles/openai-harmony"""

FUNCTIONARY = ChannelFormat(
    header_end="\n",
    body_ends=(">>>",),
    call=r"^\s*(?!all\s*$)(?P<name>\S+)\s*$",
    thought=r"(?!)",
    call_header="{name}\n",
    call_end="",
    closing="",
)
"""functionary v3.2: >>>all or >>>NAME, a line end, then text or arguments"""


def find_channels(sources: Sequence[str]) -> ChannelFormat | None:
    """The format of a template that shows its marks; None for all others."""
    for source in sources:
        if "<|channel|>" in source and "<|message|>" in source and "analysis" in source:
            return HARMONY
        if ">>>all" in source:
            return FUNCTIONARY
    return None


class ChannelReader:
    """Reads one answer, however its text is cut. Messages of one kind are joined by a line end."""

    def __init__(self, format_: ChannelFormat) -> None:
        self._format = format_
        self._buffer = ""
        self._is_last = False
        self._pieces: list[Piece] = []
        self._num_calls = 0
        self._kind = _Kind.CONTENT
        self._has_said: set[_Kind] = set()
        self._is_first_of_body = True
        self._state = self._header
        self.in_thought = False
        """Whether the text so far ends inside a thought"""

    def push(self, text: str) -> list[Piece]:
        """What is final after this text."""
        self._buffer += text
        while self._state():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def flush(self) -> list[Piece]:
        """The rest, when no more text comes."""
        self._is_last = True
        return self.push("")

    def _header(self) -> bool:
        end = self._buffer.find(self._format.header_end, 0, _LONGEST_HEADER)
        if end < 0:
            if len(self._buffer) < _LONGEST_HEADER and not (self._is_last and self._buffer):
                return False
            self._begin("", 0)  # a model that writes no headers
            return True
        header = self._buffer[:end]
        for mark in self._format.body_ends:  # of a header that was broken off
            header = header.rpartition(mark)[2]
        self._begin(header, end + len(self._format.header_end))
        return True

    def _begin(self, header: str, end: int) -> None:
        self._buffer = self._buffer[end:]
        self._state, self._is_first_of_body = self._body, True
        call = re.search(self._format.call, header) if header else None
        if call is not None:
            self._kind, self._num_calls = _Kind.CALL, self._num_calls + 1
            self._pieces.append(ToolCallDelta(self._num_calls - 1, new_call_id(), call["name"]))
        else:
            self._kind = _Kind.THOUGHT if re.search(self._format.thought, header) else _Kind.CONTENT
        self.in_thought = self._kind is _Kind.THOUGHT

    def _body(self) -> bool:
        found = [(at, mark) for mark in self._format.body_ends if (at := self._buffer.find(mark)) >= 0]
        if found:
            end, mark = min(found)
            self._say(self._buffer[:end].rstrip())
            self._buffer = self._buffer[end + len(mark) :]
            self._state, self.in_thought = self._header, False
            return True
        text = self._buffer
        if not self._is_last:
            text = text[: len(text) - max(num_held(text, mark) for mark in self._format.body_ends)].rstrip()
        self._say(text)
        self._buffer = self._buffer[len(text) :]
        return False

    def _say(self, text: str) -> None:
        if not text:
            return
        kind = self._kind
        if kind is _Kind.CALL:
            self._pieces.append(ToolCallDelta(self._num_calls - 1, arguments=text))
            return
        if self._is_first_of_body and kind in self._has_said:
            text = f"\n{text}"
        self._is_first_of_body = False
        self._has_said.add(kind)
        self._pieces.append(Thought(text) if kind is _Kind.THOUGHT else text)
