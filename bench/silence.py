"""The longest silence of a stream, measured in a process of its own, and who was waiting for a core meanwhile.

    python bench/silence.py URL FRONT_PID ENGINE_PID

Asks for one stream of tokens after the other until its standard input ends, then prints one JSON object. On a machine
with other work most long silences are times in which one of the processes was ready to run and got no core; Linux
counts them (/proc/PID/task/TID/schedstat). What remains is the server's own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_BODY = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of a process; times in seconds, zero where the system does not tell."""

    pid: int
    number: int

    def times(self) -> tuple[float, float]:
        """On a core so far, and ready to run without one."""
        try:
            fields = Path(f"/proc/{self.pid}/task/{self.number}/schedstat").read_text().split()
        except OSError:
            return 0.0, 0.0
        return int(fields[0]) / 1e9, int(fields[1]) / 1e9


def busiest(pid: int) -> Thread:
    """The thread that has computed most so far: of an engine's process the one that steps."""
    threads = [Thread(pid, int(number)) for number in os.listdir(f"/proc/{pid}/task")]
    return max(threads, key=lambda thread: thread.times()[0])


async def arrivals(url: str, until: Callable[[], bool]) -> AsyncIterator[float | None]:
    """The times at which pieces of streams come; None between two streams."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while not until():
            yield None
            async with client.stream("POST", "/v1/completions", json=_BODY) as response:
                response.raise_for_status()
                async for _ in response.aiter_bytes():
                    yield time.monotonic()


class Silences:
    """The longest silences, each with what the threads did meanwhile."""

    def __init__(self, threads: dict[str, Thread]) -> None:
        self._threads = threads
        self._worst: list[tuple[float, int, dict[str, float]]] = []
        self._order: Iterator[int] = itertools.count()
        self._last: float | None = None
        self._before: dict[str, tuple[float, float]] = {}
        self.num_pieces = 0

    def heard(self, now: float | None) -> None:
        """A piece has come, or (None) another stream is asked for."""
        times = {name: thread.times() for name, thread in self._threads.items()}
        if now is not None:
            self.num_pieces += 1
            if self._last is not None:
                self._enter(now - self._last, times)
        self._last, self._before = now, times

    def figures(self) -> dict[str, Any]:
        """Plain data; `own` is a silence without the longest time that one of the threads waited for a core."""
        worst = [{"seconds": round(seconds, 3), **parts} for seconds, _, parts in sorted(self._worst, reverse=True)]
        own = max((each["own"] for each in worst), default=0.0)
        return {"pieces": self.num_pieces, "longest": worst[0]["seconds"], "longest_own": own, "worst": worst[:_SHOWN]}

    def _enter(self, seconds: float, times: dict[str, tuple[float, float]]) -> None:
        if len(self._worst) == 50 and seconds <= self._worst[0][0]:
            return
        parts: dict[str, float] = {}
        waits = 0.0
        for name, (computed, waited) in times.items():
            parts[f"{name}_computed"] = round(computed - self._before[name][0], 3)
            parts[f"{name}_waited_for_core"] = round(waited - self._before[name][1], 3)
            waits = max(waits, waited - self._before[name][1])
        parts["own"] = round(max(seconds - waits, 0.0), 3)
        heapq.heappush(self._worst, (seconds, next(self._order), parts))
        if len(self._worst) > 50:
            heapq.heappop(self._worst)


async def _main(url: str, front: int, engine: int) -> None:
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        is_over.set()
        loop.remove_reader(sys.stdin)  # whose end would be news in every turn of the loop

    loop.add_reader(sys.stdin, stop)
    threads = {"front": Thread(front, front), "engine": busiest(engine), "reader": Thread(os.getpid(), os.getpid())}
    silences = Silences(threads)
    async for now in arrivals(url, is_over.is_set):
        silences.heard(now)
    print(json.dumps(silences.figures()))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
