"""The machine: processor, memory, and the limits that benchmarks are held against, measured."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.config import available_threads

_BUFFER_BYTES = 1 << 30
"""Read by all threads together; beyond the caches of today's processors, where that much memory is free"""
_MATRIX = 1024
_REPEATS = 3


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
    """The most that this machine does now, with all cores that the process may use."""

    read_bandwidth: float
    """Bytes per second, one pass over float32 values that no cache holds, a thread for each core"""
    peak_flops: float
    """Float32 operations per second, a large matrix product (numpy's BLAS)"""


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


def measure_limits() -> Limits:
    """Measure both limits: the best of a few runs, as others on the machine only ever slow one down. About a second."""
    threads = available_threads()
    return Limits(_read_bandwidth(threads), _peak_flops())


def median_limits(samples: list[Limits]) -> Limits:
    """The median of each limit."""
    return Limits(
        statistics.median(sample.read_bandwidth for sample in samples),
        statistics.median(sample.peak_flops for sample in samples),
    )


def _read_bandwidth(threads: int) -> float:
    from headrace.engine.memory import free_memory

    each = min(_BUFFER_BYTES, free_memory() // 4) // threads // 4
    buffers = [np.ones(each, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(np.max, buffers)))
    return threads * each * 4 / seconds


def _peak_flops() -> float:
    left = np.ones((_MATRIX, _MATRIX), np.float32)
    right = np.ones((_MATRIX, _MATRIX), np.float32)
    out = np.empty_like(left)
    return 2 * _MATRIX**3 / _best(lambda: np.matmul(left, right, out=out))


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of a few runs, after one to warm up."""
    work()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


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
