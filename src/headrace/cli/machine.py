"""The machine: processor, memory, and the limits that benchmarks are held against, measured."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headrace.config import available_threads, forced_instruction_set

if TYPE_CHECKING:
    from headrace.ops.cpu import CpuOps

_BUFFER_BYTES = 1 << 30
"""Read by all threads together; beyond the caches of today's processors, where that much memory is free"""
_LEAST_BUFFER_BYTES = 1 << 20
_PASSES = 9


@dataclass(frozen=True, slots=True)
class Machine:
    """What a process has to work with."""

    processor: str
    cores: int
    """That this process may use"""
    memory: int
    """Bytes; the cgroup's limit where there is one"""
    free_memory: int
    system: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine does at most, with the threads and the instruction set that the kernels use."""

    read_bandwidth: float
    """Bytes per second, one pass over memory that no cache holds"""
    peak_flops: float
    """Float32 operations per second, two for each multiply-add"""
    peak_int8: float
    """The same of bytes, as activations of 8 bits are multiplied with quantised weights"""


def describe_machine() -> Machine:
    """The machine as this process sees it; measures nothing."""
    from headrace.engine.memory import free_memory

    return Machine(
        processor=_processor(),
        cores=available_threads(),
        memory=_memory(),
        free_memory=free_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def measure_limits(ops: CpuOps) -> Limits:
    """Measure each limit on the threads of `ops`: the median of a few runs. Less than a second."""
    from headrace.engine.memory import free_memory

    nbytes = max(_LEAST_BUFFER_BYTES, min(_BUFFER_BYTES, free_memory() // 4))
    buffer = np.ones(nbytes // 4, np.float32)
    rates = (lambda: ops.read_rate(buffer), ops.multiply_add_rate, ops.dot_rate)
    return Limits(*map(_median_rate, rates))


def cpu_ops(threads: int | None = None) -> CpuOps:
    """Kernels as an engine with those settings would have them, to measure with."""
    from headrace.ops.cpu import CpuOps

    return CpuOps(threads, forced_instruction_set())


def median_limits(samples: list[Limits]) -> Limits:
    """The median of each limit."""
    return Limits(*(statistics.median(values) for values in zip(*map(astuple, samples), strict=True)))


def _median_rate(measure: Callable[[], float]) -> float:
    """Of a few runs, after one to warm up: what the machine sustains now, not its luckiest moment."""
    measure()
    return statistics.median(measure() for _ in range(_PASSES))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(file).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            total = min(total, int(limit))
    return total
