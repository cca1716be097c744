"""Chunks into TGI's answers, streamed or whole, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.base import JsonObject, Progress, Served
from headrace.server.dialects.tokens import ShownToken, TokenTexts, finite, top_tokens
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, FinishReason, RequestOutput, TokenLogprobs

_ERROR_TYPES: Mapping[int, tuple[str, str]] = {
    400: ("validation", "Input validation error"),
    404: ("validation", "Input validation error"),
    500: ("generation", "Request failed during generation"),
    503: ("overloaded", "Model is overloaded"),
    429: ("overloaded", "Model is overloaded"),
    504: ("incomplete_generation", "Incomplete generation"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    details: bool = False
    prefill: bool = False
    """The details have the prompt's tokens"""
    num_top: int = 0
    """Most likely tokens shown of each position"""
    full_text: bool = False
    """The text begins with the prompt"""
    seed: int | None = None
    """Shown; None where nothing is drawn"""
    in_list: bool = False
    """A whole answer is a list of one"""


def render_failure(failure: Failure) -> bytes:
    """TGI's error object."""
    kind, opening = _ERROR_TYPES.get(failure.status, ("validation", "Request error"))
    return encode({"error": f"{opening}: {failure.message}", "error_type": kind})


class GenerationRenderer:
    """/generate, /generate_stream and /."""

    stream_media_type = sse.MEDIA_TYPE

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self._served = served
        self._options = options
        self._tokens = TokenTexts(served)
        self._text: list[str] = []
        self._num_tokens = 0

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def chunks(self, _prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """One event for each token; the last one has the whole text, and with details why it ended."""
        return b"".join([event for chunk in chunks for event in self._events(chunk, progress[0])])

    def end(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """An error event; clients raise on it."""
        return sse.event(render_failure(failure))

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The generation, or the likeliest of several, with the others in its details."""
        [output] = outputs
        ranked = sorted(output.outputs, key=_mean_logprob, reverse=True) if len(output.outputs) > 1 else output.outputs
        answer: JsonObject = {"generated_text": self._full_text(output, ranked[0])}
        if self._options.details:
            answer["details"] = self._details(output, ranked[0])
            if len(ranked) > 1:
                answer["details"]["best_of_sequences"] = [
                    {"generated_text": self._full_text(output, other), **self._details(output, other)}
                    for other in ranked[1:]
                ]
        return encode([answer] if self._options.in_list else answer)

    def _events(self, chunk: Chunk, progress: Progress) -> list[bytes]:
        self._text.append(chunk.text)
        has_ended = chunk.finish_reason is not None
        events = []
        shown = self._tokens.push(chunk.token_ids, chunk.logprobs, is_last=has_ended)
        for index, token in enumerate(shown):
            self._num_tokens += 1
            event: JsonObject = {"index": self._num_tokens, "token": _token(token)}
            if self._options.num_top and chunk.logprobs is not None:
                event["top_tokens"] = self._top(chunk.logprobs[index])
            event |= {"generated_text": None, "details": None}
            if has_ended and index == len(shown) - 1:
                event |= self._ending(chunk, progress)
            events.append(sse.event(encode(event)))
        return events

    def _ending(self, chunk: Chunk, progress: Progress) -> JsonObject:
        prompt = (progress.prompt or "") if self._options.full_text else ""
        ending: JsonObject = {"generated_text": prompt + "".join(self._text)}
        if self._options.details:
            ending["details"] = {
                "finish_reason": _finish_reason(chunk),
                "generated_tokens": self._num_tokens,
                "seed": self._options.seed,
                "input_length": len(progress.prompt_token_ids),
            }
        return ending

    def _full_text(self, output: RequestOutput, choice: CompletionOutput) -> str:
        return (output.prompt or "") + choice.text if self._options.full_text else choice.text

    def _details(self, output: RequestOutput, choice: CompletionOutput) -> JsonObject:
        shown = TokenTexts(self._served).push(choice.token_ids, choice.logprobs, is_last=True)
        details: JsonObject = {
            "finish_reason": _finish_reason(choice),
            "generated_tokens": len(choice.token_ids),
            "seed": self._options.seed,
            "prefill": self._prefill(output) if self._options.prefill else [],
            "tokens": [_token(token) for token in shown],
        }
        if self._options.num_top:
            details["top_tokens"] = [self._top(position) for position in choice.logprobs or ()]
        return details

    def _prefill(self, output: RequestOutput) -> list[JsonObject]:
        tokens = TokenTexts(self._served).push(output.prompt_token_ids, output.prompt_logprobs, is_last=True)
        return [{"id": token.id, "text": token.text, "logprob": token.logprob} for token in tokens]

    def _top(self, position: TokenLogprobs) -> list[JsonObject]:
        return [_token(token) for token in top_tokens(position, self._options.num_top, self._served)]


def _token(token: ShownToken) -> JsonObject:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.is_special}


def _finish_reason(ended: Chunk | CompletionOutput) -> str:
    if ended.finish_reason == FinishReason.LENGTH:
        return "length"
    return "stop_sequence" if isinstance(ended.stop_reason, str) else "eos_token"


def _mean_logprob(choice: CompletionOutput) -> float:
    positions = choice.logprobs or []
    total = sum(
        finite(position[token_id].logprob) for token_id, position in zip(choice.token_ids, positions, strict=True)
    )
    return total / max(len(positions), 1)
