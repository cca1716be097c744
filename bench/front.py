"""How fast the server is without a model: an engine that answers at once, behind the real HTTP front.

    python bench/front.py            tokens/s, requests/s, latency, memory of idle streams, beside the ceiling

The server runs in a process of its own, on one core where the system can bind it; the clients in this one. Seconds of
the server are CPU seconds too, which hold on a machine with other work. The ceiling is a bare ASGI application in the
same HTTP library that writes the same bytes and does nothing else.

Added latency: an engine gives 32 streams a token each every 20 ms; measured is the time from there to the client's read
of each, ours and the bare application's. Both include the library, the kernel, the client and the turns of 32 streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from starlette.types import Receive, Scope, Send

from headrace import AsyncLLM, EngineConfig
from headrace.engine.stats import EngineStats
from headrace.engine_port import EngineListener
from headrace.server.run import listen, run_server, url
from headrace.types import FinishReason, Request, StepOutput

_WORDS = (300, 400, 500)
"""Token ids that are said in turn"""

_PERIOD = 0.02
"""Seconds between the steps of a paced engine"""

KINDS = ("goes", "stops", "paced", "bare", "bare paced")
"""Of servers: an engine that always steps, that gives first tokens only, that steps every _PERIOD; and no engine"""

_BESIDE = (("goes", ""), ("bare", ", ceiling"))


class ScriptedEngine:
    """An `EnginePort` that gives every open request a token in each turn of the loop, or its first one only."""

    def __init__(self, *, stops: bool = False, paced: bool = False) -> None:
        self._stops = stops
        self._paced = paced
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
        if self._paced:
            print(time.perf_counter(), flush=True)
        self._listener.take(outputs)
        if not self._open:
            self._is_stepping = False
        elif self._paced:
            self._loop.call_later(_PERIOD, self._step)
        elif not self._stops:
            self._loop.call_soon(self._step)
        else:
            self._is_stepping = False
            self._waiting |= set(self._open)


class BareApp:
    """An ASGI application that answers with the bytes that the server would send, one event in a turn of the loop."""

    def __init__(self, *, paced: bool) -> None:
        self._paced = paced
        self._num_open = 0
        self._tick: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        body = json.loads((await receive())["body"])
        event, whole = _BYTES["chat" in scope["path"]]
        if not body.get("stream"):
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(whole)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": whole})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        self._num_open += 1
        for _ in range(body["max_tokens"]):
            await self._next_tick()
            await send({"type": "http.response.body", "body": event, "more_body": True})
        self._num_open -= 1
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _next_tick(self) -> asyncio.Future[None]:
        if self._tick is None:
            loop = asyncio.get_running_loop()
            self._tick = loop.create_future()
            loop.call_later(_PERIOD, self._step) if self._paced else loop.call_soon(self._step)
        return self._tick

    def _step(self) -> None:
        if self._paced:
            print(time.perf_counter(), flush=True)
        assert self._tick is not None
        tick, self._tick = self._tick, None
        tick.set_result(None)


def _event(kind: str, choice: str) -> bytes:
    identity = f'"id":"x-0123456789abcdef0123456789abcdef","object":"{kind}","created":1770000000,"model":"stories"'
    return f'{{{identity},"system_fingerprint":"fp_0123456789ab","choices":[{choice}]'.encode()


_USAGE = (
    b',"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":0}}}'
)
_BYTES = {
    True: (
        b"data: %b}\n\n"
        % _event("chat.completion.chunk", '{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null}'),
        _event("chat.completion", '{"index":0,"message":{"role":"assistant","content":" a"},"finish_reason":"length"}')
        + _USAGE,
    ),
    False: (
        b"data: %b}\n\n" % _event("text_completion", '{"index":0,"text":" a","logprobs":null,"finish_reason":null}'),
        _event("text_completion", '{"index":0,"text":" a","logprobs":null,"finish_reason":"length"}') + _USAGE,
    ),
}
"""An event and a whole answer, of chats and of completions"""


def serve(kind: str) -> None:
    """Serve one of KINDS; the address goes to standard output."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    if kind.startswith("bare"):
        app = BareApp(paced=kind == "bare paced")
        config = uvicorn.Config(app, http="httptools", ws="none", log_level="warning", access_log=False)
        with listen("127.0.0.1", 0) as listener:
            print(url(listener), flush=True)  # it listens already
            uvicorn.Server(config).run(sockets=[listener])
        return
    llm = AsyncLLM("stories", EngineConfig(max_sequences=1024))  # nobody waits for room
    llm._engine = ScriptedEngine(stops=kind == "stops", paced=kind == "paced")  # type: ignore[assignment]
    run_server(llm, "127.0.0.1", 0, "stories", announce=lambda line: print(line, flush=True))


class Served:
    """The server's process."""

    def __init__(self, kind: str = "goes") -> None:
        command = [sys.executable, __file__, "--serve", kind]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rsplit(":", 1)[1])
        self.process = psutil.Process(self._process.pid)

    def cpu_seconds(self) -> float:
        """So far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def step_times(self) -> list[float]:
        """When a paced engine has stepped; ends the server."""
        self._process.kill()
        assert self._process.stdout is not None
        return [float(line) for line in self._process.stdout]

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


def streamed(path: str, body: dict[str, Any], streams: int, tokens: int, kind: str = "goes") -> dict[str, float]:
    """Tokens a second through `streams` open streams, by the clock and by the server's CPU seconds."""
    request = request_bytes(path, body | {"max_tokens": tokens, "stream": True})

    rounds = 64 // streams

    async def run(port: int, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.gather(*(_one_stream(port, request, []) for _ in range(streams)))

    with Served(kind) as served:
        asyncio.run(run(served.port, 1))
        before, started = served.cpu_seconds(), time.perf_counter()
        asyncio.run(run(served.port, rounds))
        seconds, cpu = time.perf_counter() - started, served.cpu_seconds() - before
    total = streams * tokens * rounds
    return {"tokens_per_second": total / seconds, "tokens_per_cpu_second": total / cpu}


def whole(path: str, body: dict[str, Any], clients: int, number: int, kind: str = "goes") -> dict[str, float]:
    """Requests a second that are not streamed, one token each."""
    request = request_bytes(path, body | {"max_tokens": 1})

    async def run(port: int) -> None:
        await asyncio.gather(*(_requests(port, request, number) for _ in range(clients)))

    with Served(kind) as served:
        asyncio.run(run(served.port))
        before, started = served.cpu_seconds(), time.perf_counter()
        asyncio.run(run(served.port))
        seconds, cpu = time.perf_counter() - started, served.cpu_seconds() - before
    return {"requests_per_second": clients * number / seconds, "requests_per_cpu_second": clients * number / cpu}


def latency(body: dict[str, Any], streams: int, tokens: int, kind: str) -> dict[str, float]:
    """Microseconds from a paced engine's step to the client's read of each token, and CPU time for each."""
    request = request_bytes("/v1/chat/completions", body | {"max_tokens": tokens, "stream": True})
    times: list[float] = []

    async def run(port: int) -> None:
        await asyncio.gather(*(_one_stream(port, request, times) for _ in range(streams)))

    with Served(kind) as served:
        asyncio.run(run(served.port))
        times.clear()
        before = served.cpu_seconds()
        asyncio.run(run(served.port))
        cpu = served.cpu_seconds() - before
        steps = served.step_times()
    behind = sorted(at - steps[bisect(steps, at) - 1] for at in times[2 * streams :])  # what opens a stream is left out
    return {
        "us_median": 1e6 * behind[len(behind) // 2],
        "us_p90": 1e6 * behind[len(behind) * 9 // 10],
        "us_of_cpu": 1e6 * cpu / streams / tokens,
    }


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

    with Served("stops") as served:
        return {"megabytes": asyncio.run(run(served)) / 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve)
        return
    chat = {"model": "stories", "messages": [{"role": "user", "content": "Tell me of a cat"}]}
    text = {"model": "stories", "prompt": "Once upon a time"}
    figures: dict[str, dict[str, float]] = {}

    def note(name: str, values: dict[str, float]) -> None:
        figures[name] = values
        said = ", ".join(f"{value:,.0f} {unit.replace('_', ' ')}" for unit, value in values.items())
        print(f"{name}: {said}", flush=True)

    for name, path, body in (("chat", "/v1/chat/completions", chat), ("completions", "/v1/completions", text)):
        for streams in (1, 8, 32):
            for kind, mark in _BESIDE:
                note(f"{name}, {streams} streams{mark}", streamed(path, body, streams, options.tokens, kind))
        for kind, mark in _BESIDE:
            note(f"{name}, whole, 8 clients{mark}", whole(path, body, 8, 200, kind))
    for kind, mark in _BESIDE:
        paced = "bare paced" if kind == "bare" else "paced"
        note(f"chat, latency in 32 streams{mark}", latency(chat, 32, min(options.tokens, 150), paced))
    note("1,000 idle streams", idle(chat, 1000))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
