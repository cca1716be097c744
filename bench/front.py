"""How fast the server is without a model: an engine that answers at once, behind the real HTTP front.

    python bench/front.py            streamed tokens/s, requests/s, latency that the front adds, memory of idle streams

The server runs in a process of its own, on one core where the system can bind it; the clients in this one. Seconds of
the server are CPU seconds too, which hold on a machine with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from headrace import AsyncLLM
from headrace.engine.stats import EngineStats
from headrace.engine_port import EngineListener
from headrace.server.run import listen, make_server, url
from headrace.types import FinishReason, Request, StepOutput

_WORDS = (300, 400, 500)
"""Token ids that are said in turn"""


class ScriptedEngine:
    """An `EnginePort` that gives every open request a token in each turn of the loop, or its first one only."""

    def __init__(self, *, stops: bool = False) -> None:
        self._stops = stops
        self._open: dict[str, tuple[Request, int]] = {}
        self._listener: EngineListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stepping = False
        self._waiting: set[str] = set()
        self.trouble: str | None = None

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop."""
        self._listener, self._loop = listener, loop

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._open[request.id] = (request, 0)
        if not self._is_stepping and self._loop is not None:
            self._is_stepping = True
            self._loop.call_soon(self._step)

    def cancel(self, request_id: str, index: int | None = None) -> None:  # noqa: ARG002
        """Drop a request."""
        self._open.pop(request_id, None)

    def stats(self) -> EngineStats:
        """Nothing."""
        return EngineStats.none()

    async def close(self) -> None:
        """Nothing to close."""

    def _step(self) -> None:
        assert self._listener is not None
        assert self._loop is not None
        outputs = []
        for request_id, (request, count) in list(self._open.items()):
            if request_id in self._waiting:
                continue
            is_last = count + 1 >= request.max_tokens
            reason = FinishReason.LENGTH if is_last else None
            outputs.append(StepOutput(request_id, 0, [_WORDS[count % 3]], finish_reason=reason))
            if is_last:
                del self._open[request_id]
            else:
                self._open[request_id] = (request, count + 1)
        self._listener.take(outputs)
        if not self._open:
            self._is_stepping = False
        elif not self._stops:
            self._loop.call_soon(self._step)
        else:
            self._is_stepping = False
            self._waiting |= set(self._open)


def serve(*, stops: bool) -> None:
    """Serve the scripted engine; the address goes to standard output."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    llm = AsyncLLM("stories")
    llm._engine = ScriptedEngine(stops=stops)  # type: ignore[assignment]
    with listen("127.0.0.1", 0) as listener:
        server = make_server(llm, "stories")
        server.on_started = lambda: print(url(listener), flush=True)
        server.run(sockets=[listener])


class Served:
    """The server's process."""

    def __init__(self, *, stops: bool = False) -> None:
        command = [sys.executable, __file__, "--serve", "stops" if stops else "goes"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rsplit(":", 1)[1])
        self.process = psutil.Process(self._process.pid)

    def cpu_seconds(self) -> float:
        """So far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _one_stream(port: int, request: bytes, times: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(request)
    count = 0
    while True:
        data = await reader.read(1 << 20)
        times.append(time.perf_counter())
        count += data.count(b"data: {")
        if not data or b"data: [DONE]" in data:
            writer.close()
            return count


async def _requests(port: int, request: bytes, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(number):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


def streamed(path: str, body: dict[str, Any], streams: int, tokens: int) -> dict[str, float]:
    """Tokens a second through `streams` open streams, by the clock and by the server's CPU seconds."""
    request = request_bytes(path, body | {"max_tokens": tokens, "stream": True})

    async def run(port: int) -> None:
        await asyncio.gather(*(_one_stream(port, request, []) for _ in range(streams)))

    with Served() as served:
        asyncio.run(run(served.port))
        before, started = served.cpu_seconds(), time.perf_counter()
        asyncio.run(run(served.port))
        seconds, cpu = time.perf_counter() - started, served.cpu_seconds() - before
    total = streams * tokens
    return {"tokens_per_second": total / seconds, "tokens_per_cpu_second": total / cpu}


def whole(path: str, body: dict[str, Any], clients: int, number: int) -> dict[str, float]:
    """Requests a second that are not streamed, one token each."""
    request = request_bytes(path, body | {"max_tokens": 1})

    async def run(port: int) -> None:
        await asyncio.gather(*(_requests(port, request, number) for _ in range(clients)))

    with Served() as served:
        asyncio.run(run(served.port))
        before, started = served.cpu_seconds(), time.perf_counter()
        asyncio.run(run(served.port))
        seconds, cpu = time.perf_counter() - started, served.cpu_seconds() - before
    return {"requests_per_second": clients * number / seconds, "requests_per_cpu_second": clients * number / cpu}


def idle(body: dict[str, Any], streams: int) -> dict[str, float]:
    """Memory of open streams that have had their first token."""
    request = request_bytes("/v1/chat/completions", body | {"max_tokens": 100, "stream": True})

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

    with Served(stops=True) as served:
        return {"megabytes": asyncio.run(run(served)) / 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("goes", "stops"), help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(stops=options.serve == "stops")
        return
    chat = {"model": "stories", "messages": [{"role": "user", "content": "Tell me of a cat"}]}
    text = {"model": "stories", "prompt": "Once upon a time"}
    figures: dict[str, Any] = {}
    for streams in (1, 8, 32):
        figures[f"chat, {streams} streams"] = streamed("/v1/chat/completions", chat, streams, options.tokens)
        figures[f"completions, {streams} streams"] = streamed("/v1/completions", text, streams, options.tokens)
    figures["chat, whole, 8 clients"] = whole("/v1/chat/completions", chat, 8, 200)
    figures["completions, whole, 8 clients"] = whole("/v1/completions", text, 8, 200)
    figures["1,000 idle streams"] = idle(chat, 1000)
    for name, values in figures.items():
        print(f"{name}: " + ", ".join(f"{value:,.0f} {unit.replace('_', ' ')}" for unit, value in values.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
