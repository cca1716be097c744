"""What /metrics says of the engine, read when it is scraped: vLLM's names first, `headrace:` where vLLM has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import Metric

from headrace.config import EngineConfig
from headrace.engine.memory import KVPlan
from headrace.engine.stats import STEP_BOUNDS, EngineStats
from headrace.server.families import counter, counter_by, gauge, gauge_by
from headrace.server.histograms import histogram_family
from headrace.supervise.lives import Restarts


class Watched(Protocol):
    """The engine as metrics see it; an AsyncLLM is one."""

    config: EngineConfig
    kv_plan: KVPlan
    max_context: int

    @property
    def trouble(self) -> str | None:
        """Why it cannot run requests now; None when it can."""

    @property
    def restarts(self) -> Restarts:
        """What has been seen of its deaths."""

    def stats(self) -> EngineStats:
        """A snapshot."""


_Read = Callable[[EngineStats], float]

_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("vllm:num_requests_running", "Sequences that are running.", lambda s: s.num_running),
    ("vllm:num_requests_waiting", "Sequences that wait for room.", lambda s: s.num_waiting),
    (
        "vllm:kv_cache_usage_perc",
        "KV cache blocks held by running sequences, as a share from 0 to 1.",
        lambda s: s.kv_blocks_used / max(s.kv_blocks_total, 1),
    ),
    (
        "headrace:kv_cache_cached_perc",
        "KV cache blocks that hold prefixes which nobody uses now, as a share from 0 to 1.",
        lambda s: s.kv_blocks_cached / max(s.kv_blocks_total, 1),
    ),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens, cached ones included.", lambda s: s.prompt_tokens),
    ("vllm:prompt_tokens_cached", "Prompt tokens that came from the prefix cache.", lambda s: s.prefix_hits),
    ("vllm:generation_tokens", "Tokens generated.", lambda s: s.generation_tokens),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda s: s.prefix_queries),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda s: s.prefix_hits),
    ("vllm:num_preemptions", "Sequences that were put back to make room.", lambda s: s.num_preemptions),
    ("vllm:spec_decode_num_drafts", "Steps of a sequence in which guessed tokens were computed.", lambda s: s.drafts),
    ("vllm:spec_decode_num_draft_tokens", "Guessed tokens that were computed.", lambda s: s.draft_tokens),
    ("vllm:spec_decode_num_accepted_tokens", "Guessed tokens that were right.", lambda s: s.accepted_tokens),
    ("headrace:engine_steps", "Steps of the engine.", lambda s: s.num_steps),
    ("headrace:engine_step_seconds", "Time in steps.", lambda s: s.seconds_in_steps),
    ("headrace:engine_forward_seconds", "Of that, in the model's forward pass.", lambda s: s.seconds_in_forward),
    ("headrace:engine_sampling_seconds", "Of that, in sampling.", lambda s: s.seconds_in_sampling),
)


def engine_families(engine: Watched, labels: Mapping[str, str]) -> Iterator[Metric]:
    """One snapshot."""
    stats = engine.stats()
    for name, documentation, read in _GAUGES:
        yield gauge(name, documentation, labels, read(stats))
    yield _waiting(stats, labels)
    for name, documentation, read in _COUNTERS:
        yield counter(name, documentation, labels, read(stats))
    documentation = "Prompt tokens, by where they came from."
    sources = {("local_compute",): stats.prompt_tokens - stats.prefix_hits, ("local_cache_hit",): stats.prefix_hits}
    yield counter_by("vllm:prompt_tokens_by_source", documentation, labels, ("source",), sources)
    documentation = "Guessed tokens that were right, by their place in the guess."
    accepted = {(str(position),): count for position, count in enumerate(stats.accepted_by_position)}
    yield counter_by("vllm:spec_decode_num_accepted_tokens_per_pos", documentation, labels, ("position",), accepted)
    if stats.step_sizes:
        documentation = "Tokens of a step of the engine."
        yield histogram_family(
            "vllm:iteration_tokens_total", documentation, labels, STEP_BOUNDS, stats.step_sizes, stats.step_tokens
        )
    if stats.num_adapters:
        yield _adapters(stats)
    yield _cache_config(engine)
    yield from _lives(engine, labels)


def _waiting(stats: EngineStats, labels: Mapping[str, str]) -> Metric:
    """vLLM tells apart what waits for room and what it has deferred; here all wait for room."""
    reasons = {("capacity",): stats.num_waiting, ("deferred",): 0}
    return gauge_by(
        "vllm:num_requests_waiting_by_reason", "Sequences that wait, by reason.", labels, ("reason",), reasons
    )


def _adapters(stats: EngineStats) -> Metric:
    """What routers of requests to adapters look for; the value is the time of the report, as in vLLM."""
    labels = {
        "max_lora": str(stats.max_adapters),
        "running_lora_adapters": ",".join(stats.running_adapters),
        "waiting_lora_adapters": ",".join(stats.waiting_adapters),
    }
    return gauge("vllm:lora_requests_info", "Adapters that requests run with.", labels, time.time())


def _cache_config(engine: Watched) -> Metric:
    """Of vLLM's labels those that say something here; routers read `block_size` and `num_gpu_blocks`."""
    plan = engine.kv_plan
    labels = {
        "block_size": str(plan.block_size),
        "cache_dtype": str(plan.dtype),
        "enable_prefix_caching": str(engine.config.prefix_cache),
        "num_gpu_blocks": str(plan.num_blocks),
        "kv_cache_size_tokens": str(plan.num_blocks * plan.block_size),
        "engine": "0",
    }
    return gauge("vllm:cache_config_info", "The KV cache; num_gpu_blocks are those of the CPU here.", labels, 1)


def _lives(engine: Watched, labels: Mapping[str, str]) -> Iterator[Metric]:
    is_healthy = float(engine.trouble is None)
    yield gauge("vllm:engine_healthy", "1 when the engine runs requests, else 0.", {"engine": "0"}, is_healthy)
    restarts = engine.restarts
    yield counter("headrace:engine_restarts", "Deaths of the engine's process.", labels, restarts.count)
    if restarts.seconds_to_next_token is not None:
        name = "headrace:engine_restart_to_next_token_seconds"
        documentation = "From the last death with open requests to the next token."
        yield gauge(name, documentation, labels, restarts.seconds_to_next_token)
