"""/metrics: vLLM's names, labels and buckets, so that dashboards made for it work.

Gauges and counters of the engine are read when scraped; latencies are measured here, at the server, from a request's
arrival to the chunks of each of its sequences.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.engine.stats import EngineStats
from headrace.types import Chunk, FinishReason, Times

_LABELS = ("model_name", "engine")
_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
_GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_requests_running", "Sequences that are running.", lambda s: s.num_running),
    ("num_requests_waiting", "Sequences that wait for room.", lambda s: s.num_waiting),
    (
        "kv_cache_usage_perc",
        "KV cache blocks held by running sequences, as a share from 0 to 1.",
        lambda s: s.kv_blocks_used / max(s.kv_blocks_total, 1),
    ),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("prompt_tokens", "Prompt tokens computed.", lambda s: s.prompt_tokens),
    ("generation_tokens", "Tokens generated.", lambda s: s.generation_tokens),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda s: s.prefix_queries),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda s: s.prefix_hits),
    ("num_preemptions", "Sequences that were put back to make room.", lambda s: s.num_preemptions),
    ("spec_decode_num_drafts", "Steps of a sequence in which guessed tokens were computed.", lambda s: s.drafts),
    ("spec_decode_num_draft_tokens", "Guessed tokens that were computed.", lambda s: s.draft_tokens),
    ("spec_decode_num_accepted_tokens", "Guessed tokens that were right.", lambda s: s.accepted_tokens),
)
_TOKEN_LATENCIES = (
    ("inter_token_latency_seconds", "Between one token of a sequence and the next."),
    ("time_per_output_token_seconds", "The older name of inter_token_latency_seconds."),
)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, model_name: str, max_context: int, stats: Callable[[], EngineStats]) -> None:
        self._registry = CollectorRegistry()
        self.model_name = model_name
        labels = {"model_name": model_name, "engine": "0"}

        def histogram(name: str, documentation: str, buckets: Sequence[float]) -> Histogram:
            metric = Histogram(f"vllm:{name}", documentation, _LABELS, registry=self._registry, buckets=buckets)
            return metric.labels(**labels)

        lengths = one_two_five(max_context)
        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to a sequence's first token.", _FIRST_TOKEN_BUCKETS
        )
        self.inter_token = TokenLatencies()
        self.per_output_token = histogram(
            "request_time_per_output_token_seconds", "A sequence's mean time per token after its first.", _TOKEN_BUCKETS
        )
        self.latency = histogram(
            "e2e_request_latency_seconds", "From a request's arrival to a sequence's end.", _REQUEST_BUCKETS
        )
        self.prompt_length = histogram("request_prompt_tokens", "Prompt tokens of a request.", lengths)
        self.output_length = histogram("request_generation_tokens", "Output tokens of a sequence.", lengths)
        self.queue_time = histogram(
            "request_queue_time_seconds", "Waited before the engine got the request.", _REQUEST_BUCKETS
        )
        success = Counter(
            "vllm:request_success", "Sequences that ended.", (*_LABELS, "finished_reason"), registry=self._registry
        )
        self.finished = {reason: success.labels(**labels, finished_reason=reason.value) for reason in FinishReason}
        self._registry.register(_EngineCollector(labels, stats, self.inter_token))

    def add(self, collector: Collector) -> None:
        """Show what `collector` collects, too."""
        self._registry.register(collector)

    def stopwatch(self, arrival: float, num_prompt_tokens: int) -> Stopwatch:
        """Measure one prompt of a request that arrived at time.perf_counter() `arrival`."""
        self.prompt_length.observe(num_prompt_tokens)
        return Stopwatch(self, arrival)

    def render(self) -> bytes:
        """The exposition in Prometheus' text format, whatever a scraper would like better.

        prometheus_client's OpenMetrics writes a sample's `vllm:` as `vllm_` below a TYPE that keeps the colon: no
        dashboard finds such names, and its own parser refuses them.
        """
        return generate_latest(self._registry)


class Stopwatch:
    """Times the sequences of one prompt."""

    def __init__(self, metrics: Metrics, arrival: float) -> None:
        self._metrics = metrics
        self._arrival = arrival
        self._queued = time.perf_counter()
        self._first_token: float | None = None
        self._last_token: float | None = None
        self._running: dict[int, _Times] = {}
        self._is_closed = False
        self._num_finished = 0

    @property
    def times(self) -> Times:
        """What has happened so far."""
        return Times(self._arrival, self._queued, self._first_token, self._last_token)

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Chunks have come, now."""
        now = time.perf_counter()
        for chunk in chunks:
            if chunk.token_ids:
                self._take_tokens(chunk, now)
            if chunk.finish_reason is not None:
                self._finish(chunk.index, chunk.finish_reason, now)

    def close(self) -> None:
        """What has not finished by now was cancelled; a request that never gave a token counts as one sequence."""
        if not self._is_closed:
            self._is_closed = True
            num_cancelled = len(self._running) or int(not self._num_finished)
            self._metrics.finished[FinishReason.ABORT].inc(num_cancelled)

    def _take_tokens(self, chunk: Chunk, now: float) -> None:
        num_tokens = len(chunk.token_ids)
        self._last_token = now
        if self._first_token is None:
            self._first_token = now
        times = self._running.get(chunk.index)
        if times is None:
            self._running[chunk.index] = _Times(now, num_tokens)
            self._metrics.first_token.observe(now - self._arrival)
            return
        self._metrics.inter_token.observe((now - times.last) / num_tokens, num_tokens)
        times.last = now
        times.num_tokens += num_tokens

    def _finish(self, index: int, reason: FinishReason, now: float) -> None:
        self._num_finished += 1
        self._metrics.finished[reason].inc()
        self._metrics.latency.observe(now - self._arrival)
        times = self._running.pop(index, None)
        self._metrics.output_length.observe(times.num_tokens if times else 0)
        if times is not None and times.num_tokens > 1:
            self._metrics.per_output_token.observe((times.last - times.first) / (times.num_tokens - 1))


class TokenLatencies:
    """A histogram that is cheap enough for every token of every stream; one thread writes it."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_TOKEN_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, num_tokens: int) -> None:
        """So many tokens took so many seconds each."""
        self._counts[bisect_left(_TOKEN_BUCKETS, seconds)] += num_tokens
        self._sum += seconds * num_tokens

    def family(self, name: str, documentation: str, labels: Mapping[str, str]) -> Metric:
        """The histogram as it stands."""
        bounds = [*(str(bound) for bound in _TOKEN_BUCKETS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family = HistogramMetricFamily(f"vllm:{name}", documentation, labels=list(labels))
        family.add_metric(list(labels.values()), buckets, self._sum)
        return family


class _Times:
    """When a sequence's first and last tokens came."""

    __slots__ = ("first", "last", "num_tokens")

    def __init__(self, now: float, num_tokens: int) -> None:
        self.first = self.last = now
        self.num_tokens = num_tokens


class _EngineCollector(Collector):
    """Reads the engine when scraped, and gives the inter-token latency, under the name that vLLM used before too."""

    def __init__(self, labels: dict[str, str], stats: Callable[[], EngineStats], inter_token: TokenLatencies) -> None:
        self._labels = labels
        self._stats = stats
        self._inter_token = inter_token

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not read the engine when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One snapshot of the engine."""
        stats = self._stats()
        names, values = list(self._labels), list(self._labels.values())
        for name, documentation, read in _GAUGES:
            gauge = GaugeMetricFamily(f"vllm:{name}", documentation, labels=names)
            gauge.add_metric(values, read(stats))
            yield gauge
        for name, documentation, read in _COUNTERS:
            counter = CounterMetricFamily(f"vllm:{name}", documentation, labels=names)
            counter.add_metric(values, read(stats))
            yield counter
        for name, documentation in _TOKEN_LATENCIES:
            yield self._inter_token.family(name, documentation, self._labels)
        if stats.num_adapters:
            yield _adapters(stats)


def _adapters(stats: EngineStats) -> Metric:
    """What routers of requests to adapters look for; the value is the time of the report, as in vLLM."""
    labels = {
        "max_lora": str(stats.max_adapters),
        "running_lora_adapters": ",".join(stats.running_adapters),
        "waiting_lora_adapters": ",".join(stats.waiting_adapters),
    }
    gauge = GaugeMetricFamily("vllm:lora_requests_info", "Adapters that requests run with.", labels=list(labels))
    gauge.add_metric(list(labels.values()), time.time())
    return gauge


def one_two_five(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, 50 … up to `limit`."""
    steps = (digit * 10.0**power for power in range(len(str(limit))) for digit in (1, 2, 5))
    return [step for step in steps if step <= limit]
