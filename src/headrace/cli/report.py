"""Tables for people: rich on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

_PLAIN_WIDTH = 400  # not a terminal: nothing is wrapped or cut


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Table:
    """A table; `numbers` are the columns to align to the right."""
    made = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def show(made: Table, *, err: bool = False) -> None:
    """Print a table to stdout or stderr: in colour on a terminal, as wide as it needs elsewhere."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        Console(file=stream, highlight=False, markup=False, emoji=False).print(made)
        return
    console = Console(file=stream, width=_PLAIN_WIDTH, no_color=True, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(made)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n".join(lines), err=err)


def benchmark_table(result: dict[str, Any]) -> Table:
    """What `measure` found, a row for each measurement."""
    title = (
        f"{result['model']} on {result['machine']['processor']}, {result['machine']['cores']} cores:"
        f" {limits_line(result['limits'])};"
        " forward, sampling and overhead are a step's milliseconds"
    )
    columns = ("", "tokens/s", "ms/step", "of limit", "forward", "sampling", "overhead")
    rows = [
        (
            one["name"],
            number(one["tokens_per_second"]),
            number(one["milliseconds_per_step"]),
            f"{one['percent_of_limit']:.0f} % {one['limit']}",
            number(one["forward_milliseconds"]),
            number(one["sampling_milliseconds"]),
            number(one["overhead_milliseconds"]),
        )
        for one in result["results"]
    ]
    return table(title, columns, rows, numbers=(1, 2, 3, 4, 5, 6))


def operations_table(result: dict[str, Any]) -> Table:
    """Where the steps of each measurement spend their time, the longest first."""
    results = result["results"]
    kinds = dict.fromkeys(kind for one in results for kind in one["operations_milliseconds"])

    def cell(one: dict[str, Any], milliseconds: float | None) -> str:
        if milliseconds is None:
            return ""
        return f"{number(milliseconds)} {100 * milliseconds / one['milliseconds_per_step']:2.0f} %"

    rows = [[kind, *(cell(one, one["operations_milliseconds"].get(kind)) for one in results)] for kind in kinds]
    for name in ("sampling", "overhead"):
        rows.append([name, *(cell(one, one[f"{name}_milliseconds"]) for one in results)])
    columns = ("", *(one["name"] for one in results))
    return table("milliseconds of a step, by operation", columns, rows, numbers=range(1, len(columns)))


def kernels_table(result: dict[str, Any]) -> Table:
    """What `measure_kernels` found, a row for each measurement."""
    backend = result["backend"]
    title = (
        f"{result['machine']['processor']}, {backend['instruction_set']}, {backend['threads']} threads: "
        + limits_line(result["limits"])
    )
    rows = [
        (
            one["kernel"],
            one["tokens"],
            number(one["milliseconds"]),
            number(one["gigabytes_per_second"]),
            number(one["giga_operations_per_second"]) if one["giga_operations_per_second"] else "",
            f"{one['percent_of_limit']:.0f} % {one['limit']}",
        )
        for one in result["results"]
    ]
    return table(title, ("kernel", "tokens", "ms", "GB/s", "GOP/s", "of limit"), rows, numbers=(1, 2, 3, 4, 5))


def limits_line(limits: dict[str, float]) -> str:
    """`33.1 GB/s read, 234 GFLOP/s float32, 940 GOP/s int8`."""
    return (
        f"{limits['read_bandwidth'] / 1e9:.1f} GB/s read, {limits['peak_flops'] / 1e9:.0f} GFLOP/s float32,"
        f" {limits['peak_int8'] / 1e9:.0f} GOP/s int8"
    )


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rounded(value: Any) -> Any:
    """The same JSON value with floats of six significant digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
