"""A sequence: one completion of a request on its way through the engine."""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING

from headrace.engine.constraint import Constraint
from headrace.engine.prefix_tree import Node
from headrace.ops.base import PromptLookup
from headrace.sampling_params import SamplingParams
from headrace.types import Emitted, FinishReason, Request, TokenLogprobs

if TYPE_CHECKING:
    from headrace.engine.beams import Beam
    from headrace.engine.scoring import Scoring

_REPEATED = 18
"""Tokens of a prompt's end that stand behind what is predicted too; no more are looked at"""


class Sequence:
    """The engine's mutable state of one completion. Owned by the scheduler; the runner only reads it."""

    __slots__ = (
        "_text_with_prediction",
        "arrival",
        "beam",
        "block_ids",
        "constraint",
        "drafts",
        "index",
        "lookup",
        "mirostat_mu",
        "nodes",
        "num_cached",
        "num_computed",
        "num_prompt",
        "num_tabled",
        "prompt_logprobs",
        "request",
        "rope_variant",
        "row",
        "scoring",
        "seconds_waited",
        "stop_ids",
        "submitted_at",
        "token_ids",
    )

    def __init__(self, request: Request, index: int, arrival: int, constraint: Constraint | None = None) -> None:
        emitted = request.resume[index] if request.resume else Emitted()
        self.request = request
        self.index = index
        self.arrival = arrival
        """Number in the order of arrival"""
        self.submitted_at = time.perf_counter()
        self.seconds_waited = 0.0
        """From then until it first ran"""
        self.token_ids: list[int] = [*request.prompt_token_ids, *emitted.token_ids]
        """Prompt and output"""
        self.drafts: list[int] = []
        """Guesses of the tokens that follow, computed along in the next step; see `rows`"""
        self.beam: Beam | None = None
        """Set while it is part of a beam search"""
        self.scoring: Scoring | None = None
        """Set when its tokens are all given, and only their log-probabilities asked for"""
        self.lookup: PromptLookup | None = None
        """What guesses the tokens that follow; kept by `drafting`"""
        self.constraint = constraint
        """What restricts the output, advanced past the output so far"""
        self.mirostat_mu = _mirostat_mu(request.params, emitted)
        """Mirostat's state behind the output so far; None without mirostat"""
        self.num_prompt = len(request.prompt_token_ids)
        self._text_with_prediction: list[int] = []
        self.num_computed = 0
        """Leading tokens whose keys and values are in the cache"""
        self.num_cached: int | None = None
        """Of those, how many came from the prefix cache when the sequence first ran"""
        self.block_ids: list[int] = []
        self.nodes: list[Node] = []
        """Tree nodes of the leading full blocks; the blocks after them are the sequence's own"""
        self.num_tabled = 0
        """Leading block_ids that stand in the runner's block table already"""
        self.row = -1
        """Row of the block tables and sampling arrays while running"""
        self.rope_variant = 0
        self.prompt_logprobs: list[TokenLogprobs | None] = [None]
        """Of the leading prompt positions; the first has none"""
        self.stop_ids: frozenset[int] = frozenset(request.params.stop_token_ids or ())
        if not request.params.ignore_eos:
            self.stop_ids |= request.eos_token_ids
        if constraint is not None:
            for at, token_id in enumerate(emitted.token_ids):
                constraint.take(token_id, request.max_tokens - at)

    def copy(self, index: int) -> Sequence:
        """A sequence with the same tokens that holds no blocks."""
        other = copy(self)
        other.index = index
        other.token_ids = list(self.token_ids)
        other._text_with_prediction = list(self._text_with_prediction)
        other.drafts, other.block_ids, other.nodes = [], [], []
        other.lookup = None
        other.num_computed = other.num_tabled = 0
        other.row = -1
        return other

    @property
    def num_inserted(self) -> int:
        """How much longer `lookup_text` is than its tokens."""
        predicted = self.request.predicted
        return len(predicted) + min(_REPEATED, self.num_prompt) if predicted else 0

    @property
    def lookup_text(self) -> list[int]:
        """Its tokens as guesses are looked up in them.

        Where something is predicted: prompt, what is predicted, the end of the prompt again, output. So what is
        predicted has followed the end of the prompt before the output begins.
        """
        predicted = self.request.predicted
        if not predicted:
            return self.token_ids
        text = self._text_with_prediction
        if not text:
            prompt = self.request.prompt_token_ids
            text += [*prompt, *predicted, *prompt[-_REPEATED:]]
        text += self.token_ids[len(text) - self.num_inserted :]
        return text

    @property
    def turn(self) -> tuple[int, int]:
        """Place in the queue: by priority, then by arrival. The last one is preempted first."""
        return self.request.priority, self.arrival

    @property
    def num_output(self) -> int:
        """Output tokens so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.token_ids) - self.num_computed

    def ends_with(self, token_id: int, num_output: int) -> FinishReason | None:
        """Why the sequence ends when `token_id` is its output token number `num_output` (from 1); None: it goes on.

        The constraint has taken the token already.
        """
        if token_id in self.stop_ids and num_output > self.request.params.min_tokens:
            return FinishReason.STOP
        is_last = num_output >= self.request.max_tokens
        if self.constraint is not None and (self.constraint.is_closed or (is_last and self.constraint.is_complete)):
            return FinishReason.STOP
        return FinishReason.LENGTH if is_last else None

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Sequence 0 of a request that asked computes them, once: before its first token."""
        asked = self.request.params.prompt_logprobs is not None and self.index == 0 and not self.num_output
        return asked and len(self.prompt_logprobs) < self.num_prompt

    @property
    def cache_key(self) -> str:
        """Sequences share prefixes only with others of the same key."""
        adapter = self.request.adapter
        return f"{self.rope_variant}:{0 if adapter is None else adapter.number}:{self.request.cache_salt}"


def _mirostat_mu(params: SamplingParams, emitted: Emitted) -> float | None:
    if not params.mirostat:
        return None
    if emitted.mirostat_mu is None:
        assert not emitted.token_ids, "a resumed sequence with mirostat needs its state"
        return 2 * params.mirostat_tau  # of the algorithm
    return emitted.mirostat_mu
