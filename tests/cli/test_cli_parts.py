"""Parts of the command line alone: sizes, costs, timing, and errors becoming lines."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import Headrace
from rich.console import Console

from headrace.cli import machine
from headrace.cli.cost import Cost, Matrices, Work, cost_of, num_parameters
from headrace.cli.machine import Limits, cpu_ops, describe_machine, measure_limits, median_limits
from headrace.cli.report import benchmark_table, number
from headrace.cli.status import TextOut, Timing
from headrace.cli.values import ByteSize
from headrace.llm import LLM
from headrace.types import Chunk, FinishReason


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("2GiB", 2 * 1024**3),
        ("1.5 gib", 3 * 1024**3 // 2),
        ("500MB", 500 * 1000**2),
        ("3kib", 3072),
        ("1TB", 1000**4),
        ("7b", 7),
        ("4096", 4096),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert ByteSize().convert(text, None, None) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "2XB", "-1GiB", "4K", "1e9", "2 GiB of memory", "0x10"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size, expected one such as 2GiB"):
        ByteSize().convert(text, None, None)


@given(st.integers(0, 2**50))
def test_plain_numbers_are_bytes(nbytes: int) -> None:
    assert ByteSize().convert(str(nbytes), None, None) == nbytes
    assert ByteSize().convert(nbytes, None, None) == nbytes


# cost, by hand


def test_cost_of_a_llama(stories260k: str) -> None:
    with LLM(stories260k) as llm:
        found = cost_of(llm.decoder, kv_bytes=7)
        assert num_parameters(llm.spec) == 260032
    heads, kv_heads, size, hidden, inner, layers, vocabulary = 8, 4, 8, 64, 172, 5, 512
    attention = hidden * (heads + 2 * kv_heads) * size + heads * size * hidden
    assert found.layers.parameters == layers * (attention + 3 * hidden * inner)
    assert found.layers.nbytes == 4 * found.layers.parameters
    assert found.head == Matrices(4 * hidden * vocabulary, hidden * vocabulary)
    assert found.kv_bytes == 7
    assert found.attention_flops == 2 * 2 * heads * size
    assert (found.experts, found.expert_share, found.windows) == (Matrices(0, 0), 0.0, (None,) * layers)


def test_cost_of_a_mixture_with_windows() -> None:
    mixture = Cost(
        layers=Matrices(100, 50),
        head=Matrices(10, 5),
        experts=Matrices(800, 400),
        expert_share=0.25,
        windows=(None, 4),
        kv_bytes=3,
        attention_flops=7,
    )
    assert mixture.decode(1, 10) == Work(100 + 10 + 200 + (10 + 4) * 3, 2 * (50 + 5 + 100) + 14 * 7)
    two = mixture.decode(2, 10)
    assert two.nbytes == 100 + 10 + (1 - 0.75**2) * 800 + 2 * 14 * 3
    assert two.flops == 2 * mixture.decode(1, 10).flops
    positions = (1 + 2 + 3 + 4 + 5) + (1 + 2 + 3 + 4 + 4)
    assert mixture.prefill(5).flops == 2 * (5 * (50 + 100) + 5) + positions * 7


def test_the_roofline_is_the_slower_of_both() -> None:
    limits = Limits(read_bandwidth=10.0, peak_flops=100.0, peak_int8=400.0)
    assert Work(20.0, 100.0).least_seconds(limits) == 2.0
    assert Work(20.0, 100.0).bound(limits) == "bandwidth"
    assert Work(20.0, 300.0).least_seconds(limits) == 3.0
    assert Work(20.0, 300.0).bound(limits) == "arithmetic"
    assert Work(20.0, 100.0, 800.0).least_seconds(limits) == 3.0
    assert Work(20.0, 100.0, 800.0).operations == 900.0


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BUFFER_BYTES", 1 << 22)
    limits = measure_limits(cpu_ops(2))
    assert limits.read_bandwidth > 1e7
    assert limits.peak_flops > 1e6
    samples = [Limits(1.0, 9.0, 4.0), Limits(3.0, 5.0, 5.0), Limits(2.0, 7.0, 6.0)]
    assert median_limits(samples) == Limits(2.0, 7.0, 5.0)


def test_machine_respects_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    real = describe_machine()
    assert real.cores >= 1
    assert real.free_memory > 0
    read = Path.read_text

    def limited(path: Path, *args: object, **options: object) -> str:
        return "12345678\n" if str(path).endswith("memory.max") else read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", limited)
    assert describe_machine().memory == 12345678


# status lines


def test_timing_counts_what_came() -> None:
    timing = Timing(started=10.0)
    assert timing.line() == "no tokens"
    timing.add(Chunk(0, "a", [1]))
    timing.add(Chunk(0, "", [2, 3], finish_reason=FinishReason.LENGTH))
    timing.started, timing.first, timing.last = 10.0, 10.5, 12.5
    assert timing.line(3) == "3 tokens · 1 tokens/s · first after 500 ms · cut off there (--max-tokens sets the limit)"
    assert timing.line(None).endswith("the context is full")


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.012345, 1.5, 99.94, 12345.6)] == ["0.0123", "1.5", "99.9", "12,346"]


def test_the_benchmark_fits_into_80_columns() -> None:
    row = {
        **{"tokens_per_second": 123_456.0, "milliseconds_per_step": 0.2345, "percent_of_limit": 100.0},
        **{"limit": "arithmetic", "forward_milliseconds": 0.2345, "sampling_milliseconds": 0.02345},
        "overhead_milliseconds": 0.02345,
    }
    names = ("prefill 511", "decode x 32")
    result = {
        "model": "stories",
        "machine": {"processor": "some processor", "cores": 2},
        "limits": {"read_bandwidth": 1e10, "peak_flops": 1e11, "peak_int8": 4e11},
        "results": [{"name": name, **row} for name in names],
    }
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(benchmark_table(result))
    rows = [line for line in capture.get().splitlines() if "arithmetic" in line]
    assert [line.split()[:2] for line in rows] == [name.split()[:2] for name in names]  # nothing is wrapped


def test_text_out_ends_lines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    out = TextOut()
    out.end_line()
    out.write("one")
    out.write("")
    out.end_line()
    out.end_line()
    assert stream.getvalue() == "one\n"


# errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (ZeroDivisionError(), 1, "error: ZeroDivisionError; this is a bug: run again with --debug and report"),
        (MemoryError(), 1, "error: out of memory; lower --kv-memory"),
        (PermissionError(13, "Permission denied", "a\x1b[31m b"), 1, "error: Permission denied: a�[31m b; check the"),
        (ValueError("x" * 9999), 1, f"error: ValueError: {'x' * 900}"),
        (OSError("one\ntwo"), 1, "error: OSError: one two; this is a bug"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_exit_codes(
    headrace: Headrace, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("headrace.cli.models._listing", fail)
    monkeypatch.setattr("headrace.cli.command._drop_output", lambda: None)
    done = headrace("models")
    assert done.code == code
    assert done.err.strip().startswith(line)
    assert len(done.err.strip().splitlines()) == (1 if line else 0)
    assert len(done.err) < 1100


def test_warnings_are_lines_on_stderr(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr("headrace.cli.models._listing", lambda: logging.getLogger("headrace.hub").warning("a %s", "b"))
    for _ in range(2):  # once each, however often the command has run
        assert headrace("models", "--json").err == "headrace: a b\n"
