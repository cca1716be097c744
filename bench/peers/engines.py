"""How each engine measures a workload. Every sample is a process of its own, but for vLLM, which takes minutes to load
and is held still between its turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.install import NotInstalled, Peers
from peers.models import path_of
from peers.processes import Failed, Process
from peers.results import OURS, Entry
from peers.workloads import MIB, Kind, Workload

WORKERS = Path(__file__).with_name("workers")
GGUF_BITS = {"Q4_0": 4, "Q4_K_M": 4, "Q8_0": 8, "F16": 16}
FIRST_LIMIT_MS, TOKEN_LIMIT_MS = 5000.0, 250.0
"""Of the mixed load's goodput"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure in the workload's unit, with what else was seen."""

    value: float
    peak_memory: int
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every engine needs to know to measure."""

    peers: Peers
    threads: int
    timeout: float
    port: int
    """Of the servers, on 127.0.0.1"""
    trace: Path | None = None
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    seconds: float = 10.0
    """Of a run over HTTP"""

    @property
    def log(self) -> Path:
        """What the program under measurement says on stderr."""
        return self.peers.work / "last-stderr.txt"

    def open(self, command: Sequence[str | Path], **env: str) -> Process:
        """Start a program with as many threads as everybody gets."""
        return Process(command, {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", **env}, self.log)


class Engine(ABC):
    """One engine. Doors raise NotInstalled or Failed with the reason."""

    name: str

    @abstractmethod
    def entries(self, model: str, workload: Workload) -> list[Entry]:
        """With which forms and settings it is measured."""

    @abstractmethod
    def measure(self, bench: Bench, entry: Entry, model: str, workload: Workload) -> Measured:
        """One sample."""

    def close(self) -> None:  # noqa: B027  (most keep nothing)
        """Let go of what is kept between samples."""


def context_of(workload: Workload) -> int:
    """Room that a sequence needs, and some: engines settle for a few tokens before they are timed."""
    return workload.context + workload.tokens + workload.batch + 16


def job_of(workload: Workload) -> dict[str, Any]:
    """What a worker is asked. Peak memory is that of a decode."""
    kind = Kind.DECODE if workload.kind is Kind.MEMORY else workload.kind
    return {"kind": kind, "context": workload.context, "tokens": workload.tokens, "batch": workload.batch}


def measured(workload: Workload, answer: dict[str, Any], seconds: float, peak: int) -> Measured:
    """The figure that a workload wants of an answer that came so many seconds after the process began."""
    details = {"load_seconds": answer["load_seconds"]} if "load_seconds" in answer else {}
    if workload.kind is Kind.START:
        return Measured(seconds, peak, details)
    return Measured(peak / MIB if workload.kind is Kind.MEMORY else answer["value"], peak, details)


def gguf_entries(name: str, model: str, workload: Workload, settings: Sequence[str]) -> list[Entry]:
    """An entry for each GGUF form with the workload's widths, and each of the settings."""
    forms = ("Q4_0",) if model == "llama3-8b" else tuple(GGUF_BITS)
    return [
        Entry(name, form, GGUF_BITS[form], one)
        for form in forms
        if GGUF_BITS[form] in workload.bits
        for one in settings
    ]


class Worker(Engine):
    """An engine that is asked through a script in its own environment."""

    script: str

    def python(self, bench: Bench) -> Path:
        """The interpreter that has the engine."""
        return bench.peers.python(self.name)

    def measure(self, bench: Bench, entry: Entry, model: str, workload: Workload) -> Measured:
        process = self.start(bench, entry, model, context_of(workload))
        try:
            answer, seconds = process.ask(job_of(workload), bench.timeout)
            return measured(workload, answer, seconds, process.peak_memory)
        finally:
            process.close()

    def start(self, bench: Bench, entry: Entry, model: str, context: int) -> Process:
        """The worker's process with the model."""
        path = path_of(bench.peers.work, model, entry.form)
        if not path.exists():
            raise NotInstalled(f"{path} is missing; run with --prepare")
        setup = {"model": str(path), "threads": bench.threads, "context": context, "settings": entry.settings}
        return bench.open([self.python(bench), WORKERS / self.script, json.dumps(setup)], **self.environment())

    def environment(self) -> dict[str, str]:
        """Variables of the process."""
        return {}


class Headrace(Worker):
    name = OURS
    script = "headrace_worker.py"

    def python(self, bench: Bench) -> Path:  # noqa: ARG002  (it runs where the runner runs)
        return Path(sys.executable)

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join(sys.path)}

    def entries(self, model: str, workload: Workload) -> list[Entry]:
        return gguf_entries(self.name, model, workload, ("",))

    def measure(self, bench: Bench, entry: Entry, model: str, workload: Workload) -> Measured:
        if workload.kind not in (Kind.STREAMS, Kind.MIXED):
            return super().measure(bench, entry, model, workload)
        path = path_of(bench.peers.work, model, entry.form)
        options = ["--host", "127.0.0.1", "--port", str(bench.port), "--threads", str(bench.threads)]
        options += ["--speculation", "off"]
        command = [sys.executable, "-m", "headrace", "serve", path, *options]
        return serve_and_load(bench, command, workload, self.environment())


class LlamaCpp(Engine):
    name = "llama.cpp"

    def entries(self, model: str, workload: Workload) -> list[Entry]:
        return gguf_entries(self.name, model, workload, ("-fa 0", "-fa 1"))

    def measure(self, bench: Bench, entry: Entry, model: str, workload: Workload) -> Measured:
        path = path_of(bench.peers.work, model, entry.form)
        attention = entry.settings.split()[1]
        if workload.kind in (Kind.STREAMS, Kind.MIXED):
            return serve_and_load(bench, self._server(bench, path, attention, workload), workload, {})
        tool = self._batches if workload.batch > 1 else self._single
        process = bench.open(tool(bench, path, attention, workload))
        try:
            answer, seconds = process.next_object(bench.timeout)
            answer["value"] = answer["speed_tg"] if workload.batch > 1 else answer["avg_ts"]
            return measured(workload, answer, seconds, process.peak_memory)
        finally:
            process.close()

    def _single(self, bench: Bench, path: Path, attention: str, workload: Workload) -> list[str | Path]:
        tests = {
            Kind.PREFILL: ["-p", workload.context, "-n", 0],
            Kind.START: ["-p", 0, "-n", 0, "-pg", f"{workload.context},1", "--no-warmup"],
        }
        test = tests.get(workload.kind, ["-p", 0, "-n", workload.tokens, "-d", workload.context])
        options = ["-m", path, "-t", str(bench.threads), "-r", "1", "-fa", attention, "-o", "jsonl"]
        return [bench.peers.llama("llama-bench"), *options, *map(str, test)]

    def _batches(self, bench: Bench, path: Path, attention: str, workload: Workload) -> list[str | Path]:
        threads, batch = str(bench.threads), workload.batch
        room = batch * (workload.context + workload.tokens)
        options = ["-m", path, "-t", threads, "-tb", threads, "-fa", "on" if attention == "1" else "off"]
        sizes = ["-c", room, "-npp", workload.context, "-ntg", workload.tokens, "-npl", batch, "-b", 2048, "-ub", 512]
        return [bench.peers.llama("llama-batched-bench"), *options, *map(str, sizes), "--output-format", "jsonl"]

    def _server(self, bench: Bench, path: Path, attention: str, workload: Workload) -> list[str | Path]:
        threads, slots = str(bench.threads), 32
        each = 512 if workload.kind is Kind.STREAMS else 2048
        options = ["-m", path, "-t", threads, "-tb", threads, "-fa", "on" if attention == "1" else "off"]
        room = ["-np", str(slots), "-c", str(slots * each), "--cache-ram", "0"]
        return [bench.peers.llama("llama-server"), *options, *room, "--host", "127.0.0.1", "--port", str(bench.port)]


class OpenVino(Worker):
    name = "openvino"
    script = "openvino_worker.py"

    def entries(self, model: str, workload: Workload) -> list[Entry]:
        if model == "llama3-8b" or workload.kind in (Kind.STREAMS, Kind.MIXED):
            return []
        settings = ("", "continuous batching") if workload.batch > 1 else ("",)
        forms = (("int4", 4), ("int8", 8))
        return [Entry(self.name, form, bits, one) for form, bits in forms if bits in workload.bits for one in settings]


class Transformers(Worker):
    name = "transformers"
    script = "transformers_worker.py"

    def entries(self, model: str, workload: Workload) -> list[Entry]:
        if model == "llama3-8b" or workload.kind in (Kind.STREAMS, Kind.MIXED, Kind.MEMORY):
            return []
        return [Entry(self.name, "folder", 16, dtype) for dtype in ("bfloat16", "float32")]


class Vllm(Worker):
    name = "vllm"
    script = "vllm_worker.py"

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Entry], Process] = {}

    def entries(self, model: str, workload: Workload) -> list[Entry]:
        if model == "llama3-8b" or workload.kind in (Kind.STREAMS, Kind.MIXED, Kind.START, Kind.MEMORY):
            return []
        return [Entry(self.name, "folder", 16, settings) for settings in ("bfloat16", "float32 eager")]

    def measure(self, bench: Bench, entry: Entry, model: str, workload: Workload) -> Measured:
        key = (model, entry)
        try:
            if key not in self._kept:
                self._kept[key] = self.start(bench, entry, model, 8192 + 256)
                self._kept[key].ask(job_of(Workload("warm", Kind.PREFILL, 32)), max(bench.timeout, 900))
            answer, seconds = self._kept[key].ask(job_of(workload), bench.timeout)
            self._kept[key].pause()
        except Failed:
            if key in self._kept:
                self._kept.pop(key).close()
            raise
        return measured(workload, answer, seconds, self._kept[key].peak_memory)

    def environment(self) -> dict[str, str]:
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    def close(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()


ENGINES: tuple[type[Engine], ...] = (Headrace, LlamaCpp, OpenVino, Vllm, Transformers)
LOAD = Path(__file__).parents[1] / "load.py"


def serve_and_load(bench: Bench, command: list[str | Path], workload: Workload, env: dict[str, str]) -> Measured:
    """Start a server, load it with bench/load.py, end it."""
    if not LOAD.exists():
        raise NotInstalled(f"{LOAD} is missing")
    if workload.kind is Kind.MIXED and bench.trace is None:
        raise NotInstalled("no trace was given; name the CSV file of the requests with --trace")
    server = bench.open(command, **env)
    try:
        _wait_until_healthy(bench, server)
        if workload.kind is Kind.STREAMS:
            options = ["closed", "--streams", workload.batch, "--tokens", workload.tokens]
            found = _load(bench, [*options, "--prompt-tokens", workload.context], server)
            return Measured(found["tokens_per_second"], server.peak_memory, found)
        return _best_goodput(bench, server)
    finally:
        server.close()


def _best_goodput(bench: Bench, server: Process) -> Measured:
    """The most requests within the limits for each second, over rates of arrival."""
    runs = []
    for rate in bench.rates:
        limits = ["--most-first", FIRST_LIMIT_MS, "--most-per-token", TOKEN_LIMIT_MS]
        options = ["open", "--trace", bench.trace, "--rate", rate, "--length", 0.25, "--context", 2048]
        runs.append({"rate": rate, **_load(bench, [*options, *limits], server)})
    best = max(runs, key=lambda run: run["goodput"]["requests_per_second"])
    return Measured(best["goodput"]["requests_per_second"], server.peak_memory, {"runs": runs})


def _load(bench: Bench, options: list[Any], server: Process) -> dict[str, Any]:
    words = [
        *options,
        f"http://127.0.0.1:{bench.port}",
        "--seconds",
        bench.seconds,
        "--pid",
        server.pid,
        "--vocabulary",
        4000,
    ]
    done = subprocess.run(
        [sys.executable, str(LOAD), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=bench.timeout,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"the load client failed: {said[-1] if said else done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _wait_until_healthy(bench: Bench, server: Process) -> None:
    end = time.perf_counter() + bench.timeout
    while time.perf_counter() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{bench.port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            if not server.is_alive:
                break
            time.sleep(0.1)
    raise Failed("the server did not become healthy; see last-stderr.txt in the work folder")
