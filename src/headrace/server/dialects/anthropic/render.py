"""Chunks into a message of Anthropic's, whole or as its stream of events.

A streamed token is one bytes-formatting of its block's head.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.anthropic import thoughts
from headrace.server.dialects.anthropic.broken_json import read_object
from headrace.server.dialects.anthropic.errors import render_failure
from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.errors import Failure
from headrace.types import Chunk, FinishReason, RequestOutput, ToolCallDelta, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    max_tokens: int
    """As asked for; with 0 what was drawn is not shown"""
    omits_thoughts: bool = False
    """Thinking blocks have a signature, and no text."""
    request_id: str = ""


_TEXT, _THINKING, _TOOL_USE = "text", "thinking", "tool_use"


class MessageRenderer:
    """POST /v1/messages. Blocks of a stream come one after the other: thinking, text, tool_use."""

    stream_media_type = sse.MEDIA_TYPE

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self._served = served
        self._options = options
        self._id = f"msg_{secrets.token_hex(12)}"
        self._index = -1
        """Of the block that is open, or was the last one"""
        self._open: str | None = None
        """Its type; None when none is open"""
        self._thought: list[str] = []
        """What of it is not shown"""
        self._has_called = False
        self._last: Chunk | None = None
        """The chunk that ended the answer"""

    def begin(self, progress: Sequence[Progress]) -> bytes:
        """The message without content."""
        message = self._message([], None, None, progress[0].usage)
        return _event({"type": "message_start", "message": message}) + _event({"type": "ping"})

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], _progress: Sequence[Progress]) -> bytes:
        """Deltas of the blocks, which are opened and closed as it needs."""
        assert prompt_index == 0  # a message has one prompt
        for chunk in chunks:
            if chunk.finish_reason is not None:
                self._last = chunk
        if not self._options.max_tokens:
            return b""
        return b"".join([self._chunk(chunk) for chunk in chunks])

    def end(self, progress: Sequence[Progress]) -> bytes:
        """The reason why it ended, and the usage."""
        assert self._last is not None
        usage = progress[0].usage
        reason, sequence = self._stop(self._last.finish_reason, self._last.stop_reason, self._has_called, usage)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        closing = _event({"type": "message_delta", "delta": delta, "usage": self._usage(usage)})
        return self._close() + closing + _event({"type": "message_stop"})

    def failure(self, failure: Failure) -> bytes:
        """An error event; clients raise on it."""
        named = Failure(failure.status, failure.message, failure.param, failure.code, self._options.request_id)
        return sse.named_event(b"error", render_failure(named))

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The message object."""
        output, usage = outputs[0].outputs[0], outputs[0].usage
        content: list[JsonObject] = []
        if output.reasoning:
            hides = self._options.omits_thoughts
            signature = thoughts.hide(output.reasoning) if hides else thoughts.SHOWN
            shown = "" if hides else output.reasoning
            content.append({"type": _THINKING, "thinking": shown, "signature": signature})
        if output.text:
            content.append({"type": _TEXT, "text": output.text, "citations": None})
        for call in output.tool_calls:
            arguments = read_object(call.arguments)
            content.append({"type": _TOOL_USE, "id": call.id, "name": call.name, "input": arguments})
        if not self._options.max_tokens:
            content = []
        reason, sequence = self._stop(output.finish_reason, output.stop_reason, bool(output.tool_calls), usage)
        return encode(self._message(content, reason, sequence, usage))

    def _message(
        self, content: list[JsonObject], stop_reason: str | None, stop_sequence: str | None, usage: Usage
    ) -> JsonObject:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._served.name,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": self._usage(usage) | {"service_tier": "standard"},
        }

    def _usage(self, usage: Usage) -> JsonObject:
        """What came from the prefix cache is counted apart; what goes into it costs nothing, and is not."""
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens if self._options.max_tokens else 0,
            "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        }

    def _stop(
        self, finish_reason: str | None, stop_reason: int | str | None, has_calls: bool, usage: Usage
    ) -> tuple[str, str | None]:
        """The stop_reason, and the stop_sequence that was met."""
        if finish_reason == FinishReason.LENGTH:
            is_short = usage.completion_tokens < self._options.max_tokens
            return "model_context_window_exceeded" if is_short else "max_tokens", None
        if isinstance(stop_reason, str):
            return "stop_sequence", stop_reason
        return "tool_use" if has_calls else "end_turn", None

    def _chunk(self, chunk: Chunk) -> bytes:
        events: list[bytes] = []
        if chunk.reasoning:
            events.append(self._opened(_THINKING, {"thinking": "", "signature": ""}))
            if self._options.omits_thoughts:
                self._thought.append(chunk.reasoning)
            else:
                events.append(self._delta(b'"thinking_delta","thinking"', chunk.reasoning))
        if chunk.text:
            events.append(self._opened(_TEXT, {"text": "", "citations": None}))
            events.append(self._delta(b'"text_delta","text"', chunk.text))
        events += [self._call(delta) for delta in chunk.tool_calls]
        return b"".join(events)

    def _call(self, delta: ToolCallDelta) -> bytes:
        start = b""
        if delta.id is not None:
            self._has_called = True
            block: JsonObject = {"id": delta.id, "name": delta.name, "input": {}}
            start = self._close() + self._opened(_TOOL_USE, block)
        if not delta.arguments:
            return start
        return start + self._delta(b'"input_json_delta","partial_json"', delta.arguments)

    def _delta(self, kind_and_key: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b:%b}}\n\n'
            % (self._index, kind_and_key, encode(text))
        )

    def _opened(self, kind: str, block: JsonObject) -> bytes:
        """The start of such a block, unless one is open."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._open = kind
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": {"type": kind, **block}}
        return closing + _event(start)

    def _close(self) -> bytes:
        """The end of the block that is open."""
        if self._open is None:
            return b""
        signing = b""
        if self._open == _THINKING:
            signature = thoughts.hide("".join(self._thought)) if self._options.omits_thoughts else thoughts.SHOWN
            signing = self._delta(b'"signature_delta","signature"', signature)
            self._thought.clear()
        self._open = None
        return signing + _event({"type": "content_block_stop", "index": self._index})


def _event(event: JsonObject) -> bytes:
    return sse.named_event(event["type"].encode(), encode(event))
