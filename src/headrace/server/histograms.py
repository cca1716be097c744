"""Histograms that are cheap enough for every token of every stream, and vLLM's buckets. One thread writes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0),
    *(480.0, 960.0, 1920.0, 7680.0),
)
COMPLETION_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Histogram:
    """Counts observations by bucket: those of at most a bound, and behind them those above all bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """So many times that value."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    @property
    def count(self) -> int:
        """Observations."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, int]]:
        """Bounds, the last one infinite, and how many observations are at most that."""
        return _buckets(self._bounds, self._counts)

    def family(self, name: str, documentation: str, labels: Mapping[str, str]) -> Metric:
        """The histogram as it stands."""
        return histogram_family(name, documentation, labels, self._bounds, self._counts, self.sum)


def histogram_family(
    name: str,
    documentation: str,
    labels: Mapping[str, str],
    bounds: Sequence[float],
    counts: Sequence[int],
    sum_: float,
) -> Metric:
    """A histogram of counts by bucket, one more than there are bounds."""
    family = HistogramMetricFamily(name, documentation, labels=list(labels))
    family.add_metric(list(labels.values()), _buckets(bounds, counts), sum_)
    return family


def one_two_five(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, 50 … up to `limit`."""
    steps = (digit * 10.0**power for power in range(len(str(limit))) for digit in (1, 2, 5))
    return [step for step in steps if step <= limit]


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    edges = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(edges, accumulate(counts), strict=True))
