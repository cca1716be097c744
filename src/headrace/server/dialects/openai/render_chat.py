"""Chunks into the answers of /v1/chat/completions, streamed or whole.

A thought goes into `reasoning_content` and `reasoning`, the names that clients of vLLM's releases read.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.json import encode

from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.logprobs import chat_logprobs
from headrace.server.dialects.openai.render import AnswerRenderer, RenderOptions, shown_prompt_logprobs
from headrace.types import Chunk, CompletionOutput, FinishReason, RequestOutput, ToolCallDelta

_TOOL_CALLS, _FUNCTION_CALL = "tool_calls", "function_call"
"""Where calls stand in an answer, and the finish_reason of one that ends with calls"""


class ChatRenderer(AnswerRenderer):
    """POST /v1/chat/completions."""

    id_prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, served: Served, options: RenderOptions) -> None:
        super().__init__(served, options)
        self._have_called: set[int] = set()  # choices whose stream has calls

    def begin(self, progress: Sequence[Progress]) -> bytes:
        """Each choice's role, and with echo the message that is continued; what is shown of the prompt comes first."""
        delta = encode({"role": self.options.role, "content": self.options.prefix})
        shown = b"".join(
            b',"%b":%b' % (key.encode(), encode(value)) for key, value in self._prompt(progress[0]).items()
        )
        tails = [b"]" + shown + self._tail[1:], *[self._tail] * (self.options.n - 1)]
        return b"".join(self._event(index, delta, tail) for index, tail in enumerate(tails))

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """One event for each chunk that says something."""
        assert prompt_index == 0  # a chat has one prompt
        tail = self._chunk_tail(progress)
        return b"".join([self._chunk(chunk, tail) for chunk in chunks if self._says_something(chunk)])

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The chat.completion object."""
        body = self._identity(self.kind)
        body["choices"] = [self._choice(choice) for choice in outputs[0].outputs]
        body["usage"] = self._usage(outputs)
        if self.options.prompt_logprobs is not None:
            body["prompt_logprobs"] = shown_prompt_logprobs(outputs[0], self.options.prompt_logprobs)
        return encode(body | self._prompt(outputs[0]))

    def _prompt(self, progress: Progress) -> JsonObject:
        """What was asked to see of it."""
        ids = {"prompt_token_ids": progress.prompt_token_ids} if self.options.token_ids else {}
        return ids | ({"prompt_text": progress.prompt} if self.options.prompt_text else {})

    def _chunk(self, chunk: Chunk, tail: bytes) -> bytes:
        delta = b'{"content":%b}' % encode(chunk.text) if chunk.text else b"{}"
        if chunk.reasoning or chunk.tool_calls:
            delta = encode(self._delta(chunk))
        logprobs = b"null"
        if self.options.logprobs is not None and chunk.token_ids:
            shown = chat_logprobs(chunk.token_ids, chunk.logprobs or [], self.options.logprobs, self._names)
            logprobs = encode(shown)
        reason = None
        if chunk.finish_reason is FinishReason.STOP and chunk.index in self._have_called:
            reason = self._reason(chunk.finish_reason)
        return self._event(chunk.index, delta, tail, logprobs, self._finish(chunk, reason))

    def _delta(self, chunk: Chunk) -> JsonObject:
        delta: JsonObject = self._reasoning(chunk.reasoning)
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            self._have_called.add(chunk.index)
            joined = _joined(chunk.tool_calls)
            if self.options.has_functions:
                delta[_FUNCTION_CALL] = _call_delta(joined[0])["function"]
            else:
                delta[_TOOL_CALLS] = [_call_delta(each) for each in joined]
        return delta

    def _reasoning(self, thought: str) -> JsonObject:
        if not thought or not self.options.include_reasoning:
            return {}
        return {"reasoning_content": thought, "reasoning": thought}

    def _reason(self, reason: str | None) -> str | None:
        """The finish_reason of an answer with calls."""
        if reason != FinishReason.STOP or self.options.is_call_named:
            return reason
        return _FUNCTION_CALL if self.options.has_functions else _TOOL_CALLS

    def _says_something(self, chunk: Chunk) -> bool:
        has_thought = chunk.reasoning and self.options.include_reasoning
        return bool(has_thought or chunk.tool_calls or super()._says_something(chunk))

    def _event(
        self, index: int, delta: bytes, tail: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> bytes:
        return self._framed(
            b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b'
            % (self._head, index, delta, logprobs, finish, tail)
        )

    def _choice(self, output: CompletionOutput) -> JsonObject:
        logprobs = None
        if self.options.logprobs is not None:
            logprobs = chat_logprobs(output.token_ids, output.logprobs or [], self.options.logprobs, self._names)
        content = self.options.prefix + output.text
        has_other = bool(output.tool_calls or output.reasoning)
        message: JsonObject = {
            "role": self.options.role,
            "content": None if has_other and not content else content,
            "refusal": None,
            **self._reasoning(output.reasoning),
        }
        if output.tool_calls and self.options.has_functions:
            called = output.tool_calls[0]
            message[_FUNCTION_CALL] = {"name": called.name, "arguments": called.arguments}
        elif output.tool_calls:
            message[_TOOL_CALLS] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in output.tool_calls
            ]
        return {
            "index": output.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._reason(output.finish_reason) if output.tool_calls else output.finish_reason,
            "stop_reason": output.stop_reason,
        } | ({"token_ids": output.token_ids} if self.options.token_ids else {})


def _joined(deltas: Sequence[ToolCallDelta]) -> list[ToolCallDelta]:
    """Pieces of one call that came together, as one."""
    joined: list[ToolCallDelta] = []
    for delta in deltas:
        if joined and joined[-1].index == delta.index:
            last = joined[-1]
            joined[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + delta.arguments)
        else:
            joined.append(delta)
    return joined


def _call_delta(delta: ToolCallDelta) -> JsonObject:
    if delta.id is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}
