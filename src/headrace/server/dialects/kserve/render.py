"""Chunks into the answers of generate, generate_stream and infer, and the errors of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.json import encode

from headrace.server import sse
from headrace.server.dialects.base import Answer, JsonObject, Progress, Served
from headrace.server.dialects.kserve.binary import BinaryOutputs
from headrace.server.dialects.kserve.binary import answer as answer_of
from headrace.server.dialects.tokens import finite
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, RequestOutput

_DATATYPES: Mapping[str, str] = {
    "cumulative_logprob": "FP32",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
"""Of outputs; others are BYTES"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFacts:
    """What an answer shows beside the text."""

    finish_reason: bool = False
    cumulative_logprob: bool = False
    num_input_tokens: bool = False
    num_output_tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What of a request the answer's shape depends on."""

    echo: bool = False
    """The text begins with the prompt"""
    request_id: str | None = None
    in_one_event: bool = False
    """A stream has one event, at its end"""
    in_tensors: bool = False
    """The answer is that of infer"""
    names: frozenset[str] | None = None
    """Of infer: which outputs it has; None is all"""
    binary: BinaryOutputs = field(default_factory=BinaryOutputs)
    facts: ShownFacts = field(default_factory=ShownFacts)


def render_failure(failure: Failure) -> bytes:
    """The protocol's error object."""
    return encode({"error": failure.message})


def identity(served: Served, request_id: str | None) -> JsonObject:
    """The fields that answers begin with."""
    opening = {"model_name": served.name, "model_version": "1"}
    return opening if request_id is None else {**opening, "id": request_id}


def tensor(name: str, datatype: str, shape: Sequence[int], data: Sequence[object]) -> JsonObject:
    """A tensor of an answer, its data flat."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}


class GenerateRenderer:
    """generate, generate_stream, and infer of a model that gives text."""

    stream_media_type = sse.MEDIA_TYPE

    def __init__(self, served: Served, options: RenderOptions) -> None:
        self._served = served
        self._options = options
        self._text: list[str] = []
        self._logprob = 0.0
        self._num_tokens = 0

    def begin(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def chunks(self, _prompt_index: int, chunks: Sequence[Chunk], progress: Sequence[Progress]) -> bytes:
        """One event for each chunk that says something, with the text that is new."""
        return b"".join([self._event(chunk, progress[0]) for chunk in chunks])

    def end(self, _progress: Sequence[Progress]) -> bytes:
        """Nothing."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """An error event."""
        return sse.event(render_failure(failure))

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes | Answer:
        """The object of generate, or with tensors that of infer."""
        shown = [self._shown(output, output.outputs[0]) for output in outputs]
        answer = identity(self._served, self._options.request_id)
        if not self._options.in_tensors:
            return encode(answer | shown[0])
        names = [name for name in shown[0] if self._options.names is None or name in self._options.names]
        answer["outputs"] = [
            tensor(name, _DATATYPES.get(name, "BYTES"), [len(shown)], [one[name] for one in shown]) for name in names
        ]
        return answer_of(answer, self._options.binary)

    def _event(self, chunk: Chunk, progress: Progress) -> bytes:
        self._text.append(chunk.text)
        self._num_tokens += len(chunk.token_ids)
        self._logprob += _total(chunk)
        if chunk.finish_reason is None and (self._options.in_one_event or not chunk.text):
            return b""
        text = "".join(self._text)
        self._text.clear()
        reason = None if chunk.finish_reason is None else str(chunk.finish_reason)
        shown = self._facts(text, reason, self._logprob, len(progress.prompt_token_ids), self._num_tokens)
        return sse.event(encode(identity(self._served, self._options.request_id) | shown))

    def _shown(self, output: RequestOutput, choice: CompletionOutput) -> JsonObject:
        text = (output.prompt or "") + choice.text if self._options.echo else choice.text
        return self._facts(
            text, choice.finish_reason, _total(choice), len(output.prompt_token_ids), len(choice.token_ids)
        )  # fmt: skip

    def _facts(self, text: str, reason: str | None, logprob: float, num_input: int, num_output: int) -> JsonObject:
        known = {
            "finish_reason": reason,
            "cumulative_logprob": logprob,
            "num_input_tokens": num_input,
            "num_output_tokens": num_output,
        }
        facts = {name: value for name, value in known.items() if getattr(self._options.facts, name)}
        return {"text_output": text, **facts}


def _total(part: Chunk | CompletionOutput) -> float:
    positions = part.logprobs or []
    return sum(
        finite(position[token_id].logprob) for token_id, position in zip(part.token_ids, positions, strict=False)
    )
