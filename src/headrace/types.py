"""The nouns that every layer shares. Imports nothing heavier than numpy.

A request's life in these types:

    SamplingParams ─┐
    prompt ids ─────┴─ Request ── engine ── Batch, SamplingBatch ── StepOutput ── Chunk ── RequestOutput
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.errors import RequestError

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
class SamplingParams:
    """What a request asks of the sampler. Names, defaults and meaning are vLLM's, where vLLM has them.

    Applied in this order: logit_bias and min_tokens, penalties, temperature, min_p, top_k, top_p, then one draw keyed
    by (seed, output position).

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    n: int = 1
    """Number of independent completions; completion i draws with (seed, i)."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep only the k most likely tokens; 0 (or -1) keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities reach p."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Divides positive (multiplies negative) logits of every token in the prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token in the output."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that it stands in the output."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of the given token ids; -100 or less bans in practice."""
    seed: int | None = None
    """Same seed, same text. None (or -1) draws one when the request is made."""
    stop: str | Sequence[str] | None = None
    """Strings that end the output; not part of the text unless include_stop_str_in_output."""
    stop_token_ids: Sequence[int] | None = None
    """Token ids that end the output, besides the model's end-of-sequence tokens."""
    min_tokens: int = 0
    """End-of-sequence and stop token ids are banned before this many output tokens, and stop strings not looked for."""
    max_tokens: int | None = 16
    """At most this many output tokens; None is up to the end of the context."""
    ignore_eos: bool = False
    """Go on after the model's end-of-sequence tokens."""
    logprobs: int | None = None
    """For each output position, this many most likely tokens besides the chosen one."""
    prompt_logprobs: int | None = None
    """The same for each prompt position (the first has none)."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    """Leave special tokens (such as end-of-turn marks) out of the text."""

    def __post_init__(self) -> None:
        for name, kind in (("stop", "strings"), ("stop_token_ids", "token ids")):
            values = getattr(self, name)
            values = (values,) if isinstance(values, str) and name == "stop" else () if values is None else values
            if not isinstance(values, Iterable) or isinstance(values, str | bytes):
                raise RequestError(f"{name} is {values!r}, expected a list of {kind}", param=name)
            object.__setattr__(self, name, tuple(values))  # frozen
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        for name, *_ in _RANGES:
            if isinstance(value := getattr(self, name), np.generic):
                object.__setattr__(self, name, value.item())
        check_sampling_params(self)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop`, normalised."""
        assert isinstance(self.stop, tuple)
        return self.stop


_RANGES: tuple[tuple[str, float, float, str], ...] = (
    ("n", 1, 1024, "from 1 to 1,024"),
    ("temperature", 0.0, 1e6, "from 0 (greedy) to 1,000,000"),
    ("top_k", 0, 2**31 - 1, "0 (off), -1 (off) or a count"),
    ("top_p", 1e-9, 1.0, "above 0 and at most 1"),
    ("min_p", 0.0, 1.0, "from 0 to 1"),
    ("repetition_penalty", 1e-6, 1e6, "above 0 and at most 1,000,000"),
    ("presence_penalty", -2.0, 2.0, "from -2 to 2"),
    ("frequency_penalty", -2.0, 2.0, "from -2 to 2"),
    ("seed", -(2**63), 2**64 - 1, "a 64-bit integer"),
    ("min_tokens", 0, 2**31 - 1, "0 or more"),
    ("max_tokens", 1, 2**31 - 1, "1 or more"),
    ("logprobs", 0, 2**31 - 1, "0 or more"),
    ("prompt_logprobs", 0, 2**31 - 1, "0 or more"),
)
_INTEGERS = {"n", "top_k", "seed", "min_tokens", "max_tokens", "logprobs", "prompt_logprobs"}
_FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
_OPTIONAL = {"seed", "max_tokens", "logprobs", "prompt_logprobs"}


def check_sampling_params(params: SamplingParams) -> None:
    """Raise RequestError for the first value that has the wrong type or is out of range."""
    for name, low, high, expected in _RANGES:
        value = getattr(params, name)
        if value is None and name in _OPTIONAL:
            continue
        kind = int if name in _INTEGERS else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise RequestError(f"{name} is {value!r}, expected {expected}", param=name)
    for name in _FLAGS:
        if not isinstance(getattr(params, name), bool):
            raise RequestError(f"{name} is {getattr(params, name)!r}, expected True or False", param=name)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise RequestError(
            f"min_tokens is {params.min_tokens}, above max_tokens {params.max_tokens}", param="min_tokens"
        )
    _check_collections(params)


def _check_collections(params: SamplingParams) -> None:
    for string in params.stop_strings:
        if not isinstance(string, str) or not string:
            raise RequestError(f"stop has {string!r}, expected non-empty strings", param="stop")
    if not isinstance(params.logit_bias, Mapping | None):
        raise RequestError("logit_bias is no mapping, expected token ids to numbers", param="logit_bias")
    for name in ("stop_token_ids", "logit_bias"):
        for token_id in getattr(params, name) or ():
            if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                raise RequestError(f"{name} has {token_id!r}, expected token ids", param=name)
    for token_id, bias in (params.logit_bias or {}).items():
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -1e6 <= bias <= 1e6:
            raise RequestError(f"logit_bias for token {token_id} is {bias!r}, expected a number", param="logit_bias")


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
