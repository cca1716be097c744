"""What can be seen of an engine from outside."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import MISSING, dataclass, fields, replace
from itertools import zip_longest
from typing import Any, Self

STEP_BOUNDS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5) if digit * 10**power <= 16384)
"""Upper bounds of `EngineStats.step_sizes`: vLLM's"""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Sequences, blocks and adapters are gauges; the rest are counters since the start."""

    num_running: int
    num_waiting: int
    kv_blocks_used: int
    """Held by running sequences; cached prefixes that nobody holds do not count"""
    kv_blocks_cached: int
    kv_blocks_total: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int
    """Prompt tokens that were looked up in the prefix cache"""
    prefix_hits: int
    """Prompt tokens that were found there"""
    num_preemptions: int
    drafts: int
    """Steps of a sequence in which guessed tokens were computed along"""
    draft_tokens: int
    """Guessed tokens that were computed"""
    accepted_tokens: int
    """Of those, how many were right"""
    num_steps: int
    seconds_in_steps: float
    seconds_in_forward: float
    """Of those, in the model's forward pass"""
    seconds_in_sampling: float
    step_tokens: int = 0
    """Tokens of all steps, drafts included"""
    step_sizes: tuple[int, ...] = ()
    """Steps of at most STEP_BOUNDS[i] tokens and more than the bound before; behind them those of more than any"""
    accepted_by_position: tuple[int, ...] = ()
    """Guessed tokens that were right, by their place in the step's guess"""
    num_adapters: int = 0
    """Adapters that are loaded"""
    max_adapters: int = 0
    """Different ones that a step can have: as many as sequences"""
    running_adapters: tuple[str, ...] = ()
    """Names of those that sequences run with, each once"""
    waiting_adapters: tuple[str, ...] = ()
    """Of those that waiting sequences will run with"""

    @classmethod
    def none(cls) -> Self:
        """Of an engine that has done nothing."""
        nothing: dict[str, Any] = {field.name: 0 for field in fields(cls) if field.default is MISSING}
        return cls(**nothing)


_GAUGES = frozenset(
    {
        *("num_running", "num_waiting", "kv_blocks_used", "kv_blocks_cached", "kv_blocks_total"),
        *("num_adapters", "max_adapters", "running_adapters", "waiting_adapters"),
    }
)


def counting_on(before: EngineStats | None, now: EngineStats | None) -> EngineStats:
    """The stats of an engine that took the place of another one: gauges as they are now, counters of both together."""
    before, now = before or EngineStats.none(), now or EngineStats.none()
    counted = {field.name: getattr(before, field.name) for field in fields(EngineStats) if field.name not in _GAUGES}
    return replace(now, **{name: _sum(value, getattr(now, name)) for name, value in counted.items()})


class StepSizes:
    """Counts steps by their tokens."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.counts = [0] * (len(STEP_BOUNDS) + 1)

    def observe(self, num_tokens: int) -> None:
        """A step had so many."""
        self.num_tokens += num_tokens
        self.counts[bisect_left(STEP_BOUNDS, num_tokens)] += 1


def _sum(before: Any, now: Any) -> Any:
    if isinstance(before, tuple):
        return tuple(sum(pair) for pair in zip_longest(before, now, fillvalue=0))
    return before + now
