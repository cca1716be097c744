"""The rows of a run, and the Markdown table of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from random_model import SHAPES

from peers.models import path_of, weight_bytes
from peers.results import (
    IMPOSSIBLE,
    Entry,
    Limits,
    Row,
    Run,
    Sample,
    best_of,
    highest_limits,
    medians,
    sides,
    valid_samples,
)
from peers.workloads import WORKLOADS, Kind, Shape, Workload, cost_of, least_memory, target_of


def peak_name(entry: Entry) -> str:
    """Which of the machine's peaks its arithmetic is held against."""
    return "peak_int8" if entry.bits < 16 else "peak_flops"


def peak_of(limits: Limits, entry: Entry) -> float:
    """That peak; float32's where the integer one was not measured."""
    return limits.get(peak_name(entry)) or limits["peak_flops"]


def percent_of(sample: Sample, workload: Workload, limits: Limits) -> tuple[float, str] | None:
    """Percent of the limit that binds, and which that is; None where a workload has none."""
    assert sample.value is not None
    cost = cost_of(workload, Shape.of(SHAPES[sample.model]), sample.weight_bytes, sample.value)
    if cost is None:
        return None
    peak = peak_of(limits, sample.entry)
    return cost.percent(limits["read_bandwidth"], peak), cost.bound(limits["read_bandwidth"], peak)


def is_impossible(sample: Sample, workload: Workload, highest: Limits) -> bool:
    """A figure beyond what the machine did at its best moment of the run. bfloat16 may be twice as fast as float32."""
    if sample.value is None:
        return False
    raised = {name: value * (2 if name == "peak_flops" else 1) for name, value in highest.items()}
    found = percent_of(sample, workload, raised)
    return found is not None and found[0] > IMPOSSIBLE


def counting(run: Run) -> tuple[list[Sample], list[Sample]]:
    """(Samples that count, samples that cannot be)."""
    by_name = {workload.name: workload for workload in WORKLOADS}
    highest = highest_limits(run.samples)
    impossible = [sample for sample in run.samples if is_impossible(sample, by_name[sample.workload], highest)]
    wrong = set(map(id, impossible))
    return [sample for sample in valid_samples(run.samples) if id(sample) not in wrong], impossible


def rows_of(run: Run) -> list[Row]:
    """A row for each model, workload and width of weights that headrace was measured with."""
    samples, _ = counting(run)
    return [
        row
        for workload in WORKLOADS
        for model in dict.fromkeys(sample.model for sample in samples if sample.workload == workload.name)
        for bits in workload.bits
        for row in _row(samples, model, workload, bits)
    ]


def _row(samples: list[Sample], model: str, workload: Workload, bits: int) -> Iterator[Row]:
    found = medians(samples, model, workload.name)
    ours, theirs = sides(found, bits)
    our_best = best_of(found, ours, smaller=workload.smaller_is_better)
    if our_best is None:
        return
    best = best_of(found, theirs, smaller=workload.smaller_is_better)
    percent, bound = _percent(samples, model, workload, our_best)
    yield Row(
        model=model,
        workload=workload.name,
        bits=bits,
        unit=workload.unit,
        ours=found[our_best][0],
        our_entry=our_best,
        best=None if best is None else found[best][0],
        best_entry=best,
        num_samples=found[our_best][1],
        target=target_of(workload, model, bits),
        smaller_is_better=workload.smaller_is_better,
        percent=percent,
        bound=bound,
    )


def _percent(samples: list[Sample], model: str, workload: Workload, entry: Entry) -> tuple[float | None, str]:
    """The median over an entry's samples, each against the limits beside it."""
    each = []
    for sample in samples:
        if (sample.model, sample.workload, sample.entry) == (model, workload.name, entry):
            beside = {name: sample.limit(name) for name in sample.limits[0]}
            found = percent_of(sample, workload, beside)
            if found is not None:
                each.append(found)
    if not each:
        return None, ""
    return sorted(each)[len(each) // 2]


def markdown(run: Run) -> str:
    """The table, then what is missing, what failed and what cannot be."""
    lines = [
        "| workload | model | weights | headrace | best peer | ratio | target | of the limit | target | reached | n |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|--:|",
        *(_line(row) for row in rows_of(run)),
    ]
    notes = [f"- {what}: {why}" for what, why in sorted(run.missing.items())]
    failed = {f"{one.entry.label}, {one.model}, {one.workload}": one.error for one in run.samples if one.error}
    notes += [f"- {what} gave no figure: {why}" for what, why in sorted(failed.items())]
    notes += [
        f"- {one.entry.label}, {one.model}, {one.workload}: {one.value:.4g} is beyond the machine's limits"
        for one in counting(run)[1]
    ]
    return "\n".join([*lines, *(["", "Not measured, or left out:", "", *notes] if notes else [])]) + "\n"


def _line(row: Row) -> str:
    compare = "≤" if row.smaller_is_better else "≥"
    peer = "–" if row.best is None or row.best_entry is None else f"{number(row.best)} ({row.best_entry.label})"
    wanted = "" if row.target.percent is None else f"≥ {row.target.percent:.0f} %"
    percent = "" if row.percent is None else f"{row.percent:.0f} % {row.bound}"
    reached = {True: "yes", False: "**no**", None: "–"}[row.is_reached]
    cells = (
        row.workload,
        row.model,
        f"{row.bits}-bit",
        f"{number(row.ours)} {row.unit} ({row.our_entry.form})",
        peer,
        "–" if row.ratio is None else f"{row.ratio:.2f} ×",
        f"{compare} {row.target.ratio:g} ×",
        percent,
        wanted,
        reached,
        str(row.num_samples),
    )
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def memory_line(run: Run, work: Path) -> list[str]:
    """What peak memory is held against beside the peers: weights, KV cache and 150 MB."""
    lines = []
    for row in rows_of(run):
        workload = next(one for one in WORKLOADS if one.name == row.workload)
        if workload.kind is Kind.MEMORY:
            weights = weight_bytes(path_of(work, row.model, row.our_entry.form))
            least = least_memory(workload, Shape.of(SHAPES[row.model]), weights)
            lines.append(
                f"{row.model}, {row.our_entry.form}: {row.ours:.0f} MiB; weights + KV + 150 MB are {least:.0f} MiB"
            )
    return lines
