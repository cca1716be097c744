"""Chunks into a response: its object, or the events of its stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.logprobs import TokenNames, chat_logprobs
from headrace.server.dialects.openai.render import padded
from headrace.server.dialects.openai.responses.output import Output
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, FinishReason, RequestOutput, ToolCallDelta, Usage

_CANCELLED = 503
"""The status of what is said to a stream that is cut off"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """What of a request its response depends on."""

    id: str
    created_at: int
    echo: JsonObject
    """The fields that say what was asked"""
    is_background: bool = False
    logprobs: int | None = None
    """Most likely tokens shown for each position; None shows no log-probabilities"""
    is_encoded: bool = False
    """Thoughts have an encrypted_content"""
    obfuscation: bool = False
    keep: Callable[[JsonObject], None] | None = None
    """Gets the response when it is finished; None keeps nothing"""


class ResponseRenderer:
    """POST /v1/responses."""

    stream_media_type = sse.MEDIA_TYPE

    def __init__(self, served: Served, plan: ResponsePlan) -> None:
        self._plan = plan
        self._names = TokenNames(served)
        self._output = Output(is_encoded=plan.is_encoded)
        self._number = 0
        self._finish_reason: str | None = None
        self._is_calling = False

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """The response, without any output yet."""
        response = response_object(self._plan, "in_progress")
        return self._events(
            [{"type": "response.created", "response": response}, {"type": "response.in_progress", "response": response}]
        )

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], _progress: Sequence[Progress]) -> bytes:
        """The events of one step."""
        assert prompt_index == 0  # a response has one prompt
        return self._events([event for chunk in chunks for event in self._push(chunk)])

    def end(self, progress: Sequence[Progress]) -> bytes:
        """The last item's end, and the response as a whole."""
        events = self._output.finish(self._status)
        response = self._finished(progress[0].usage)
        return self._events([*events, {"type": f"response.{self._status}", "response": response}])

    def failure(self, failure: Failure) -> bytes:
        """The response with its error. What was cut off because nobody waits for it is not kept."""
        error = {"code": "server_error", "message": failure.message}
        output = self._output.items("incomplete")
        response = response_object(self._plan, "failed", error=error, output=output)
        if failure.status != _CANCELLED or self._plan.is_background:
            self._keep(response)
        return self._events([{"type": "response.failed", "response": response}])

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The response object."""
        [output] = outputs[0].outputs
        self._push(_as_chunk(output))
        self._output.finish(self._status)
        return encode(self._finished(outputs[0].usage))

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish_reason == FinishReason.LENGTH else "completed"

    def _push(self, chunk: Chunk) -> list[JsonObject]:
        events = self._output.think(chunk.reasoning)
        logprobs = self._logprobs(chunk)
        if chunk.text or logprobs:
            events += self._output.say(chunk.text, logprobs)
        for delta in chunk.tool_calls:
            self._is_calling = True
            events += self._output.call(delta)
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        return events

    def _logprobs(self, chunk: Chunk) -> list[JsonObject]:
        """Those of the text: a thought's tokens come first, and what calls consist of is not shown."""
        if self._plan.logprobs is None or not chunk.logprobs or self._is_calling:
            return []
        start = chunk.num_reasoning_tokens
        shown = chat_logprobs(chunk.token_ids[start:], chunk.logprobs[start:], self._plan.logprobs, self._names)
        content: list[JsonObject] = shown["content"]
        return content

    def _finished(self, usage: Usage) -> JsonObject:
        response = response_object(self._plan, self._status, output=self._output.items("completed"), usage=usage)
        self._keep(response)
        return response

    def _keep(self, response: JsonObject) -> None:
        if self._plan.keep is not None:
            self._plan.keep(response)

    def _events(self, events: Sequence[JsonObject]) -> bytes:
        framed = []
        for fields in events:
            kind = fields["type"]
            data = encode({"type": kind, "sequence_number": self._number, **fields})
            self._number += 1
            event = b"event: %b\n%b" % (kind.encode(), sse.event(data))
            framed.append(padded(event) if self._plan.obfuscation and kind.endswith(".delta") else event)
        return b"".join(framed)


def response_object(
    plan: ResponsePlan,
    status: str,
    *,
    output: Sequence[JsonObject] = (),
    error: JsonObject | None = None,
    usage: Usage | None = None,
) -> JsonObject:
    """A response as clients get it."""
    return {
        "id": plan.id,
        "object": "response",
        "created_at": plan.created_at,
        "status": status,
        "completed_at": int(time.time()) if status == "completed" else None,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": list(output),
        "usage": None if usage is None else _usage(usage),
        **plan.echo,
    }


def _usage(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},  # none is asked for
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _as_chunk(output: CompletionOutput) -> Chunk:
    """A whole completion as if it had come in one step."""
    return Chunk(
        output.index,
        output.text,
        output.token_ids,
        output.logprobs,
        None if output.finish_reason is None else FinishReason(output.finish_reason),
        reasoning=output.reasoning,
        tool_calls=[
            ToolCallDelta(index, call.id, call.name, call.arguments) for index, call in enumerate(output.tool_calls)
        ],
        num_reasoning_tokens=output.num_reasoning_tokens,
    )
