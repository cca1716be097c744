"""Chunks into the answers of OpenAI's generating endpoints, streamed or whole: what they share, and completions.

A streamed token is one bytes-formatting of a prepared head: most of an event never changes within a stream.
vLLM's additions are kept: `stop_reason` in a finished choice, `prompt_logprobs` when asked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.logprobs import TokenNames, completion_logprobs, prompt_logprobs
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, RequestOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    n: int = 1
    logprobs: int | None = None
    """Most likely tokens shown for each position; None shows no log-probabilities."""
    prompt_logprobs: int | None = None
    include_usage: bool = False
    continuous_usage: bool = False
    role: str = "assistant"
    prefix: str = ""
    """Chat with echo: the message that is being continued."""
    include_reasoning: bool = True
    """Chat: the thought is part of the answer."""
    is_call_named: bool = False
    """Chat: the request named the tool to call, and a call does not show in finish_reason (as in OpenAI's API)."""
    has_functions: bool = False
    """Chat: the request has functions instead of tools, and the answer a function_call instead of tool_calls."""
    echo: bool = False
    """Completions: the prompt is part of the text."""
    prompt_only: bool = False
    """Completions with echo and max_tokens=0: what was sampled is not shown."""
    prompt_text: bool = False
    """Chat: show the prompt as the template wrote it."""
    token_ids: bool = False
    """Show the ids of the prompt and of the output."""
    tokens_as_ids: bool = False
    """Log-probabilities name tokens by id."""
    request_id: str | None = None
    """Part of the answer's id; None draws one."""
    has_prediction: bool = False
    """The usage says how much of what was predicted came."""
    obfuscation: bool = False
    """Events of a stream are padded, so that their sizes say less of their text."""


_KINDS: Mapping[int, str] = {429: "rate_limit_error"}
"""Of errors that are neither the request's nor the server's"""


def render_failure(failure: Failure) -> bytes:
    """OpenAI's error object."""
    kind = _KINDS.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    body = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return encode({"error": body})


_PADDED_TO = 128
"""Bytes; a token more or less, or a longer one, leaves an event's size as it is."""


class AnswerRenderer:
    """What both endpoints share: identity, the usage object, how a stream ends."""

    stream_media_type = sse.MEDIA_TYPE
    id_prefix = ""
    kind = ""
    chunk_kind = ""

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self.served = served
        self.options = options
        self.id = f"{self.id_prefix}-{options.request_id or secrets.token_hex(16)}"
        self.created = int(time.time())
        self._names = TokenNames(served, as_ids=options.tokens_as_ids)
        self._tail = (b'],"usage":null}' if options.include_usage else b"]}") + sse.END

    @cached_property
    def _head(self) -> bytes:
        """What all events of a stream begin with."""
        return sse.DATA + encode(self._identity(self.chunk_kind))[:-1] + b',"choices":['

    def end(self, progress: Sequence[Progress]) -> bytes:
        """The usage, when asked for, and the end mark."""
        if not self.options.include_usage:
            return sse.DONE
        return self._head + b'],"usage":' + encode(self._usage(progress)) + b"}" + sse.END + sse.DONE

    def failure(self, failure: Failure) -> bytes:
        """An error event; clients raise on it."""
        return sse.event(render_failure(failure)) + sse.DONE

    def _identity(self, kind: str) -> JsonObject:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def _usage(self, progress: Sequence[Progress]) -> JsonObject:
        usages = [one.usage for one in progress]
        prompt = sum(usage.prompt_tokens for usage in usages)
        completion = 0 if self.options.prompt_only else sum(usage.completion_tokens for usage in usages)
        details = {"reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)}
        if self.options.has_prediction:
            details["accepted_prediction_tokens"] = sum(usage.accepted_prediction_tokens for usage in usages)
            details["rejected_prediction_tokens"] = sum(usage.rejected_prediction_tokens for usage in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
            "completion_tokens_details": details,
        }

    def _finish(self, chunk: Chunk, reason: str | None = None) -> bytes:
        """The value of finish_reason (`reason`, if given), and vLLM's fields behind it."""
        ids = b',"token_ids":' + encode(chunk.token_ids) if self.options.token_ids else b""
        if chunk.finish_reason is None:
            return b"null" + ids
        value = (reason or chunk.finish_reason.value).encode()
        return b'"%b","stop_reason":%b%b' % (value, encode(chunk.stop_reason), ids)

    def _says_something(self, chunk: Chunk) -> bool:
        shows_ids = self.options.token_ids and chunk.token_ids
        return bool(chunk.text or chunk.logprobs or chunk.finish_reason or shows_ids)

    def _framed(self, event: bytes) -> bytes:
        """An event of choices as it is sent: padded, where that was asked for."""
        return padded(event) if self.options.obfuscation else event

    def _chunk_tail(self, progress: Sequence[Progress]) -> bytes:
        if not self.options.continuous_usage:
            return self._tail
        return b'],"usage":' + encode(self._usage(progress)) + b"}" + sse.END


class CompletionRenderer(AnswerRenderer):
    """POST /v1/completions."""

    id_prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def __init__(self, served: Served, options: RenderOptions) -> None:
        super().__init__(served, options)
        self._offsets: dict[int, int] = {}  # characters sent of each choice; a choice without an entry has not begun

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing: a completion has no role, and its prompt is shown when its log-probabilities are known."""
        return b""

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """One event for each chunk that says something; with echo, before a choice's first, one for its prompt."""
        tail = self._chunk_tail(progress)
        events: list[bytes] = []
        for chunk in chunks:
            index = prompt_index * self.options.n + chunk.index
            prompt_ids = None
            if index not in self._offsets:
                self._offsets[index] = 0
                prompt_ids = progress[prompt_index].prompt_token_ids if self.options.token_ids else None
                if self.options.echo:
                    events.append(self._prompt_event(index, progress[prompt_index], tail))
            if self._says_something(chunk) and not self.options.prompt_only:
                events.append(self._chunk(index, chunk, tail, prompt_ids))
        return b"".join(events)

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The text_completion object."""
        body = self._identity(self.kind)
        body["choices"] = [
            self._choice(prompt_index * self.options.n + choice.index, output, choice)
            for prompt_index, output in enumerate(outputs)
            for choice in output.outputs
        ]
        body["usage"] = self._usage(outputs)
        return encode(body)

    def _prompt_event(self, index: int, progress: Progress, tail: bytes) -> bytes:
        text = progress.prompt or ""
        logprobs = self._prompt_logprobs(progress)
        self._offsets[index] = len(text)
        finish = b'"length"' if self.options.prompt_only else b"null"
        return self._event(index, text, tail, encode(logprobs), finish)

    def _chunk(self, index: int, chunk: Chunk, tail: bytes, prompt_ids: Sequence[int] | None) -> bytes:
        logprobs = b"null"
        if self.options.logprobs is not None and chunk.token_ids:
            shown = completion_logprobs(
                chunk.token_ids, chunk.logprobs or [], self.options.logprobs, self._offsets[index], self._names
            )
            logprobs = encode(shown)
        self._offsets[index] += len(chunk.text)
        finish = self._finish(chunk)
        if prompt_ids is not None:
            finish += b',"prompt_token_ids":' + encode(prompt_ids)
        return self._event(index, chunk.text, tail, logprobs, finish)

    def _event(self, index: int, text: str, tail: bytes, logprobs: bytes, finish: bytes) -> bytes:
        return self._framed(
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b'
            % (self._head, index, encode(text), logprobs, finish, tail)
        )

    def _prompt_logprobs(self, progress: Progress) -> JsonObject | None:
        if self.options.logprobs is None:
            return None
        positions = progress.prompt_logprobs or []
        return completion_logprobs(progress.prompt_token_ids, positions, self.options.logprobs, 0, self._names)

    def _choice(self, index: int, output: RequestOutput, choice: CompletionOutput) -> JsonObject:
        options = self.options
        prompt = (output.prompt or "") if options.echo else ""
        logprobs = self._prompt_logprobs(output) if options.echo else None
        if options.logprobs is not None and not options.prompt_only:
            sampled = completion_logprobs(
                choice.token_ids, choice.logprobs or [], options.logprobs, len(prompt), self._names
            )
            logprobs = sampled if logprobs is None else {key: logprobs[key] + sampled[key] for key in sampled}
        rendered: JsonObject = {
            "index": index,
            "text": prompt if options.prompt_only else prompt + choice.text,
            "logprobs": logprobs,
            "finish_reason": "length" if options.prompt_only else choice.finish_reason,
            "stop_reason": None if options.prompt_only else choice.stop_reason,
        }
        if options.prompt_logprobs is not None:
            rendered["prompt_logprobs"] = shown_prompt_logprobs(output, options.prompt_logprobs)
        if options.token_ids:
            ids = [] if options.prompt_only else choice.token_ids
            rendered |= {"token_ids": ids, "prompt_token_ids": output.prompt_token_ids}
        return rendered


def padded(event: bytes) -> bytes:
    """The event with OpenAI's field `obfuscation`, so long that the whole is a multiple of 128 bytes."""
    frame = b',"obfuscation":"%b"}' + sse.END
    length = len(event) - len(b"}" + sse.END) + len(frame) - len(b"%b")
    padding = secrets.token_urlsafe(_PADDED_TO)[: -length % _PADDED_TO]
    return event.removesuffix(b"}" + sse.END) + frame % padding.encode()


def shown_prompt_logprobs(output: RequestOutput, num_top: int) -> list[object]:
    """vLLM's field, of one prompt."""
    return prompt_logprobs(output.prompt_logprobs or [], num_top, output.prompt_token_ids)
