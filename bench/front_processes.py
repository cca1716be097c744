"""Servers under measurement by bench/front.py, as processes."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_START_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Program:
    """A server to be measured."""

    name: str
    command: Sequence[str | Path]
    port: int | None = None
    """None: it says its address on standard output"""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further ones of each request"""
    is_bound: bool = True
    """To one core"""
    kinds: Sequence[str] = ("chat",)


class Served:
    """A program that runs, and all of its processes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        with _all_cores():
            self._process = subprocess.Popen(
                [str(word) for word in program.command],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if program.port else None,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.process = psutil.Process(self._process.pid)
        self.port = program.port or self._said_port()
        self._wait_until_healthy()
        if program.is_bound and hasattr(os, "sched_setaffinity"):
            for thread in self.process.threads():
                os.sched_setaffinity(thread.id, {0})

    def cpu_seconds(self) -> float:
        """So far, of the program and its children."""
        times = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return float(sum(each.user + each.system for each in times))

    def step_times(self) -> list[float]:
        """When a paced engine has stepped; ends the server."""
        self._process.kill()
        assert self._process.stdout is not None
        return [float(line) for line in self._process.stdout]

    def close(self) -> None:
        """End it and its children."""
        children = self.process.children(recursive=True) if self._process.poll() is None else []
        for each in (self._process, *children):
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()

    def _said_port(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.program.name} ended before it served")
        return int(line.rsplit(":", 1)[1])

    def _wait_until_healthy(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while self.program.port is not None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.close()
                    raise SystemExit(f"{self.program.name} does not serve: {error}") from None
                time.sleep(0.2)


@contextmanager
def _all_cores() -> Iterator[None]:
    """Children inherit what this process is bound to."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
