"""Chunks into the answers of /api/generate and /api/chat: lines of JSON, or one object.

A streamed token is one bytes-formatting. The last line of a stream has no text of its own, but what Ollama measures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.json import encode

from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.decode import written_json
from headrace.server.dialects.logprobs import TokenNames, chat_logprobs
from headrace.server.dialects.ollama.options import PARAM_NAMES
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, RequestOutput, TokenLogprobs, ToolCall

NDJSON = "application/x-ndjson"
_ENGINE_NAMES = {theirs: engines for engines, theirs in PARAM_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    model: str
    """As the request named it"""
    logprobs: int | None = None
    """Most likely tokens shown for each position; None shows no log-probabilities."""
    has_context: bool = False
    """Generate: the token ids of prompt and output are part of the answer."""


def render_failure(failure: Failure) -> bytes:
    """Ollama's error object, which has no place for the field at fault: the message begins with it."""
    message, param = failure.message, failure.param
    if param is None or param in message.partition(" ")[0]:
        return encode({"error": message})
    name = _ENGINE_NAMES.get(param, param)
    rest = message.removeprefix(name)
    if rest != message and rest.startswith((" ", ":")):
        return encode({"error": param + rest})
    return encode({"error": message if param in message else f"{param}: {message}"})


def created_at(now: datetime) -> str:
    """A time in UTC as Ollama writes it."""
    return now.isoformat().replace("+00:00", "Z")


class _Renderer:
    """What both endpoints share."""

    stream_media_type = NDJSON

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self.options = options
        self._head = b'{"model":' + encode(options.model) + b',"created_at":"'
        self._names = TokenNames(served)
        self._token_ids: list[int] = []
        self._reason: str | None = None
        self._second = (0, b"")  # the last one that was written, and how

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing: every line says the same of the answer."""
        return b""

    def chunks(self, _prompt_index: int, chunks: Sequence[Chunk], _progress: Sequence[Progress]) -> bytes:
        """A line for each chunk that says something."""
        lines: list[bytes] = []
        for chunk in chunks:
            if self.options.has_context:
                self._token_ids += chunk.token_ids
            if chunk.finish_reason is not None:
                self._reason = chunk.finish_reason.value
            said = self._said_by(chunk)
            shown = b""
            if self.options.logprobs is not None and chunk.token_ids:
                shown = b',"logprobs":' + encode(self._logprobs(chunk.token_ids, chunk.logprobs or []))
            if said or shown:
                lines.append(self._line(said or self._said("", "", []), b',"done":false' + shown))
        return b"".join(lines)

    def end(self, progress: Sequence[Progress]) -> bytes:
        """The line that says how it ended, and what it took."""
        rest = self._ending(progress[0], self._reason, self._token_ids)
        return self._line(self._said("", "", []), b"," + encode(rest)[1:-1])

    def failure(self, failure: Failure) -> bytes:
        """A line with the error; clients raise on it."""
        return render_failure(failure) + b"\n"

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The answer as one object."""
        output = outputs[0]
        choice = output.outputs[0]
        rest = self._ending(output, choice.finish_reason, choice.token_ids)
        if self.options.logprobs is not None:
            rest["logprobs"] = self._logprobs(choice.token_ids, choice.logprobs or [])
        return self._line(self._said_in_all(choice), b"," + encode(rest)[1:-1]).rstrip()

    def _said(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> bytes:
        """The part of an answer that has its text."""
        raise NotImplementedError

    def _said_by(self, chunk: Chunk) -> bytes | None:
        """The same of a chunk; None if it says nothing."""
        return self._said(chunk.text, chunk.reasoning, []) if chunk.text or chunk.reasoning else None

    def _said_in_all(self, output: CompletionOutput) -> bytes:
        return self._said(output.text, output.reasoning, output.tool_calls)

    def _line(self, said: bytes, rest: bytes) -> bytes:
        second, nanosecond = divmod(time.time_ns(), 10**9)
        if second != self._second[0]:
            self._second = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        return b'%b%b.%06dZ",%b%b}\n' % (self._head, self._second[1], nanosecond // 1000, said, rest)

    def _logprobs(self, token_ids: Sequence[int], positions: Sequence[TokenLogprobs]) -> list[JsonObject]:
        count = self.options.logprobs or 0
        entries: list[JsonObject] = chat_logprobs(token_ids, positions, count, self._names)["content"]
        for entry in entries if not count else ():
            del entry["top_logprobs"]
        return entries

    def _ending(self, progress: Progress, reason: str | None, token_ids: Sequence[int]) -> JsonObject:
        ending: JsonObject = {"done": True, "done_reason": reason}
        if self.options.has_context:
            ending["context"] = [*progress.prompt_token_ids, *token_ids]
        return ending | _metrics(progress)


class GenerateRenderer(_Renderer):
    """POST /api/generate."""

    def _said(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> bytes:
        assert not calls  # nobody has offered tools
        thought = b',"thinking":' + encode(thinking) if thinking else b""
        return b'"response":' + encode(text) + thought


class ChatRenderer(_Renderer):
    """POST /api/chat. A tool call goes out whole, when the next one begins or the answer ends."""

    def __init__(self, served: Served, options: RenderOptions) -> None:
        super().__init__(served, options)
        self._calls: dict[int, ToolCall] = {}  # those that may not be whole yet

    def _said(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> bytes:
        if not (thinking or calls):
            return b'"message":{"role":"assistant","content":%b}' % encode(text)
        read = [(call, _arguments(call)) for call in calls]
        whole = [(call, arguments) for call, arguments in read if arguments is not None]
        broken = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}'
                  for call, arguments in read if arguments is None]  # fmt: skip
        message: JsonObject = {"role": "assistant", "content": text + "".join(broken)}
        if thinking:
            message["thinking"] = thinking
        if whole:
            message["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": arguments}} for call, arguments in whole
            ]
        return b'"message":' + encode(message)

    def _said_by(self, chunk: Chunk) -> bytes | None:
        if not chunk.tool_calls and not self._calls:
            return super()._said_by(chunk)
        for delta in chunk.tool_calls:
            call = self._calls.setdefault(delta.index, ToolCall(delta.id or "", delta.name or "", ""))
            call.arguments += delta.arguments
        last = max(self._calls) + (chunk.finish_reason is not None)
        done = [self._calls.pop(index) for index in sorted(self._calls) if index < last]
        if chunk.text or chunk.reasoning or done:
            return self._said(chunk.text, chunk.reasoning, done)
        return None


def _arguments(call: ToolCall) -> JsonObject | None:
    """The arguments of a call; None if the answer ended within them."""
    try:
        arguments: JsonObject = written_json(call.arguments or "{}")
    except ValueError:
        return None
    return arguments


def _metrics(progress: Progress) -> JsonObject:
    """Durations in nanoseconds, none of them 0: clients divide by them."""
    times, usage = progress.times, progress.usage
    assert times is not None  # the server measures
    first = times.queued if times.first_token is None else times.first_token
    last = first if times.last_token is None else times.last_token
    return {
        "total_duration": _nanoseconds(time.perf_counter() - times.arrival),
        "load_duration": _nanoseconds(times.queued - times.arrival),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(first - times.queued),
        "eval_count": usage.completion_tokens,
        "eval_duration": _nanoseconds(last - first),
    }


def _nanoseconds(seconds: float) -> int:
    return max(int(seconds * 1e9), 1)
