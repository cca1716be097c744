"""/metrics: vLLM's names, labels and buckets, so that dashboards made for it work; `headrace:` where vLLM has none.

The engine is read when scraped (`engine_metrics`); latencies are measured here, at the server, from a request's
arrival to the chunks of each of its sequences.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headrace.sampling_params import SamplingParams
from headrace.server.engine_metrics import Watched, engine_families
from headrace.server.families import counter_by
from headrace.server.histograms import (
    COMPLETION_BUCKETS,
    FIRST_TOKEN_BUCKETS,
    LAG_BUCKETS,
    REQUEST_BUCKETS,
    TOKEN_BUCKETS,
    Histogram,
    one_two_five,
)
from headrace.server.record import RequestRecord
from headrace.server.tgi_metrics import TgiMetrics
from headrace.types import Chunk, FinishReason, Times


class Metrics:
    """One server's metrics. One thread writes: the event loop's."""

    def __init__(self, model_name: str, engine: Watched, *, with_tgi: bool = False) -> None:
        lengths = one_two_five(engine.max_context)
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self.inter_token = Histogram(TOKEN_BUCKETS)
        self.per_output_token = Histogram(TOKEN_BUCKETS)
        self.latency = Histogram(REQUEST_BUCKETS)
        self.queue = Histogram(REQUEST_BUCKETS)
        self.inference = Histogram(REQUEST_BUCKETS)
        self.prefill = Histogram(REQUEST_BUCKETS)
        self.decode = Histogram(REQUEST_BUCKETS)
        self.prompt_length = Histogram(lengths)
        self.computed_length = Histogram(lengths)
        self.output_length = Histogram(lengths)
        self.longest_output = Histogram(lengths)
        self.max_tokens = Histogram(lengths)
        self.num_completions = Histogram(COMPLETION_BUCKETS)
        self.loop_lag = Histogram(LAG_BUCKETS)
        self.finished = Counter[FinishReason]()
        self.model_name = model_name
        self.tgi = TgiMetrics(engine) if with_tgi else None
        self._labels = {"model_name": model_name, "engine": "0"}
        self._engine = engine
        self._requests = Counter[tuple[str, str, str]]()
        self._failures = Counter[tuple[str, str]]()
        self._tenants = Counter[tuple[str]]()
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self._families))
        ProcessCollector(registry=self._registry)

    def add(self, families: Callable[[Mapping[str, str]], Iterator[Metric]]) -> None:
        """Show these too; they are made when they are asked for, with these labels."""
        labels = {"model_name": self.model_name}
        self._registry.register(_Families(lambda: families(labels)))

    def stopwatch(self, record: RequestRecord, params: SamplingParams, num_prompt_tokens: int) -> Stopwatch:
        """Measure one prompt of a request, which has just been submitted."""
        self.prompt_length.observe(num_prompt_tokens)
        self.num_completions.observe(params.n)
        if params.max_tokens is not None:
            self.max_tokens.observe(params.max_tokens)
        return Stopwatch(self, record, num_prompt_tokens)

    def take(self, record: RequestRecord) -> None:
        """A request has ended."""
        if self.tgi is not None:
            self.tgi.take(record)
        if record.is_attended:
            self._requests[record.route or "none", record.method, f"{record.final_status // 100}xx"] += 1
        if record.failure is not None:
            self._failures[record.failure.code or "invalid_request", str(record.failure.status)] += 1
        if record.route is not None and record.operation is not None:
            self._tenants[record.tenant,] += 1

    def render(self) -> bytes:
        """The exposition in Prometheus' text format, whatever a scraper would like better.

        prometheus_client's OpenMetrics writes a sample's `vllm:` as `vllm_` below a TYPE that keeps the colon: no
        dashboard finds such names, and its own parser refuses them.
        """
        ours = generate_latest(self._registry)
        return ours if self.tgi is None else ours + self.tgi.render().encode()

    def _families(self) -> Iterator[Metric]:
        yield from engine_families(self._engine, self._labels)
        for name, documentation, histogram in self._histograms():
            yield histogram.family(name, documentation, self._labels)
        documentation = "Sequences that ended; abort is the client's or the server's."
        reasons = {(reason.value,): self.finished[reason] for reason in FinishReason}
        yield counter_by("vllm:request_success", documentation, self._labels, ("finished_reason",), reasons)
        documentation = "HTTP requests that ended, by route, method and hundreds of the status."
        yield counter_by("http_requests", documentation, {}, ("handler", "method", "status"), self._requests)
        documentation = "Requests that failed, by reason and status; also in the middle of a stream."
        yield counter_by("headrace:request_failures", documentation, self._labels, ("code", "status"), self._failures)
        documentation = "Requests to the model that have ended, by tenant."
        yield counter_by("headrace:tenant_requests", documentation, self._labels, ("tenant",), self._tenants)

    def _histograms(self) -> Iterator[tuple[str, str, Histogram]]:
        yield "vllm:time_to_first_token_seconds", "From arrival to a sequence's first token.", self.first_token
        yield "vllm:inter_token_latency_seconds", "Between one token of a sequence and the next.", self.inter_token
        documentation = "The older name of inter_token_latency_seconds."
        yield "vllm:time_per_output_token_seconds", documentation, self.inter_token
        documentation = "A sequence's mean time per token after its first."
        yield "vllm:request_time_per_output_token_seconds", documentation, self.per_output_token
        yield "vllm:e2e_request_latency_seconds", "From a request's arrival to a sequence's end.", self.latency
        yield "vllm:request_queue_time_seconds", "How long a sequence waited before it ran.", self.queue
        yield "vllm:request_inference_time_seconds", "From then to its end.", self.inference
        yield "vllm:request_prefill_time_seconds", "Of that, up to its first token.", self.prefill
        yield "vllm:request_decode_time_seconds", "Of that, from its first token on.", self.decode
        yield "vllm:request_prompt_tokens", "Tokens of a prompt.", self.prompt_length
        documentation = "Of those, the ones that were not cached."
        yield "vllm:request_prefill_kv_computed_tokens", documentation, self.computed_length
        yield "vllm:request_generation_tokens", "Output tokens of a sequence.", self.output_length
        documentation = "Output tokens of a prompt's longest sequence."
        yield "vllm:request_max_num_generation_tokens", documentation, self.longest_output
        yield "vllm:request_params_max_tokens", "max_tokens of requests that have it.", self.max_tokens
        yield "vllm:request_params_n", "n of requests.", self.num_completions
        documentation = "How late the server's event loop comes to what is due."
        yield "headrace:event_loop_lag_seconds", documentation, self.loop_lag


class Stopwatch:
    """Times the sequences of one prompt, and notes in the request's record what it saw."""

    def __init__(self, metrics: Metrics, record: RequestRecord, num_prompt_tokens: int) -> None:
        self._metrics = metrics
        self._record = record
        self._submitted = time.perf_counter()
        self._num_prompt_tokens = num_prompt_tokens
        self._seconds_waited = 0.0
        self._first_token: float | None = None
        self._last_token: float | None = None
        self.has_begun = False
        self._running: dict[int, _Times] = {}
        self._is_closed = False
        self._num_finished = 0
        self._longest = 0
        record.prompt_tokens += num_prompt_tokens
        if record.submitted is None:
            record.submitted = self._submitted

    @property
    def times(self) -> Times:
        """What has happened so far."""
        return Times(self._record.arrival, self._submitted, self._first_token, self._last_token)

    def begin(self, seconds_waited: float, num_cached_tokens: int) -> None:
        """The prompt runs: it waited for so long, and so much of it was cached. Once, before `take`."""
        self.has_begun = True
        self._seconds_waited = seconds_waited
        self._metrics.computed_length.observe(self._num_prompt_tokens - num_cached_tokens)
        self._record.cached_tokens += num_cached_tokens
        if self._record.first_token is None:
            self._record.seconds_queued = seconds_waited

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
        if self._is_closed:
            return
        self._is_closed = True
        num_cancelled = len(self._running) or int(not self._num_finished)
        self._metrics.finished[FinishReason.ABORT] += num_cancelled
        self._record.finish_reasons += [FinishReason.ABORT.value] * num_cancelled
        for times in self._running.values():
            self._ended(times)
        self._metrics.longest_output.observe(self._longest)

    def _take_tokens(self, chunk: Chunk, now: float) -> None:
        num_tokens = len(chunk.token_ids)
        self._last_token = now
        if self._first_token is None:
            self._first_token = now
        times = self._running.get(chunk.index)
        if times is None:
            self._running[chunk.index] = _Times(now, num_tokens)
            self._metrics.first_token.observe(now - self._record.arrival)
            if self._record.first_token is None:
                self._record.first_token = now
            return
        self._metrics.inter_token.observe((now - times.last) / num_tokens, num_tokens)
        times.last = now
        times.num_tokens += num_tokens

    def _finish(self, index: int, reason: FinishReason, now: float) -> None:
        metrics = self._metrics
        self._num_finished += 1
        metrics.finished[reason] += 1
        self._record.finish_reasons.append(reason.value)
        metrics.latency.observe(now - self._record.arrival)
        times = self._running.pop(index, None)
        metrics.output_length.observe(times.num_tokens if times else 0)
        if times is None:
            return
        scheduled = min(self._submitted + self._seconds_waited, times.first)
        metrics.queue.observe(self._seconds_waited)
        metrics.inference.observe(now - scheduled)
        metrics.prefill.observe(times.first - scheduled)
        metrics.decode.observe(times.last - times.first)
        if times.num_tokens > 1:
            metrics.per_output_token.observe((times.last - times.first) / (times.num_tokens - 1))
        self._ended(times)

    def _ended(self, times: _Times) -> None:
        self._record.completion_tokens += times.num_tokens
        self._longest = max(self._longest, times.num_tokens)


class _Times:
    """When a sequence's first and last tokens came."""

    __slots__ = ("first", "last", "num_tokens")

    def __init__(self, now: float, num_tokens: int) -> None:
        self.first = self.last = now
        self.num_tokens = num_tokens


class _Families(Collector):
    """Metrics that are made when they are asked for."""

    def __init__(self, make: Callable[[], Iterator[Metric]]) -> None:
        self._make = make

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not read the engine when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        return self._make()
