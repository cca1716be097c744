"""The nouns that every layer shares. Imports nothing heavier than numpy.

A request's life in these types:

    SamplingParams ─┐
    prompt ids ─────┴─ Request ── engine ── Batch, SamplingBatch ── StepOutput ── Chunk ── RequestOutput
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A loaded adapter: its name, and a number that no other has, also none that had the name before."""

    name: str
    number: int
    """From 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """A thought that comes before what a request's grammar holds for, and how it is written."""

    open: str
    """The mark before it"""
    close: str
    """The mark behind it"""
    closing: str
    """How it is closed: the mark, and the white space around it that the template writes"""
    behind: str
    """The part of `closing` behind the mark"""
    is_open: bool
    """The prompt ends inside the thought; else the model may open one"""
    most: int | None = None
    """Tokens after which it is closed; None is no limit"""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a sequence has given so far: enough to go on with it in another engine."""

    token_ids: tuple[int, ...] = ()
    mirostat_mu: float | None = None
    """Of its last StepOutput"""
    has_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the engine gets: token ids and parameters, nothing to look up, nothing random."""

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_tokens: int
    """Resolved against the context: len(prompt) + max_tokens never exceeds it."""
    eos_token_ids: frozenset[int] = frozenset()
    grammar: str | None = None
    """The text of a grammar that every output satisfies, from `text.grammar.specification`."""
    thinking: Thinking | None = None
    """What may come before that"""
    is_open_ended: bool = False
    """What the grammar allows may go on wherever it may end: at max_tokens it is cut off"""
    cache_salt: str = ""
    """Prefixes are shared only between requests with the same salt."""
    bad_phrases: tuple[tuple[int, ...], ...] = ()
    """params.bad_words as token ids"""
    dry_breakers: tuple[tuple[int, ...], ...] = ()
    """params.dry_sequence_breakers as token ids"""
    predicted: tuple[int, ...] = ()
    """What the output is likely to repeat; a source of guesses that never changes a result"""
    priority: int = 0
    """Lower runs earlier and is preempted later; equal ones in order of arrival. Never changes a result."""
    adapter: AdapterRef | None = None
    """What the model is adapted with; None is the model itself. Prefixes are shared only under the same adapter."""
    continuations: tuple[tuple[int, ...], ...] = ()
    """Given instead of drawn: the request asks for the log-probabilities of their tokens after the prompt"""
    resume: tuple[Emitted, ...] = ()
    """For a request that goes on after a restart: what each of its n sequences has given"""


def draw_seed() -> int:
    """A fresh 63-bit seed for a request that names none."""
    return secrets.randbits(63)


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
    scores: list[list[float]] | None = None
    """Of each of the request's continuations its tokens' log-probabilities; with no tokens, as the only output"""
    mirostat_mu: float | None = None
    """Mirostat's state behind the last of token_ids, for Emitted; None without mirostat"""
    seconds_waited: float = 0.0
    """With num_cached_tokens: how long the request waited until it first ran"""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: its id and name once, with the first piece, then its arguments (JSON) as they come."""

    index: int
    """Which of the completion's calls, from 0"""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class ToolCall:
    """A tool call as a whole. `arguments` is JSON as the model wrote it; broken off if the completion was."""

    id: str
    name: str
    arguments: str


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
    reasoning: str = ""
    """A piece of the thought that comes before the answer; chat only, as the calls"""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    num_reasoning_tokens: int = 0
    """How many of token_ids belong to the thought"""

    def __str__(self) -> str:
        return self.text


def joined(first: Chunk, second: Chunk) -> Chunk:
    """Two pieces of one completion that follow each other, as one."""
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return replace(
        second,  # how it ends
        text=first.text + second.text,
        token_ids=[*first.token_ids, *second.token_ids],
        logprobs=logprobs,
        reasoning=first.reasoning + second.reasoning,
        tool_calls=[*first.tool_calls, *second.tool_calls],
        num_reasoning_tokens=first.num_reasoning_tokens + second.num_reasoning_tokens,
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the completion tokens, those of thoughts"""
    accepted_prediction_tokens: int = 0
    """Of the predicted tokens, those that came, in their order"""
    rejected_prediction_tokens: int = 0
    """… and those that did not"""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Times:
    """What has happened to a prompt, and when: seconds of time.perf_counter()."""

    arrival: float
    """Its request came"""
    queued: float
    """It was parsed, rendered, tokenised and given to the engine"""
    first_token: float | None = None
    last_token: float | None = None


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
    reasoning: str = ""
    """The thought before the answer, without its markers"""
    tool_calls: list[ToolCall] = field(default_factory=list)
    num_reasoning_tokens: int = 0
    num_accepted_prediction_tokens: int = 0
    num_rejected_prediction_tokens: int = 0

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
    times: Times | None = None
    """Measured by the server only"""

    @property
    def usage(self) -> Usage:
        """Token counts over all completions."""
        completion = sum(len(output.token_ids) for output in self.outputs)
        reasoning = sum(output.num_reasoning_tokens for output in self.outputs)
        return Usage(
            len(self.prompt_token_ids),
            completion,
            self.num_cached_tokens,
            reasoning,
            sum(output.num_accepted_prediction_tokens for output in self.outputs),
            sum(output.num_rejected_prediction_tokens for output in self.outputs),
        )


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


@dataclass(frozen=True, slots=True)
class LabelScore:
    """What a decision says about one label."""

    probability: float
    """Among the labels; they add up to 1"""
    logprob: float
    """The sum of its tokens' log-probabilities after the prompt"""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The most likely of given labels. See `LLM.decide`."""

    label: str
    scores: Mapping[str, LabelScore]
    """Of each label, in the order in which they were given"""
    mass: float
    """How likely the model is to say any of them at all: far below 1, the labels are not what it would say"""
    usage: Usage

    @property
    def probabilities(self) -> dict[str, float]:
        """Each label's probability."""
        return {label: score.probability for label, score in self.scores.items()}
