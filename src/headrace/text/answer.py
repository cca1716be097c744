"""What a model's answers to a chat consist of: a thought, content, tool calls; and how they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from headrace.text.channels import ChannelFormat, ChannelReader, find_channels
from headrace.text.chat import ChatTemplate
from headrace.text.reasoning import ReasoningFormat, Thought, ThoughtSplitter, derive_reasoning
from headrace.text.tools.definitions import Tools
from headrace.text.tools.derive import derive_format
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.known import find_known
from headrace.text.tools.parser import ToolParser
from headrace.types import ToolCallDelta

Piece: TypeAlias = Thought | str | ToolCallDelta
"""A piece of the thought, of the content, or of a call"""

_MAY_OPEN_CALLS: Mapping[str, str] = {
    "<|python_tag|>": "<|python_tag|>",  # Llama 3
    "<|header_start|>": "<|python_start|>",  # Llama 4
}
"""Marks by what shows the family: models put them before calls that their templates write bare"""


class AnswerReader(Protocol):
    """Takes one answer apart as its text comes. However the text is cut, the pieces together say the same."""

    @property
    def in_thought(self) -> bool:
        """Whether the text so far ends inside the thought."""

    def push(self, text: str) -> list[Piece]:
        """What is final after this text, in order."""

    def flush(self) -> list[Piece]:
        """The rest, when no more text comes."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How a model writes its answers: in channels, or a thought between marks and calls in a format."""

    reasoning: ReasoningFormat | None = None
    tools: ToolFormat | None = None
    channels: ChannelFormat | None = None

    @property
    def has_thoughts(self) -> bool:
        """Whether the model may think before it answers."""
        return self.reasoning is not None or (self.channels is not None and self.channels.has_thoughts)

    @property
    def has_calls(self) -> bool:
        """Whether it is known how the model calls tools."""
        return self.tools is not None or self.channels is not None

    def opens_thought(self, prompt: str) -> bool:
        """Whether a prompt ends inside a thought that the template, or the message to go on with, has opened."""
        return self.reasoning is not None and self.reasoning.is_open_after(prompt)

    def closes_thought(self, prompt: str) -> bool:
        """Whether a prompt ends behind a thought, as templates write it for models that are not to think."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.close)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers of one request are read: all that a reader is made from."""

    format: AnswerFormat
    in_thought: bool = False
    """The prompt ends inside a thought"""
    has_closed: bool = False
    """The prompt ends behind a thought: none follows"""
    tools: Mapping[str, Mapping[str, Any]] | None = None
    """Parameter schemas of the tools by name; None if calls are not looked for"""
    asked: Tools | None = None
    """The tools of the request, for the grammar of the calls"""
    budget: int | None = None
    """Most tokens of the thought, where the request does not say itself"""

    def reader(self) -> AnswerReader | None:
        """A reader for one answer; None if there is nothing to tell apart."""
        if self.format.channels is not None:
            return ChannelReader(self.format.channels)
        has_calls = self.tools is not None and self.format.tools is not None
        if self.format.reasoning is None and not has_calls:
            return None
        return _MarkedReader(self)

    @property
    def is_open_ended(self) -> bool:
        """Whether tools may be called and need not be: the answer may be any text."""
        return self.asked is not None and self.asked.choice != "required"

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that the reader has to see; special tokens in them must stay in the text."""
        format_ = self.format
        calls = format_.tools.markers if format_.tools is not None and self.tools is not None else ()
        thoughts = format_.reasoning.markers if format_.reasoning is not None else ()
        return (*thoughts, *calls, *(format_.channels.markers if format_.channels is not None else ()))


def answer_format(template: ChatTemplate) -> AnswerFormat:
    """Read a model's format off its chat template."""
    sources = tuple(template.sources.values())
    channels = find_channels(sources)
    if channels is not None:
        return AnswerFormat(channels=channels)

    def render(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        return template.render(messages, add_generation_prompt=False, template_kwargs=variables)

    def render_tools(
        messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, is_open: bool
    ) -> str:
        return template.render(messages, tools, add_generation_prompt=is_open)

    reasoning = derive_reasoning(render, sources)
    tools = derive_format(render_tools, () if reasoning is None else (reasoning.open, reasoning.close))
    tools = tools or find_known(sources)
    if tools is not None and tools.is_bare:
        opens = (mark for sign, mark in _MAY_OPEN_CALLS.items() if any(sign in source for source in sources))
        tools = replace(tools, optional_open=next(opens, ""))
    return AnswerFormat(reasoning, tools if template.reads("tools") else None)


class _MarkedReader:
    """A thought between marks, then content and calls."""

    def __init__(self, reading: Reading) -> None:
        format_ = reading.format
        self._thought = (
            None if format_.reasoning is None else ThoughtSplitter(format_.reasoning, in_thought=reading.in_thought)
        )
        self._calls = (
            None if format_.tools is None or reading.tools is None else ToolParser(format_.tools, reading.tools)
        )

    @property
    def in_thought(self) -> bool:
        """See AnswerReader."""
        return self._thought is not None and self._thought.in_thought

    def push(self, text: str) -> list[Piece]:
        """See AnswerReader."""
        return self._parse([text] if self._thought is None else self._thought.push(text))

    def flush(self) -> list[Piece]:
        """See AnswerReader."""
        pieces = self._parse([] if self._thought is None else self._thought.flush())
        return pieces if self._calls is None else [*pieces, *self._calls.flush()]

    def _parse(self, said: Sequence[Thought | str]) -> list[Piece]:
        pieces: list[Piece] = []
        for each in said:
            if isinstance(each, Thought) or self._calls is None:
                pieces.append(each)
            else:
                pieces.extend(self._calls.push(each))
        return pieces
