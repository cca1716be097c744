"""What the waiting queue shows in /metrics beside vLLM's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from headrace.server.families import counter, counter_by, gauge, gauge_by

if TYPE_CHECKING:
    from headrace.server.admission import Admission


def admission_families(admission: Admission, labels: Mapping[str, str]) -> Iterator[Metric]:
    """One snapshot of the queue."""
    waiting = admission.waiting
    documentation = "Tokens of prompts and expected outputs that wait."
    yield gauge("headrace:waiting_tokens", documentation, labels, waiting.tokens)
    documentation = "Requests that found the queue full."
    yield counter("headrace:requests_refused", documentation, labels, waiting.num_refused)
    documentation = "HTTP requests that wait, by tenant."
    callers = {(tenant,): count for tenant, count in waiting.callers.items()}
    yield gauge_by("headrace:tenant_requests_waiting", documentation, labels, ("tenant",), callers)
    documentation = "Tokens of prompts and outputs of requests that have ended, by tenant."
    tokens = {(tenant,): count for tenant, count in admission.tenant_tokens.items()}
    yield counter_by("headrace:tenant_tokens", documentation, labels, ("tenant",), tokens)
