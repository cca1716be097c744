"""Chunks into llama-server's answers, streamed or whole, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.tokens import finite, most_likely
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, FinishReason, Logprob, RequestOutput, Times, TokenLogprobs

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "unavailable_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    n: int = 1
    num_probs: int = 0
    prompt_only: bool = False
    """n_predict=0: what was sampled is not shown"""
    return_tokens: bool = False
    timings_per_token: bool = False
    fields: tuple[str, ...] | None = None
    """Paths of the fields that are shown; None is all"""
    id_slot: int = -1
    settings: Mapping[str, Any] = field(default_factory=dict)


def render_failure(failure: Failure) -> bytes:
    """llama-server's error object."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    if failure.code == "context_length_exceeded":
        kind = "exceed_context_size_error"
    return encode({"error": {"code": failure.status, "message": failure.message, "type": kind}})


class CompletionRenderer:
    """/completion and /infill."""

    stream_media_type = sse.MEDIA_TYPE

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self._served = served
        self._options = options
        self._seen: dict[int, CompletionOutput] = {}  # of a stream, by the completion's index in the answer

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def chunks(self, prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """An event for each chunk that says something, and a last one for each completion, with all but the text."""
        one = progress[prompt_index]
        return b"".join([self._events(prompt_index * self._options.n + chunk.index, chunk, one) for chunk in chunks])

    def end(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """An error event."""
        return sse.event(render_failure(failure))

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The completion, or a list of several."""
        answers = [
            self._selected(self._answer(prompt_index * self._options.n + choice.index, choice, output))
            for prompt_index, output in enumerate(outputs)
            for choice in output.outputs
        ]
        return encode(answers[0] if len(answers) == 1 else answers)

    def _events(self, index: int, chunk: Chunk, progress: Progress) -> bytes:
        seen = self._seen.setdefault(index, CompletionOutput(index))
        seen.text += chunk.text
        seen.token_ids += chunk.token_ids
        events = []
        if (chunk.text or chunk.logprobs) and not self._options.prompt_only:
            event: JsonObject = {
                "index": index,
                "content": chunk.text,
                "tokens": chunk.token_ids,
                "stop": False,
                "id_slot": self._options.id_slot,
                "tokens_predicted": len(seen.token_ids),
                "tokens_evaluated": len(progress.prompt_token_ids),
            }
            if self._options.num_probs:
                event["completion_probabilities"] = self._probabilities(chunk.token_ids, chunk.logprobs)
            if self._options.timings_per_token:
                event["timings"] = _timings(progress, len(seen.token_ids))
            events.append(sse.event(encode(event)))
        if chunk.finish_reason is not None:
            seen.finish_reason, seen.stop_reason = chunk.finish_reason, chunk.stop_reason
            answer = self._answer(index, seen, progress) | {"content": "", "tokens": []}
            events.append(sse.event(encode(self._selected(answer))))
        return b"".join(events)

    def _answer(self, index: int, choice: CompletionOutput, progress: Progress | RequestOutput) -> JsonObject:
        is_hidden = self._options.prompt_only
        num_tokens = 0 if is_hidden else len(choice.token_ids)
        num_prompt = len(progress.prompt_token_ids)
        text = "" if is_hidden else choice.text
        answer: JsonObject = {
            "index": index,
            "content": text,
            "tokens": choice.token_ids if self._options.return_tokens and not is_hidden else [],
            "id_slot": self._options.id_slot,
            "stop": True,
            "model": self._served.name,
            "tokens_predicted": num_tokens,
            "tokens_evaluated": num_prompt,
            "generation_settings": dict(self._options.settings),
            "prompt": progress.prompt or "",
            "has_new_line": "\n" in text,
            "truncated": False,
            "stop_type": "limit" if is_hidden else _stop_type(choice),
            "stopping_word": choice.stop_reason if isinstance(choice.stop_reason, str) else "",
            "tokens_cached": progress.usage.cached_tokens,
            "timings": _timings(progress, num_tokens),
        }
        if self._options.num_probs and choice.logprobs and not is_hidden:
            answer["completion_probabilities"] = self._probabilities(choice.token_ids, choice.logprobs)
        return answer

    def _probabilities(self, token_ids: Sequence[int], positions: Sequence[TokenLogprobs] | None) -> list[JsonObject]:
        shown = []
        for token_id, position in zip(token_ids, positions or (), strict=False):
            top = [self._token(*one) for one in most_likely(position, self._options.num_probs)]
            shown.append(self._token(token_id, position[token_id]) | {"top_logprobs": top})
        return shown

    def _selected(self, answer: JsonObject) -> JsonObject:
        """Only the fields that are asked for, each under the last name of its path; what is not there is left out."""
        if self._options.fields is None:
            return answer
        found: JsonObject = {}
        for path in self._options.fields:
            value: Any = answer
            for name in path.split("/"):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                found[path.rpartition("/")[2]] = value
        return found

    def _token(self, token_id: int, logprob: Logprob) -> JsonObject:
        text = self._served.token_text(token_id)
        exact = self._served.token_bytes(token_id)
        encoded = text.encode() if exact is None else exact
        return {"id": token_id, "token": text, "bytes": list(encoded), "logprob": finite(logprob.logprob)}


def _stop_type(choice: CompletionOutput) -> str:
    if choice.finish_reason == FinishReason.LENGTH:
        return "limit"
    return "word" if isinstance(choice.stop_reason, str) else "eos"


def _timings(progress: Progress | RequestOutput, num_tokens: int) -> JsonObject:
    """Milliseconds, and tokens in a second, of the prompt (but for what was cached) and of the output."""
    cached = progress.usage.cached_tokens
    computed = len(progress.prompt_token_ids) - cached
    prompt_ms, output_ms = _milliseconds(progress.times)
    return {
        "cache_n": cached,
        **_speed("prompt", computed, prompt_ms),
        **_speed("predicted", num_tokens, output_ms),
    }


def _milliseconds(times: Times | None) -> tuple[float, float]:
    if times is None or times.first_token is None or times.last_token is None:
        return 0.0, 0.0
    return (times.first_token - times.queued) * 1000, (times.last_token - times.first_token) * 1000


def _speed(name: str, count: int, milliseconds: float) -> JsonObject:
    return {
        f"{name}_n": count,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / count if count else 0.0,
        f"{name}_per_second": count / milliseconds * 1000 if milliseconds else 0.0,
    }
