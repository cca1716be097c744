"""The command line: prepare, measure in turn, write the JSON file, the table and the picture."""

from __future__ import annotations

import argparse
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from headrace import __version__
from headrace.cli.machine import cpu_ops, describe_machine, measure_limits
from headrace.config import available_threads
from peers.engines import ENGINES, Bench, Engine
from peers.install import ENVIRONMENTS, LLAMA_SOURCE, NotInstalled, Peers
from peers.models import SERVED_MODEL, path_of, prepare_models, weight_bytes
from peers.picture import draw
from peers.processes import Failed
from peers.results import OURS, Entry, Limits, Run, Sample, finalists
from peers.table import markdown, memory_line, rows_of
from peers.workloads import WORKLOADS, Kind, Workload, quick

_MOST_TRIES = 3
"""Of a sample beside which the machine was slow"""


def main() -> None:
    options = _parse()
    peers = Peers(options.work.resolve(), options.llama_bin, tuple(options.pip_argument))
    if options.prepare:
        peers.work.mkdir(parents=True, exist_ok=True)
        failures = {**peers.prepare(_say), **prepare_models(peers, options.models, _say)}
        for what, why in failures.items():
            _say(f"{what} could not be made: {why}")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    run = _open_run(options)
    bench = Bench(
        peers, options.threads, options.timeout, _free_port(), options.trace, seconds=1.0 if options.quick else 10.0
    )
    engines = [kind() for kind in ENGINES if kind.name in (OURS, *options.peers)]
    try:
        for model, workload in _plan(options):
            _Turns(options, run, bench, engines).measure(model, workload)
            for engine in engines:
                engine.close()
    except KeyboardInterrupt:
        _say("stopped; --resume goes on from here")
    finally:
        for engine in engines:
            engine.close()
        _write(options, run)


class _Turns:
    """Rounds of one workload of one model: A B C A B C …"""

    def __init__(self, options: argparse.Namespace, run: Run, bench: Bench, engines: list[Engine]) -> None:
        self._options = options
        self._run = run
        self._bench = bench
        self._engines = {engine.name: engine for engine in engines}
        self._ops = cpu_ops(bench.threads)

    def measure(self, model: str, workload: Workload) -> None:
        """All rounds; from the second on only those entries that can still be the best of their side."""
        entries = [entry for engine in self._engines.values() for entry in engine.entries(model, workload)]
        for number in range(self._options.pairs):
            if number == 1 and not self._options.all_entries:
                entries = finalists(self._run.samples, model, workload, entries)
            for entry in entries:
                for _ in range(1 if self._options.quick else _MOST_TRIES):
                    if self._run.is_done(model, workload.name, entry, number):
                        break
                    self._sample(model, workload, entry, number)

    def _sample(self, model: str, workload: Workload, entry: Entry, number: int) -> None:
        asked = quick(workload) if self._options.quick else workload
        path = path_of(self._bench.peers.work, model, entry.form)
        before, value, error, peak, details = self._limits(), None, "", 0, {}
        try:
            file_seconds = _read_whole(path) if workload.kind is Kind.START else 0.0
            measured = self._engines[entry.engine].measure(self._bench, entry, model, asked)
            value, peak, details = measured.value, measured.peak_memory, measured.details
            if file_seconds:
                details = {**details, "file_seconds": file_seconds}
        except (NotInstalled, Failed) as failure:
            error = str(failure)
        size = weight_bytes(path) if path.exists() else 0
        sample = Sample(
            number, model, workload.name, entry, value, (before, self._limits()), size, peak, error, details
        )
        self._run.samples.append(sample)
        self._run.save(self._options.output)
        shown = error or f"{value:.4g} {workload.unit}"
        bandwidth = sample.limit("read_bandwidth") / 1e9
        _say(
            f"{number + 1}/{self._options.pairs} {model} {workload.name}: {entry.label} {shown} ({bandwidth:.0f} GB/s)"
        )

    def _limits(self) -> Limits:
        return asdict(measure_limits(self._ops))


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, Workload]]:
    """Model by model; a quick run tries every workload on whatever models it is given."""
    for model in options.models:
        for workload in WORKLOADS:
            is_wanted = not options.workloads or workload.name in options.workloads
            if is_wanted and (options.quick or model in workload.models):
                yield model, workload


def _open_run(options: argparse.Namespace) -> Run:
    if options.resume and options.output.exists():
        stored = Run.load(options.output)
        return Run(stored.about, stored.missing, [sample for sample in stored.samples if not sample.error])
    packages = {name: environment.packages for name, environment in ENVIRONMENTS.items()}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "bench/peers/run.py", *sys.argv[1:]]),
        "machine": asdict(describe_machine()),
        "versions": {
            "headrace": __version__,
            "python": platform.python_version(),
            "llama.cpp": LLAMA_SOURCE,
            **packages,
        },
        "settings": {"threads": options.threads, "pairs": options.pairs, "quick": options.quick},
    }
    unknown = {kind.name: "left out by --peers" for kind in ENGINES if kind.name not in (OURS, *options.peers)}
    return Run(about, unknown, [])


def _write(options: argparse.Namespace, run: Run) -> None:
    table = options.output.with_suffix(".md")
    machine = run.about["machine"]
    head = f"{machine['processor']}, {run.about['settings']['threads']} threads, {run.about['date']}"
    memory = "\n".join(memory_line(run, options.work))
    table.write_text(f"{head}: `{run.about['command']}`\n\n{markdown(run)}\n{memory}\n")
    draw(rows_of(run), options.output.with_suffix(".svg"), f"headrace beside the best peer: {head}")
    _say(f"wrote {options.output}, {table.name} and {table.with_suffix('.svg').name}")


def _read_whole(path: Path) -> float:
    """Seconds to read a model's files once they are in the page cache."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 22):
                    pass
        seconds = time.perf_counter() - started
    return seconds


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parse() -> argparse.Namespace:
    peers = [kind.name for kind in ENGINES if kind.name != OURS]
    models = list(dict.fromkeys(model for workload in WORKLOADS for model in workload.models))
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="bench/peers/run.py", description="Measure headrace beside its peers, in turn."
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="environments and models; some 25 GB")
    parser.add_argument("--prepare", action="store_true", help="install the peers and make the models, then end")
    parser.add_argument(
        "--models", type=_names, help=f"of {', '.join(models)}; default all, with --quick {SERVED_MODEL}"
    )
    parser.add_argument("--peers", type=_names, default=tuple(peers), help=f"of {', '.join(peers)}")
    parser.add_argument("--workloads", type=_names, default=(), help=f"of {'; '.join(names)}")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="rounds of every workload (default 5)")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N", help="of every engine")
    parser.add_argument("--all-entries", action="store_true", help="measure hopeless settings in every round too")
    parser.add_argument("--quick", action="store_true", help="tiny workloads: whether every path works, no figures")
    parser.add_argument("--resume", action="store_true", help="go on with the output file of an interrupted run")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default: DIR/results.json; .md and .svg beside it")
    parser.add_argument("--llama-bin", type=Path, metavar="DIR", help="llama.cpp's tools, instead of building them")
    parser.add_argument(
        "--trace", type=Path, metavar="CSV", help="requests of the mixed load: TIMESTAMP, ContextTokens, …"
    )
    parser.add_argument("--timeout", type=float, default=900.0, metavar="S", help="of one sample")
    parser.add_argument("--pip-argument", action="append", default=[], metavar="ARG", help="for pip; may be repeated")
    options = parser.parse_args()
    options.models = options.models or ((SERVED_MODEL,) if options.quick else tuple(models))
    for given, known, what in (
        (options.models, models, "model"), (options.peers, peers, "peer"), (options.workloads, names, "workload"),
    ):  # fmt: skip
        for name in given:
            if name not in known:
                parser.error(f"there is no {what} {name!r}; there are {', '.join(known)}")
    options.output = options.output or options.work / "results.json"
    return options


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
