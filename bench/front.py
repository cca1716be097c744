"""How fast the server is without a model: an engine that answers at once, behind the real HTTP front.

    python bench/front.py                                   beside the ceiling
    python bench/front.py --peers DIR [--llama-bin DIR]     and beside vLLM's front and llama-server

Every server runs in a process of its own, on one core where the system can bind it; the clients in this one, on
another. Seconds of the server are CPU seconds too, which hold on a machine with other work. All servers are measured in
turn, and the best of `--rounds` counts. The ceiling is a bare ASGI application in the same HTTP library that writes the
same bytes and does nothing else.

Added latency: two paced engines, ours and the bare application's, give 32 streams a token each every 20 ms, in turn.
Measured is the time from there to the client's read; steps are paired in the order of time, and their tokens in the
order in which they are read. Each difference is what our code has added to one token.

`--peers` takes the folder that bench/peers/run.py --prepare has filled. vLLM's front is its own server with a scripted
engine like ours (peers/workers/vllm_front.py). llama-server has no front without an engine: it is measured with a model
of one small layer, and so are all of headrace's two processes, not bound to a core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import selectors
import socket
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from front_processes import Program, Served
from random_model import CODECS, write_file

from headrace.hub.resolve import bundled_folder

BENCH = Path(__file__).parent
STREAMS = (1, 8, 32)
CHAT = {"messages": [{"role": "user", "content": "Tell me of a cat"}]}
TEXT = {"prompt": "Once upon a time"}
PATHS = {"chat": ("/v1/chat/completions", CHAT), "completions": ("/v1/completions", TEXT)}
_SAMPLE_SECONDS = 0.5
"""At least"""
_CLOCK_SECONDS = 0.01
"""What CPU time is counted in"""
_WARM_STEPS = 5
"""Of the latency's, which are left out"""


def own(kind: str) -> Program:
    """One of front_servers.KINDS."""
    names = {"goes": "headrace", "bare": "ceiling"}
    return Program(names.get(kind, kind), [sys.executable, BENCH / "front_servers.py", kind], kinds=tuple(PATHS))


def peers(folder: Path, llama: Path | None, work: Path) -> list[Program]:
    """vLLM's front; llama-server and headrace with the same tiny model, written to `work`."""
    stories = bundled_folder("stories")
    model, template = work / "tiny.gguf", work / "chat.jinja"
    write_file("llama-tiny", model, CODECS["f16"])
    settings = json.loads((stories / "tokenizer_config.json").read_text())
    template.write_text(settings["chat_template"])
    fields = {"ignore_eos": True, "temperature": 0}
    vllm_port, llama_port, our_port = _free_port(), _free_port(), _free_port()
    vllm = [folder / "venvs" / "vllm" / "bin" / "python", BENCH / "peers" / "workers" / "vllm_front.py"]
    server = [(llama or folder / "llama-build" / "bin") / "llama-server", "-m", model, "-t", "1", "-tb", "1"]
    room = ["-np", "32", "-c", str(32 * 512), "--cache-ram", "0", "--chat-template-file", template]
    ours = [sys.executable, "-m", "headrace", "serve", model, "--port", str(our_port), "--threads", "1"]
    ours += ["--name", "stories", "--chat-template", template, "--max-sequences", "32", "--log-level", "warning"]
    ours += ["--speculation", "off"]  # a token an event, as everywhere: events are counted
    address = ["--host", "127.0.0.1", "--port", str(llama_port)]
    return [
        Program("vLLM's front", [*vllm, stories, str(vllm_port)], vllm_port),
        Program("headrace, tiny model", [*ours, "--store", work / "store"], our_port, fields, is_bound=False),
        Program("llama-server, tiny model", [*server, *room, *address], llama_port, fields, is_bound=False),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps({"model": "stories", **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


async def one_stream(port: int, request: bytes) -> int:
    """The events of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(request)
    count = 0
    while True:
        data = await reader.read(1 << 20)
        count += data.count(b"data: {")
        if not data or b"data: [DONE]" in data:
            writer.close()
            return count


async def one_client(port: int, request: bytes, number: int) -> None:
    """Whole answers, one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(number):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{head!r}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table."""

    kind: str
    streams: int
    """0 for whole answers"""

    def __str__(self) -> str:
        if not self.streams:
            return f"{self.kind}, whole answers: requests/s"
        return f"{self.kind}, {self.streams} stream{'s' * (self.streams > 1)}: tokens/s"

    def sample(self, served: Served, tokens: int) -> tuple[float, float]:
        """What it did in a second, by the clock and of its CPU time."""
        path, body = PATHS[self.kind]
        body = {**body, **served.program.fields}
        before, started, count = served.cpu_seconds(), time.perf_counter(), 0
        while (seconds := time.perf_counter() - started) < _SAMPLE_SECONDS:
            if self.streams:
                request = request_bytes(path, {**body, "max_tokens": tokens, "stream": True})
                count += asyncio.run(self._stream(served.port, request))
            else:
                count += asyncio.run(self._ask(served.port, request_bytes(path, {**body, "max_tokens": 1})))
        return count / seconds, count / max(served.cpu_seconds() - before, _CLOCK_SECONDS)

    async def _stream(self, port: int, request: bytes) -> int:
        count = 0
        for _ in range(max(1, 32 // self.streams)):
            count += sum(await asyncio.gather(*(one_stream(port, request) for _ in range(self.streams))))
        return count

    async def _ask(self, port: int, request: bytes) -> int:
        clients, number = 8, 75
        await asyncio.gather(*(one_client(port, request, number) for _ in range(clients)))
        return clients * number


def throughput(servers: Sequence[Served], rounds: int, tokens: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Every measure of every server, in turn: the best by the clock, and the best by CPU time."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for measure in (Measure(kind, streams) for kind in PATHS for streams in (*STREAMS, 0)):
        row = found[str(measure)] = {}
        asked = [served for served in servers if measure.kind in served.program.kinds]
        for number in range(rounds + 1):  # the first one warms up
            for served in asked:
                clock, cpu = measure.sample(served, tokens if number else tokens // 8)
                best = row.get(served.program.name, (0.0, 0.0)) if number else (0.0, 0.0)
                row[served.program.name] = (max(best[0], clock), max(best[1], cpu))
        said = "; ".join(f"{name} {clock:,.0f} ({cpu:,.0f} a CPU s)" for name, (clock, cpu) in row.items())
        print(f"{measure}: {said}", file=sys.stderr, flush=True)
    return found


def latency(streams: int, steps: int) -> dict[str, float]:
    """What our code adds to the time of a token, and to its CPU time, in microseconds."""
    path, body = PATHS["chat"]
    request = request_bytes(path, {**body, "max_tokens": steps, "stream": True})
    with ExitStack() as until:
        servers = [Served(own(kind)) for kind in ("paced", "bare paced")]
        for served in servers:
            until.callback(served.close)
        before = [served.cpu_seconds() for served in servers]
        reads = _paced_reads([served.port for served in servers], request, streams)
        cpu = [served.cpu_seconds() - one for served, one in zip(servers, before, strict=True)]
        ours, bare = (_delays(served.step_times(), times) for served, times in zip(servers, reads, strict=True))
    added = [
        mine - its for step, other in zip(ours, bare, strict=False) for mine, its in zip(step, other, strict=False)
    ]
    return {
        "added_median": 1e6 * _quantile(added, 0.5),
        "added_p99": 1e6 * _quantile(added, 0.99),
        "median": 1e6 * _quantile([each for step in ours for each in step], 0.5),
        "bare_median": 1e6 * _quantile([each for step in bare for each in step], 0.5),
        "cpu": 1e6 * cpu[0] / streams / steps,
        "bare_cpu": 1e6 * cpu[1] / streams / steps,
    }


def _paced_reads(ports: Sequence[int], request: bytes, streams: int) -> list[list[float]]:
    """When events of each server are read, by a client that does little else."""
    selector, reads = selectors.DefaultSelector(), [list[float]() for _ in ports]
    for index, port in enumerate(ports):
        for _ in range(streams):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, reads[index])
    while selector.get_map():
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 16)
            key.data.append(time.perf_counter())
            if not data or b"data: [DONE]" in data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return reads


def _delays(steps: Sequence[float], reads: Sequence[float]) -> list[list[float]]:
    """Of each step, in the order of their reads."""
    delays: list[list[float]] = [[] for _ in steps]
    for at in reads:
        number = bisect(steps, at) - 1
        if number >= 0:
            delays[number].append(at - steps[number])
    return delays[_WARM_STEPS:]


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def idle(streams: int) -> float:
    """Bytes of open streams that have had their first token."""
    path, body = PATHS["chat"]
    request = request_bytes(path, {**body, "max_tokens": 100, "stream": True})

    async def run(served: Served) -> float:
        writers: list[asyncio.StreamWriter] = []

        async def open_streams(number: int) -> None:
            for _ in range(number):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(request)
                await reader.readuntil(b"data: ")
                writers.append(writer)

        await open_streams(1)  # what the first request imports and compiles is no stream's
        before = served.process.memory_info().rss
        await open_streams(streams)
        return float(served.process.memory_info().rss - before)

    served = Served(own("stops"))
    try:
        return asyncio.run(run(served))
    finally:
        served.close()


def table(figures: dict[str, Any]) -> str:
    """Markdown: by the clock, and of a CPU second."""
    rows: dict[str, dict[str, tuple[float, float]]] = figures["throughput"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| a second (of CPU time) | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for measure, row in rows.items():
        cells = [f"{row[name][0]:,.0f} ({row[name][1]:,.0f})" if name in row else "" for name in names]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    late = figures["latency"]
    blank = " |" * (len(names) - 2)
    lines.append(
        f"| 32 paced streams: added to a token, median, p99 | {late['added_median']:,.0f} µs,"
        f" {late['added_p99']:,.0f} µs | |{blank}"
    )
    lines.append(
        f"| … step to read, median (CPU time) | {late['median']:,.0f} µs ({late['cpu']:,.1f})"
        f" | {late['bare_median']:,.0f} µs ({late['bare_cpu']:,.1f}) |{blank}"
    )
    lines.append(f"| memory of 1,000 idle streams | {figures['idle_bytes'] / 1e6:,.0f} MB | |{blank}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="as filled by bench/peers/run.py --prepare")
    parser.add_argument("--llama-bin", type=Path, metavar="DIR", help="llama.cpp's tools, instead of those of --peers")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
    figures: dict[str, Any] = {"machine": platform.processor(), "load_before": os.getloadavg()}
    with ExitStack() as until:
        work = Path(until.enter_context(tempfile.TemporaryDirectory()))
        programs = [own("goes"), own("bare")]
        programs += [] if options.peers is None else peers(options.peers, options.llama_bin, work)
        servers = []
        for program in programs:
            servers.append(Served(program))
            until.callback(servers[-1].close)
        figures["throughput"] = throughput(servers, options.rounds, options.tokens)
    figures["latency"] = latency(32, 200)
    figures["idle_bytes"] = idle(1000)
    figures["load_after"] = os.getloadavg()
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
