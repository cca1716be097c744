"""TGI's 27 metrics, for dashboards made for it; `--tgi-metrics` shows them beside the others.

What has no meaning here stays 0: a step is not a prefill or a decode but both, and all are counted as decode; batches
are neither put together nor filtered. Times of steps are means over what has run between two looks at the engine.

Source: text-generation-inference, docs/source/reference/metrics.md and the names in its router.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from headrace.engine.stats import EngineStats
from headrace.server.engine_metrics import Watched
from headrace.server.histograms import Histogram
from headrace.server.record import RequestRecord

_DURATIONS = tuple(0.0001 * 1.5**power for power in range(1, 36))
_METHODS = ("prefill", "decode")
_ERRORS = ("dropped", "generation", "incomplete", "overloaded", "template", "validation")
_REQUEST = ("duration", "validation_duration", "queue_duration", "inference_duration", "mean_time_per_token_duration")
_BATCH = ("inference_duration", "forward_duration", "decode_duration", "filter_duration", "concat_duration")
_SECONDS: Mapping[str, Callable[[EngineStats], float]] = {
    "inference_duration": lambda stats: stats.seconds_in_steps,
    "forward_duration": lambda stats: stats.seconds_in_forward,
    "decode_duration": lambda stats: stats.seconds_in_sampling,
}


class TgiMetrics:
    """Counts what TGI counts."""

    def __init__(self, engine: Watched) -> None:
        self._engine = engine
        self._tokens = engine.kv_plan.num_blocks * engine.kv_plan.block_size
        lengths = [engine.max_context / 100 * (part + 1) for part in range(100)]
        self._requests = {name: Histogram(_DURATIONS) for name in _REQUEST}
        self._requests |= {n: Histogram(lengths) for n in ("input_length", "generated_tokens", "max_new_tokens")}
        self._steps = {name: Histogram(_DURATIONS) for name in _BATCH}
        self._sizes = Histogram(range(1, engine.config.max_sequences + 1))
        self._failures = Counter[str]()
        self._num_requests = self._num_successes = 0
        self._seen = engine.stats()

    def take(self, record: RequestRecord) -> None:
        """A request has ended."""
        if record.params is None and record.failure is None:
            return
        self._num_requests += 1
        if record.failure is not None or record.client_left:
            self._failures[_error(record)] += 1
            return
        self._num_successes += 1
        first, submitted = record.first_token, record.submitted
        if record.end is None or first is None or submitted is None or record.scheduled is None:
            return
        inference = record.end - record.scheduled
        durations = (
            *(record.end - record.arrival, submitted - record.arrival, record.seconds_queued, inference),
            inference / max(record.completion_tokens, 1),
        )
        for name, seconds in zip(_REQUEST, durations, strict=True):
            self._requests[name].observe(seconds)
        self._requests["input_length"].observe(record.prompt_tokens)
        self._requests["generated_tokens"].observe(record.completion_tokens)
        if record.params is not None and record.params.max_tokens is not None:
            self._requests["max_new_tokens"].observe(record.params.max_tokens)

    def look(self) -> None:
        """Look at the engine: called now and then, and before the metrics are shown."""
        before, now = self._seen, self._engine.stats()
        self._seen = now
        steps = now.num_steps - before.num_steps
        if steps <= 0:
            return
        for name, read in _SECONDS.items():
            self._steps[name].observe((read(now) - read(before)) / steps, steps)
        self._sizes.observe(max(now.num_running, 1), steps)

    def render(self) -> str:
        """The metrics in Prometheus' text format. TGI's counters end without `_total`, which no library writes."""
        self.look()
        return "".join(f"{line}\n" for line in self._lines(self._seen))

    def _lines(self, stats: EngineStats) -> Iterator[str]:
        block = self._engine.kv_plan.block_size
        yield from _plain("tgi_request_count", "counter", {"": self._num_requests})
        yield from _plain("tgi_request_success", "counter", {"": self._num_successes})
        yield from _plain("tgi_request_failure", "counter", {f'{{err="{e}"}}': self._failures[e] for e in _ERRORS})
        for name, histogram in self._requests.items():
            yield from _histogram(f"tgi_request_{name}", {"": histogram})
        skipped = {"_sum": stats.accepted_tokens, "_count": stats.drafts}
        yield from _plain("tgi_request_skipped_tokens", "summary", skipped)
        yield from _plain("tgi_queue_size", "gauge", {"": stats.num_waiting})
        yield from _plain("tgi_batch_current_size", "gauge", {"": stats.num_running})
        yield from _plain("tgi_batch_current_max_tokens", "gauge", {"": stats.kv_blocks_used * block})
        yield from _plain("tgi_batch_max_total_tokens", "gauge", {"": self._tokens})
        yield from _plain("tgi_batch_total_tokens", "gauge", {"": self._tokens})
        yield from _histogram("tgi_batch_next_size", {"": self._sizes})
        none = Histogram(_DURATIONS)
        for name, histogram in self._steps.items():
            yield from _histogram(
                f"tgi_batch_{name}",
                dict(zip((f'method="{method}"' for method in _METHODS), (none, histogram), strict=True)),
            )
        steps = {'{method="prefill"}': 0, '{method="decode"}': stats.num_steps}
        yield from _plain("tgi_batch_inference_count", "counter", steps)
        yield from _plain("tgi_batch_inference_success", "counter", steps)
        yield from _plain("tgi_batch_inference_failure", "counter", dict.fromkeys(steps, 0))
        reasons = ("backpressure", "chunking", "wait_exceeded")
        yield from _plain("tgi_batch_concat", "counter", {f'{{reason="{reason}"}}': 0 for reason in reasons})


def _error(record: RequestRecord) -> str:
    failure = record.failure
    if failure is None:
        return "dropped"
    if failure.status in (429, 503):
        return "overloaded"
    if failure.code == "missing_chat_template":
        return "template"
    return "generation" if failure.status >= 500 else "validation"


def _plain(name: str, kind: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{labels} {value}"


def _histogram(name: str, histograms: Mapping[str, Histogram]) -> Iterator[str]:
    yield f"# TYPE {name} histogram"
    for label, histogram in histograms.items():
        for bound, count in histogram.buckets():
            yield f'{name}_bucket{{{label}{"," if label else ""}le="{bound}"}} {count}'
        labels = f"{{{label}}}" if label else ""
        yield f"{name}_sum{labels} {histogram.sum}"
        yield f"{name}_count{labels} {histogram.count}"
