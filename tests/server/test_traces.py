"""Spans of requests, as OpenTelemetry's SDK sees them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, FakeStream, broken
from waiting import wait_until

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headrace.async_llm import AsyncLLM
from headrace.config import EngineConfig
from headrace.errors import ConfigError, EngineError
from headrace.server import app
from headrace.server.traces import Traces, traces_to

SECRET = "zebra"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4, "seed": 5, "n": 2}
PHASES = ["receive", "queue", "prefill", "decode"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """spans(n) waits for n requests' spans: their own, and those of their phases by their ids."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(app, "traces_to", lambda _: Traces(provider))

    def finished(count: int) -> tuple[list[ReadableSpan], dict[int, list[ReadableSpan]]]:
        def requests() -> list[ReadableSpan]:
            return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]

        wait_until(lambda: len(requests()) >= count)
        phases: dict[int, list[ReadableSpan]] = {}
        for span in exporter.get_finished_spans():
            if span.kind is not SpanKind.SERVER:
                phases.setdefault(span.parent.span_id, []).append(span)
        return requests(), phases

    return finished


@pytest.mark.parametrize("stream", [False, True])
def test_a_span_and_its_phases(serve, spans, stream: bool) -> None:
    base = serve(FakeLLM(), otlp_endpoint="http://nowhere")
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{parent_id}-01", "x-request-id": "one"}
    text = httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"stream": stream}, headers=headers).text
    (span,), phases = spans(1)
    assert span.name == "chat fake"
    assert (span.context.trace_id, span.parent.span_id) == (int(trace_id, 16), int(parent_id, 16))
    attributes = dict(span.attributes)
    assert attributes == attributes | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "headrace",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.seed": 5,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": stream,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.response.finish_reasons": ("length", "length"),
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "headrace.request_id": "one",
    }
    mine = phases[span.context.span_id]
    assert [phase.name for phase in mine] == PHASES
    edges = [span.start_time, *(phase.end_time for phase in mine)]
    assert [phase.start_time for phase in mine] == edges[:-1]
    assert edges == sorted(edges)
    assert edges[-1] == span.end_time
    assert abs(span.end_time / 1e9 - time.time()) < 60
    said = str([each.to_json() for each in (span, *mine)])
    assert SECRET not in said
    assert text not in said


def test_failures_and_what_is_not_traced(serve, spans) -> None:
    base = serve(broken(EngineError("gone"), after=2), otlp_endpoint="http://nowhere")
    httpx.get(f"{base}/health")
    httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"stream": True})
    httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"model": "other"}, headers={"traceparent": "nonsense"})
    (failed, refused), phases = spans(2)
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "engine_error"
    assert [phase.name for phase in phases[failed.context.span_id]] == PHASES
    assert refused.status.status_code is StatusCode.UNSET  # the client's mistake is no failure of ours
    assert (refused.attributes["error.type"], refused.parent) == ("model_not_found", None)
    assert [phase.name for phase in phases[refused.context.span_id]] == ["receive"]


class DyingLLM(FakeLLM):
    """Its engine dies before the second token, and goes on with the third."""

    def submit(self, *args: Any, **options: Any) -> FakeStream:
        stream = super().submit(*args, **options)
        give = stream.next_chunks

        async def next_chunks(*_: object) -> Any:
            if stream.num_steps == 1 and not stream.is_over:
                self.restarts.count, self.restarts.reason = 1, "killed"
                self.restarts.died_at = time.time_ns()
            elif stream.num_steps == 2:
                self.restarts.gave_at = time.time_ns()
            return await give()

        stream.next_chunks = next_chunks
        return stream


def test_a_death_of_the_engine_is_an_event(serve, spans, caplog: pytest.LogCaptureFixture) -> None:
    llm = DyingLLM(step_seconds=0.02)
    base = serve(llm, otlp_endpoint="http://nowhere")
    with caplog.at_level("INFO", logger="headrace.requests"):
        httpx.post(f"{base}/v1/chat/completions", json=CHAT)
        (span,), phases = spans(1)
    died, went_on = span.events
    assert (died.name, dict(died.attributes)) == ("headrace.engine_died", {"headrace.reason": "killed"})
    assert went_on.name == "headrace.engine_went_on"
    assert span.start_time < died.timestamp <= went_on.timestamp < span.end_time
    assert [phase.name for phase in phases[span.context.span_id]] == PHASES
    assert "the engine died meanwhile" in caplog.text
    httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"max_tokens": 1})
    assert len(spans(2)[0][1].events) == 0, "it came after the death"


def test_what_generates_nothing_has_phases_too(serve, spans) -> None:
    base = serve(
        AsyncLLM("stories", EngineConfig(kv_memory=8 * 2**20, threads=1)), "stories", otlp_endpoint="http://no"
    )
    assert httpx.post(f"{base}/v1/embeddings", json={"model": "stories", "input": ["a b", "c"]}).status_code == 200
    httpx.post(f"{base}/v1/embeddings", json={"model": "stories", "input": []})
    (span, refused), phases = spans(2)
    assert (span.name, span.attributes["gen_ai.operation.name"]) == ("embeddings stories", "embeddings")
    assert span.attributes["gen_ai.usage.input_tokens"] > 2
    assert "gen_ai.usage.output_tokens" not in span.attributes
    mine = phases[span.context.span_id]
    assert [phase.name for phase in mine] == ["receive", "queue", "compute"]
    assert [phase.start_time for phase in mine[1:]] == [phase.end_time for phase in mine[:-1]]
    assert mine[-1].end_time == span.end_time
    assert [phase.name for phase in phases[refused.context.span_id]] == ["receive"]


def test_a_trace_that_is_not_sampled_stays_so(serve, spans) -> None:
    base = serve(FakeLLM(), otlp_endpoint="http://nowhere")
    off = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    httpx.post(f"{base}/v1/chat/completions", json=CHAT, headers=off)
    httpx.post(f"{base}/v1/chat/completions", json=CHAT)
    requests, _ = spans(1)
    assert [span.parent for span in requests] == [None]


def test_nothing_is_imported_when_it_is_off() -> None:
    program = "import sys; import headrace.server.run; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_where_traces_go() -> None:
    with pytest.raises(ConfigError, match="expected a URL"):
        traces_to("localhost:4318")
    for endpoint, url in (
        ("http://localhost:23999", "http://localhost:23999/v1/traces"),
        ("http://localhost:23999/other", "http://localhost:23999/other"),
    ):
        traces = traces_to(endpoint)
        (processor,) = traces._provider._active_span_processor._span_processors
        assert processor.span_exporter._endpoint == url
        traces.close()


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"headrace\[otel\]"):
        traces_to("http://localhost:4318")
