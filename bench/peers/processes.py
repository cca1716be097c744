"""A program under measurement: its lines with the time of each, and the memory of its whole tree."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_POLL_SECONDS = 0.2


class Failed(Exception):
    """A measurement that gave no figure, with the reason."""


class Process:
    """A child with its output read as it comes; stderr goes to a file of its own and is quoted when it fails."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._lines: queue.Queue[tuple[str, float] | None] = queue.Queue()
        self._high_water: dict[int, int] = {}
        with log.open("wb") as errors:
            self.started = time.perf_counter()
            self._child = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the program itself."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether the program still runs."""
        return self._child.poll() is None

    @property
    def peak_memory(self) -> int:
        """Bytes: the sum of every process's own high water."""
        return sum(self._high_water.values())

    def ask(self, job: Mapping[str, Any], timeout: float) -> tuple[dict[str, Any], float]:
        """Send a job to a worker; its answer, and the seconds since the process began."""
        self._signal(signal.SIGCONT)
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(job) + "\n")
            self._child.stdin.flush()
        except OSError:
            raise Failed(self._quote("ended before it was asked")) from None
        return self.next_object(timeout)

    def next_object(self, timeout: float) -> tuple[dict[str, Any], float]:
        """The next line that is a JSON object, and the seconds since the process began when it came."""
        end = time.perf_counter() + timeout
        while True:
            try:
                item = self._lines.get(timeout=max(end - time.perf_counter(), 0.001))
            except queue.Empty:
                raise Failed(self._quote(f"gave no answer within {timeout:.0f} s")) from None
            if item is None:
                raise Failed(self._quote("ended without an answer"))
            line, when = item
            if line.startswith("{"):
                self._look()
                return json.loads(line), when - self.started

    def pause(self) -> None:
        """Hold the program, so that its idle threads take nothing from the others; `ask` lets it go on."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it and what it started."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._child.wait()
        self._ended.set()

    def _signal(self, number: int) -> None:
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends at its own time
                os.killpg(self._child.pid, number)

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put((line.strip(), time.perf_counter()))
        self._lines.put(None)

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS) and self._child.poll() is None:
            self._look()

    def _look(self) -> None:
        try:
            tree = [self._child.pid, *(child.pid for child in psutil.Process(self._child.pid).children(recursive=True))]
        except psutil.Error:
            return
        for pid in tree:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
            self._high_water[pid] = max([self._high_water.get(pid, 0), *(1024 * value for value in peak)])

    def _quote(self, what: str) -> str:
        said = self._log.read_text("utf-8", "replace").strip().splitlines()
        return f"{what}: {said[-1]}" if said else what
