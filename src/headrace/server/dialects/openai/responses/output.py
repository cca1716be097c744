"""Chunks into a response's output items, and into the events that tell how the items come about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from headrace.server.dialects.base import JsonObject
from headrace.server.dialects.openai.responses.items import encode_thought
from headrace.server.stored.folder import new_id
from headrace.types import ToolCallDelta


class TextItem:
    """A message or a thought while it is made: one part of text, which grows."""

    def __init__(self, index: int, *, is_thought: bool, is_encoded: bool = False) -> None:
        self.index = index
        self.is_thought = is_thought
        self.id = new_id("rs_" if is_thought else "msg_")
        self._is_encoded = is_encoded
        self._texts: list[str] = []
        self._logprobs: list[JsonObject] = []
        self._unsent: list[JsonObject] = []
        self._name = "response.reasoning_text" if is_thought else "response.output_text"

    def open(self) -> list[JsonObject]:
        """The events with which it begins."""
        begun = self.item("in_progress") | {"content": []}
        return [
            {"type": "response.output_item.added", "output_index": self.index, "item": begun},
            {"type": "response.content_part.added", **self._place(), "part": self._part("", [])},
        ]

    def push(self, text: str, logprobs: Sequence[JsonObject] = ()) -> list[JsonObject]:
        """More of it; log-probabilities of tokens without text go with the text that follows."""
        self._logprobs.extend(logprobs)
        self._unsent.extend(logprobs)
        if not text:
            return []
        self._texts.append(text)
        event = {"type": f"{self._name}.delta", **self._place(), "delta": text}
        if not self.is_thought:
            event["logprobs"], self._unsent = self._unsent, []
        return [event]

    def close(self, status: str) -> list[JsonObject]:
        """The events with which it ends."""
        text = "".join(self._texts)
        shown = {} if self.is_thought else {"logprobs": self._logprobs}
        part = self._part(text, self._logprobs)
        return [
            {"type": f"{self._name}.done", **self._place(), "text": text, **shown},
            {"type": "response.content_part.done", **self._place(), "part": part},
            {"type": "response.output_item.done", "output_index": self.index, "item": self.item(status)},
        ]

    def item(self, status: str) -> JsonObject:
        """It as it stands."""
        text = "".join(self._texts)
        content = [self._part(text, self._logprobs)]
        if not self.is_thought:
            return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}
        item = {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}
        return item | ({"encrypted_content": encode_thought(text)} if self._is_encoded else {})

    def _place(self) -> JsonObject:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def _part(self, text: str, logprobs: list[JsonObject]) -> JsonObject:
        if self.is_thought:
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class CallItem:
    """A function call while it is made."""

    def __init__(self, index: int, delta: ToolCallDelta) -> None:
        self.index = index
        self.call_index = delta.index
        self.id = new_id("fc_")
        self._call_id = delta.id or new_id("call_")
        self._name = delta.name or ""
        self._arguments: list[str] = []

    def open(self) -> list[JsonObject]:
        """The event with which it begins."""
        return [{"type": "response.output_item.added", "output_index": self.index, "item": self.item("in_progress")}]

    def push(self, arguments: str) -> list[JsonObject]:
        """More of its arguments."""
        if not arguments:
            return []
        self._arguments.append(arguments)
        return [{"type": "response.function_call_arguments.delta", **self._place(), "delta": arguments}]

    def close(self, status: str) -> list[JsonObject]:
        """The events with which it ends."""
        done = {"name": self._name, "arguments": "".join(self._arguments)}
        return [
            {"type": "response.function_call_arguments.done", **self._place(), **done},
            {"type": "response.output_item.done", "output_index": self.index, "item": self.item(status)},
        ]

    def item(self, status: str) -> JsonObject:
        """It as it stands."""
        called = {"call_id": self._call_id, "name": self._name, "arguments": "".join(self._arguments)}
        return {"id": self.id, "type": "function_call", "status": status, **called}

    def _place(self) -> JsonObject:
        return {"item_id": self.id, "output_index": self.index}


_ItemT = TypeVar("_ItemT", TextItem, CallItem)


class Output:
    """All items of a response, one after another: what begins ends the one before it.

    White space alone begins no message: it is held back until there is more, and dropped before a call.
    """

    def __init__(self, *, is_encoded: bool) -> None:
        self._is_encoded = is_encoded
        self._done: list[JsonObject] = []
        self._open: TextItem | CallItem | None = None
        self._held = ""
        self._held_logprobs: list[JsonObject] = []

    def think(self, text: str) -> list[JsonObject]:
        """More of a thought."""
        if not text:
            return []
        events: list[JsonObject] = []
        item = self._open
        if not (isinstance(item, TextItem) and item.is_thought):
            events, item = self._begin(TextItem(self._next_index(), is_thought=True, is_encoded=self._is_encoded))
        return events + item.push(text)

    def say(self, text: str, logprobs: Sequence[JsonObject]) -> list[JsonObject]:
        """More of the answer's text."""
        item = self._open
        if isinstance(item, TextItem) and not item.is_thought:
            return item.push(text, logprobs)
        self._held += text
        self._held_logprobs.extend(logprobs)
        return self._say_held() if self._held.strip() else []

    def call(self, delta: ToolCallDelta) -> list[JsonObject]:
        """More of a call."""
        events: list[JsonObject] = []
        item = self._open
        if not (isinstance(item, CallItem) and item.call_index == delta.index):
            events, item = self._begin(CallItem(self._next_index(), delta))
            self._held, self._held_logprobs = "", []
        return events + item.push(delta.arguments)

    def finish(self, status: str) -> list[JsonObject]:
        """The end: `status` is that of the last item. There is always a message or a call."""
        events: list[JsonObject] = []
        kinds = {item["type"] for item in self.items("")} - {"reasoning"}
        if not kinds:
            events = self._say_held()
        return events + self._end(status)

    def items(self, status: str) -> list[JsonObject]:
        """All items as they stand; `status` is that of the one that has not ended."""
        return self._done if self._open is None else [*self._done, self._open.item(status)]

    def _say_held(self) -> list[JsonObject]:
        events, item = self._begin(TextItem(self._next_index(), is_thought=False))
        text, logprobs = self._held, self._held_logprobs
        self._held, self._held_logprobs = "", []
        return events + item.push(text, logprobs)

    def _begin(self, item: _ItemT) -> tuple[list[JsonObject], _ItemT]:
        events = self._end("completed")
        self._open = item
        return events + item.open(), item

    def _end(self, status: str) -> list[JsonObject]:
        if self._open is None:
            return []
        events = self._open.close(status)
        self._done.append(self._open.item(status))
        self._open = None
        return events

    def _next_index(self) -> int:
        return len(self._done) + (self._open is not None)
