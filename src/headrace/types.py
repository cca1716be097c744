"""The nouns that every layer shares. Imports nothing heavier than numpy.

A request's life in these types:

    SamplingParams ─┐
    prompt ids ─────┴─ Request ── engine ── Batch, SamplingBatch ── StepOutput ── Chunk ── RequestOutput
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.sampling_params import SamplingParams

IntArray: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # end-of-sequence token, stop string or stop token id
    LENGTH = "length"  # max_tokens reached, or the context is full
    ABORT = "abort"  # cancelled by the client


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-probability of one token at one position, from the model's unmodified distribution.

    `rank` counts from 1 (the most likely token).
    """

    logprob: float
    rank: int
    decoded_token: str | None = None


TokenLogprobs: TypeAlias = dict[int, Logprob]
"""One position's log-probabilities: the chosen token and the most likely ones, by token id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the engine gets: token ids and parameters, nothing to look up, nothing random.

    `resume` holds, for a request that goes on after a restart, the ids already emitted by each of its n sequences.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_tokens: int
    """Resolved against the context: len(prompt) + max_tokens never exceeds it."""
    eos_token_ids: frozenset[int] = frozenset()
    grammar: str | None = None
    """The text of a grammar that every output satisfies, from `text.grammar.specification`."""
    cache_salt: str = ""
    """Prefixes are shared only between requests with the same salt."""
    resume: tuple[tuple[int, ...], ...] = ()


def draw_seed() -> int:
    """A fresh 63-bit seed for a request that names none."""
    return secrets.randbits(63)


@dataclass(slots=True)
class Batch:
    """One step's input: every scheduled token of every scheduled sequence, flat, sequence after sequence.

    T tokens of S sequences; a sequence's tokens are `query_start[s]:query_start[s + 1]`. A token attends to all
    positions up to its own; keys and values of position p lie in block `block_tables[s, p // block_size]`.
    """

    token_ids: IntArray
    """[T] int32"""
    positions: IntArray
    """[T] int32, ascending by one within a sequence"""
    rope_rows: IntArray
    """[T] int32: row of the rope tables, from `Decoder.rope_rows`; not the positions where longrope has two sets"""
    query_start: IntArray
    """[S + 1] int32"""
    block_tables: IntArray
    """[S, widest] int32, rows padded with 0"""
    logit_rows: IntArray
    """[R] int32: which of the T tokens need logits"""


@dataclass(slots=True)
class SamplingBatch:
    """The sampler's parameters for R rows of logits; ragged fields as (values, offsets [R + 1])."""

    temperature: FloatArray
    top_k: IntArray
    top_p: FloatArray
    min_p: FloatArray
    repetition_penalty: FloatArray
    presence_penalty: FloatArray
    frequency_penalty: FloatArray
    seed: NDArray[np.uint64]
    stream: NDArray[np.uint32]
    """[R]: index of the completion within its request"""
    position: NDArray[np.uint32]
    """[R]: number of output tokens so far; with seed and stream the key of the draw"""
    history: IntArray
    """Prompt and output ids of the rows that have penalties"""
    history_start: IntArray
    """[R + 1]; an empty range means no penalties"""
    output_start: IntArray
    """[R]: where in `history` the row's output begins"""
    bias_ids: IntArray
    bias_values: FloatArray
    """Added to the logits; -inf bans a token"""
    bias_start: IntArray
    masks: NDArray[np.uint32]
    """[M, ceil(V / 32)]: bit i % 32 of word i // 32 says whether token i may be drawn"""
    mask_row: IntArray
    """[R]: which mask the row has, -1 for none"""

    @classmethod
    def of(cls, num_rows: int, **values: Any) -> Self:
        """Rows that draw from the whole distribution but for `values`: arrays, or a number for all rows."""
        ids, floats, offsets = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(num_rows + 1, np.int32)
        ragged = {
            "history": ids,
            "history_start": offsets,
            "bias_ids": ids,
            "bias_values": floats,
            "bias_start": offsets,
        }
        given: dict[str, Any] = ragged | {"masks": np.empty((0, 0), np.uint32)} | values
        for name, (kind, neutral) in _NEUTRAL.items():
            value = np.asarray(values.get(name, neutral), kind)
            given[name] = np.full(num_rows, value) if value.ndim == 0 else value
        return cls(**given)


_NEUTRAL: Mapping[str, tuple[type[np.generic], float]] = {
    "temperature": (np.float32, 1),
    "top_k": (np.int32, 0),
    "top_p": (np.float32, 1),
    "min_p": (np.float32, 0),
    "repetition_penalty": (np.float32, 1),
    "presence_penalty": (np.float32, 0),
    "frequency_penalty": (np.float32, 0),
    "seed": (np.uint64, 0),
    "stream": (np.uint32, 0),
    "position": (np.uint32, 0),
    "output_start": (np.int32, 0),
    "mask_row": (np.int32, -1),
}


@dataclass(slots=True)
class StepOutput:
    """What one step did for one sequence."""

    request_id: str
    index: int
    """Which of the request's n sequences"""
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    """One entry for each of token_ids, when the request asked; without decoded_token"""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """Once, with the first token of sequence 0, when the request asked"""
    cumulative_logprob: float | None = None
    """Of a beam search's completions, which come whole: the sum of their tokens' log-probabilities"""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The end-of-sequence or stop token that ended the sequence (it is the last of token_ids)"""
    num_cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache"""


@dataclass(slots=True)
class Chunk:
    """A piece of one completion's text, as soon as it is final. `str(chunk)` is its text."""

    index: int
    text: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string or stop token id that ended it; None for end-of-sequence"""
    cumulative_logprob: float | None = None
    """See StepOutput"""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's n completions."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """A finished request, shaped like vLLM's."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    finished: bool = True

    @property
    def usage(self) -> Usage:
        """Token counts over all completions."""
        completion = sum(len(output.token_ids) for output in self.outputs)
        return Usage(len(self.prompt_token_ids), completion, self.num_cached_tokens)


@dataclass(slots=True)
class BeamSearchSequence:
    """One result of a beam search, shaped like vLLM's."""

    tokens: list[int]
    """Prompt and completion"""
    logprobs: list[TokenLogprobs]
    """Of each token of the completion: itself and the most likely ones"""
    cum_logprob: float
    """The sum of its tokens' log-probabilities"""
    text: str | None
    """All tokens as text, the prompt's too; None for a model without a tokenizer"""
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The results for one prompt, best first; as many as beams."""

    sequences: list[BeamSearchSequence]
