"""From samples to rows: which samples count, medians, ratios, percent of the limits, and what stands in the file."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.workloads import Target, Workload

UNSTEADY = 0.7
"""A sample beside which a limit was below this share of the run's median is marked, and repeated"""
IMPOSSIBLE = 110.0
"""Percent of the highest limit of the run beyond which a figure is an error of measurement"""
FINALIST = 0.6
"""After the first round, entries go on that reach this share of the best of their side"""
OURS = "headrace"

Limits = dict[str, float]


@dataclass(frozen=True, slots=True)
class Entry:
    """An engine with one form of the weights and one choice of its settings."""

    engine: str
    form: str
    bits: int
    settings: str = ""

    @property
    def label(self) -> str:
        """Such as `llama.cpp Q4_0 -fa 1`."""
        return " ".join(part for part in (self.engine, self.form, self.settings) if part)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement, with the machine's limits before and after it. `value` is None where `error` says why."""

    round: int
    model: str
    workload: str
    entry: Entry
    value: float | None
    limits: tuple[Limits, Limits]
    weight_bytes: int = 0
    peak_memory: int = 0
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, Entry, int]:
        """What must be measured once (a marked sample again)."""
        return self.model, self.workload, self.entry, self.round

    def limit(self, name: str) -> float:
        """The mean of before and after."""
        return sum(limits[name] for limits in self.limits) / len(self.limits)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    model: str
    workload: str
    bits: int
    unit: str
    ours: float
    our_entry: Entry
    best: float | None
    best_entry: Entry | None
    num_samples: int
    target: Target
    smaller_is_better: bool = False
    percent: float | None = None
    bound: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours against the best peer's."""
        return self.ours / self.best if self.best else None

    @property
    def is_reached(self) -> bool | None:
        """Both targets; None where no peer was measured."""
        if self.ratio is None:
            return None
        is_faster = self.ratio <= self.target.ratio if self.smaller_is_better else self.ratio >= self.target.ratio
        wanted = self.target.percent
        return is_faster and (wanted is None or (self.percent is not None and self.percent >= wanted))


@dataclass(slots=True)
class Run:
    """Everything that one run measured."""

    about: dict[str, Any]
    """Machine, versions, settings"""
    missing: dict[str, str]
    """What could not be installed, made or measured, and why"""
    samples: list[Sample]

    def save(self, path: Path) -> None:
        """Write the file whole, or leave the old one."""
        unfinished = path.with_name(f".{path.name}")
        samples = [asdict(sample) for sample in self.samples]
        unfinished.write_text(json.dumps({"about": self.about, "missing": self.missing, "samples": samples}, indent=1))
        os.replace(unfinished, path)

    @staticmethod
    def load(path: Path) -> Run:
        """Read what `save` wrote."""
        stored = json.loads(path.read_text())
        samples = [
            Sample(**{**one, "entry": Entry(**one["entry"]), "limits": (one["limits"][0], one["limits"][1])})
            for one in stored["samples"]
        ]
        return Run(stored["about"], stored["missing"], samples)

    def is_done(self, model: str, workload: str, entry: Entry, round_number: int) -> bool:
        """Whether a steady sample (or one that failed for good) is there."""
        unsteady = set(map(id, unsteady_samples(self.samples)))
        key = (model, workload, entry, round_number)
        return any(sample.key == key and id(sample) not in unsteady for sample in self.samples)


def median_limits(samples: Iterable[Sample]) -> Limits:
    """The median of every limit over all moments of the run."""
    moments = [limits for sample in samples for limits in sample.limits]
    return {name: statistics.median(moment[name] for moment in moments) for name in (moments[0] if moments else ())}


def highest_limits(samples: Iterable[Sample]) -> Limits:
    """The highest that each limit was at any moment of the run."""
    moments = [limits for sample in samples for limits in sample.limits]
    return {name: max(moment[name] for moment in moments) for name in (moments[0] if moments else ())}


def unsteady_samples(samples: list[Sample]) -> list[Sample]:
    """Those beside which a limit had dropped by more than 30 % of the run's median."""
    usual = median_limits(samples)
    return [
        sample
        for sample in samples
        if any(limits[name] < UNSTEADY * usual[name] for limits in sample.limits for name in usual)
    ]


def valid_samples(samples: list[Sample]) -> list[Sample]:
    """Steady ones with a value; where a key has only unsteady ones, the last of these stays in."""
    unsteady = set(map(id, unsteady_samples(samples)))
    steady = {sample.key: sample for sample in samples if sample.value is not None and id(sample) not in unsteady}
    rest = {sample.key: sample for sample in samples if sample.value is not None}
    return list({**rest, **steady}.values())


def medians(samples: Iterable[Sample], model: str, workload: str) -> dict[Entry, tuple[float, int]]:
    """For each entry of a row, the median and the number of samples."""
    found: dict[Entry, list[float]] = {}
    for sample in samples:
        if (sample.model, sample.workload) == (model, workload) and sample.value is not None:
            found.setdefault(sample.entry, []).append(sample.value)
    return {entry: (statistics.median(values), len(values)) for entry, values in found.items()}


def sides(entries: Iterable[Entry], bits: int) -> tuple[list[Entry], list[Entry]]:
    """Ours in that width of weights, and its rivals: peers' entries with at least as many bits."""
    listed = list(entries)
    ours = [entry for entry in listed if entry.engine == OURS and entry.bits == bits]
    return ours, [entry for entry in listed if entry.engine != OURS and entry.bits >= bits]


def best_of(found: dict[Entry, tuple[float, int]], entries: list[Entry], *, smaller: bool) -> Entry | None:
    """The best median among entries with at least half as many samples as the most measured one."""
    there = [entry for entry in entries if entry in found]
    if not there:
        return None
    most = max(found[entry][1] for entry in there)
    enough = [entry for entry in there if 2 * found[entry][1] >= most]
    return (min if smaller else max)(enough, key=lambda entry: found[entry][0])


def finalists(samples: list[Sample], model: str, workload: Workload, entries: list[Entry]) -> list[Entry]:
    """The entries that are worth more rounds: within reach of the best of their side in any width of weights."""
    found = medians(valid_samples(samples), model, workload.name)
    keep = set()
    for bits in workload.bits:
        for side in sides(entries, bits):
            best = best_of(found, side, smaller=workload.smaller_is_better)
            if best is None:
                continue
            for entry in side:
                if entry not in found:
                    continue
                share = found[entry][0] / found[best][0]
                if (1 / share if workload.smaller_is_better else share) >= FINALIST:
                    keep.add(entry)
    return [entry for entry in entries if entry in keep]
