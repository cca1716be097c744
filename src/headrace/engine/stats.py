"""What can be seen of an engine from outside."""

from __future__ import annotations

from dataclasses import dataclass


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
