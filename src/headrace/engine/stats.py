"""What can be seen of an engine from outside."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Sequences and blocks are gauges; the rest are counters since the start."""

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

    @classmethod
    def none(cls) -> Self:
        """Of an engine that has done nothing."""
        return cls(*(0 for _ in fields(cls)))


_GAUGES = frozenset({"num_running", "num_waiting", "kv_blocks_used", "kv_blocks_cached", "kv_blocks_total"})


def counting_on(before: EngineStats | None, now: EngineStats | None) -> EngineStats:
    """The stats of an engine that took the place of another one: gauges as they are now, counters of both together."""
    before, now = before or EngineStats.none(), now or EngineStats.none()
    counted = {field.name: getattr(before, field.name) for field in fields(EngineStats) if field.name not in _GAUGES}
    return replace(now, **{name: value + getattr(now, name) for name, value in counted.items()})
