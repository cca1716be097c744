"""What a server's /metrics say, and what has changed between two looks at them."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click
from prometheus_client.parser import text_string_to_metric_families

from headrace.cli.unreachable import unreachable

_TIMEOUT_SECONDS = 5
_LONGEST = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one look, at a time in seconds."""

    at: float
    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]

    @classmethod
    def of(cls, text: str, at: float) -> Scrape:
        """Of Prometheus' text format."""
        samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        return cls(at, samples)

    def has(self, name: str) -> bool:
        """Whether it has such a metric."""
        return name in self.samples

    def total(self, *names: str) -> float:
        """The sum over all labels of the first of the names that there is; 0 without any."""
        name = self._first(names)
        return sum(value for _, value in self.samples.get(name, ()))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of a label."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self.samples.get(name, ()):
            sums[labels.get(label, "")] += value
        return dict(sums)

    def buckets(self, *names: str) -> dict[float, float]:
        """A histogram's cumulative counts by upper bound."""
        name = self._first([f"{name}_bucket" for name in names])
        return {float(bound): count for bound, count in self.by(name, "le").items()}

    def _first(self, names: Sequence[str]) -> str:
        return next((name for name in names if name in self.samples), names[0])


def fetch(url: str, key: str | None) -> Scrape:
    """Look at a server's metrics.

    Raises:
        click.ClickException: it cannot be reached, or gives none.
    """
    headers = {"accept": "text/plain"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:
            text = response.read(_LONGEST).decode("utf-8", "replace")
        scrape = Scrape.of(text, time.monotonic())
    except HTTPError as error:
        hint = "; give the server's key with --api-key" if error.code in (401, 403) else ""
        raise click.ClickException(f"{url} answers {error.code} {error.reason}{hint}") from None
    except (OSError, HTTPException) as error:  # urllib's own are OSErrors
        raise click.ClickException(unreachable(url, error)) from None
    except ValueError as error:
        raise click.ClickException(f"{url} gives no metrics of Prometheus' format ({error})") from None
    if not any(name.startswith("vllm:") for name in scrape.samples):
        raise click.ClickException(f"{url} has no metrics that begin with vllm:; give a headrace or vLLM server's URL")
    return scrape


def rate(before: Scrape, after: Scrape, *names: str) -> float:
    """A counter's growth per second; from 0 where it has begun again."""
    seconds = after.at - before.at
    return _growth(before.total(*names), after.total(*names)) / seconds if seconds > 0 else 0.0


def rates_by(before: Scrape, after: Scrape, name: str, label: str) -> dict[str, float]:
    """The same by the values of a label."""
    seconds = after.at - before.at
    old = before.by(name, label)
    if seconds <= 0:
        return {}
    return {value: _growth(old.get(value, 0.0), total) / seconds for value, total in after.by(name, label).items()}


def quantiles(before: Scrape | None, after: Scrape, names: Sequence[str], shares: Sequence[float]) -> list[float]:
    """Quantiles of what a histogram has seen between two looks (`before` None: ever), as Prometheus estimates them.

    NaN where it has seen nothing.
    """
    counts = after.buckets(*names)
    if before is not None:
        old = before.buckets(*names)
        if old and all(counts.get(bound, 0) >= count for bound, count in old.items()):
            counts = {bound: count - old.get(bound, 0) for bound, count in counts.items()}
    edges = sorted(counts.items())
    return [_quantile(edges, share) for share in shares]


def _quantile(edges: Sequence[tuple[float, float]], share: float) -> float:
    if not edges or edges[-1][1] <= 0:
        return math.nan
    rank = share * edges[-1][1]
    low, below = 0.0, 0.0
    for bound, count in edges:
        if count >= rank and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = (low if math.isinf(bound) else bound), count
    return low


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after
