"""What the waiting queue shows in /metrics beside vLLM's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from headrace.server.admission import Admission


class AdmissionCollector(Collector):
    """Reads the queue when scraped."""

    def __init__(self, admission: Admission, model_name: str) -> None:
        self._admission = admission
        self._labels = {"model_name": model_name}

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not read the queue when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One snapshot of the queue."""
        waiting = self._admission.waiting
        gauge = GaugeMetricFamily(
            "headrace:waiting_tokens", "Tokens of prompts and expected outputs that wait.", labels=list(self._labels)
        )
        gauge.add_metric(list(self._labels.values()), waiting.tokens)
        yield gauge
        refused = CounterMetricFamily(
            "headrace:requests_refused", "Requests that found the queue full.", labels=list(self._labels)
        )
        refused.add_metric(list(self._labels.values()), waiting.num_refused)
        yield refused
        callers = GaugeMetricFamily(
            "headrace:tenant_requests_waiting", "HTTP requests that wait, by tenant.", labels=[*self._labels, "tenant"]
        )
        yield self._by_tenant(callers, waiting.callers)
        used = CounterMetricFamily(
            "headrace:tenant_tokens",
            "Tokens of prompts and outputs of requests that have ended, by tenant.",
            labels=[*self._labels, "tenant"],
        )
        yield self._by_tenant(used, self._admission.tenant_tokens)

    def _by_tenant(self, family: GaugeMetricFamily | CounterMetricFamily, counts: Mapping[str, int]) -> Metric:
        for tenant, count in counts.items():
            family.add_metric([*self._labels.values(), tenant], count)
        return family
