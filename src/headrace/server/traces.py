"""OpenTelemetry: a span for each request and one for each of its phases, with the attributes of the GenAI conventions.

All spans are made when a request has ended, from its record: while it runs tracing costs nothing. What was asked and
answered is never in them. The SDK is an extra (`headrace[otel]`), and imported only here, when tracing is on.

Source: OpenTelemetry's semantic conventions for generative AI, https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from headrace import __version__
from headrace.errors import ConfigError
from headrace.sampling_params import SamplingParams
from headrace.server.record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_EXPORT_SECONDS = 5


class Traces:
    """Makes the spans of requests that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("headrace", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def take(self, record: RequestRecord) -> None:
        """A request has ended; a quiet one is no span."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        if record.is_quiet or record.end is None:
            return
        context = self._propagator.extract(record.headers)
        name = f"{record.method} {record.route or ''}".strip()
        if record.operation is not None:
            name = f"{record.operation} {record.model}"
        span = self._tracer.start_span(
            name, context, SpanKind.SERVER, attributes=_attributes(record), start_time=record.arrival_time
        )
        for phase, start, end in _phases(record):
            child = self._tracer.start_span(
                phase, set_span_in_context(span, context), start_time=record.on_the_wall(start)
            )
            child.end(record.on_the_wall(end))
        for event, moment, facts in _events(record):
            span.add_event(event, facts, moment)
        failure = record.failure
        if failure is not None and failure.status >= 500:
            span.set_status(Status(StatusCode.ERROR, failure.code))
        span.end(record.on_the_wall(record.end))

    def close(self) -> None:
        """Send what has not been sent; takes a few seconds where nobody takes it."""
        self._provider.shutdown()


def traces_to(endpoint: str) -> Traces:
    """Traces that go to a collector, over OTLP with HTTP; its path is /v1/traces where `endpoint` names none.

    Raises:
        ConfigError: the SDK is not installed, or it is no URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--otlp-endpoint is {endpoint!r}, expected a URL such as http://localhost:4318")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"tracing needs OpenTelemetry's SDK ({error}); install it with pip install 'headrace[otel]'"
        ) from error
    url = urlunsplit(parts if parts.path.strip("/") else parts._replace(path="/v1/traces"))
    resource = Resource.create({"service.name": "headrace", "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_SECONDS)))
    return Traces(provider)


def _phases(record: RequestRecord) -> Iterator[tuple[str, float, float]]:
    """Where the time went: read and tokenised, waited, computed the prompt, generated. The last one ends with it.

    What is no generation (embeddings, scores) is computed in one phase, tokenising included.
    """
    end = record.arrival if record.end is None else record.end
    if record.submitted is None:
        yield "receive", record.arrival, end
        return
    yield "receive", record.arrival, record.submitted
    if record.params is None and record.failure is None:  # answered by one call, without a first token
        begun = min(record.submitted + record.seconds_queued, end)
        yield "queue", record.submitted, begun
        yield "compute", begun, end
        return
    if record.first_token is None or record.scheduled is None:
        yield "queue", record.submitted, end
        return
    yield "queue", record.submitted, record.scheduled
    yield "prefill", record.scheduled, record.first_token
    yield "decode", record.first_token, end


def _events(record: RequestRecord) -> Iterator[tuple[str, int, dict[str, str]]]:
    """What happened to it meanwhile, and when, in nanoseconds since 1970."""
    death = record.interruption
    if death is not None:
        yield "headrace.engine_died", death.died_at, {} if death.reason is None else {"headrace.reason": death.reason}
        if death.gave_at is not None:
            yield "headrace.engine_went_on", death.gave_at, {}


def _attributes(record: RequestRecord) -> dict[str, Any]:
    failure = record.failure
    attributes: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "error.type": None if failure is None else failure.code or str(failure.status),
        "headrace.request_id": record.id,
        "headrace.tenant": record.tenant,
        "headrace.dialect": record.dialect,
    }
    if record.operation is not None:
        attributes |= {
            "gen_ai.operation.name": record.operation,
            "gen_ai.provider.name": "headrace",
            "gen_ai.request.model": record.model,
            "gen_ai.response.model": record.model,
        }
    if record.params is not None:
        attributes |= _of_params(record.params) | {"gen_ai.request.stream": record.is_streamed}
    if record.submitted is not None or record.prompt_tokens:
        attributes["gen_ai.usage.input_tokens"] = record.prompt_tokens
    if record.submitted is not None and record.params is not None:
        attributes |= {
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.response.finish_reasons": tuple(record.finish_reasons),
        }
    if record.first_token is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = record.first_token - record.arrival
    return {name: value for name, value in attributes.items() if value is not None}


def _of_params(params: SamplingParams) -> dict[str, Any]:
    return {
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k if params.top_k > 0 else None,
        "gen_ai.request.frequency_penalty": params.frequency_penalty,
        "gen_ai.request.presence_penalty": params.presence_penalty,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.choice.count": params.n if params.n != 1 else None,
    }
