"""The servers of bench/front.py: ours with a scripted engine, and the bare HTTP library.

python bench/front_servers.py KIND        one of KINDS; the address goes to standard output
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvicorn
from scripted import ScriptedPort
from starlette.types import Receive, Scope, Send

from headrace import AsyncLLM, EngineConfig
from headrace.server.run import listen, run_server, url
from headrace.types import FinishReason, StepOutput

_WORDS = (300, 400, 500)
"""Token ids that are said in turn"""

PERIOD = 0.02
"""Seconds between the steps of a paced engine; the bare application's lie halfway between ours"""

KINDS = ("goes", "stops", "paced", "bare", "bare paced")
"""Of servers: an engine that always steps, that gives first tokens only, that steps every PERIOD; and no engine"""


class ScriptedEngine(ScriptedPort):
    """Gives every open request a token in each turn of the loop, or its first one only."""

    def __init__(self, *, stops: bool = False, paced: bool = False) -> None:
        super().__init__()
        self._stops = stops
        self._paced = paced
        self._waiting: set[str] = set()

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
            self._loop.call_later(_until_step(0.0), self._step)
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
            loop.call_later(_until_step(PERIOD / 2), self._step) if self._paced else loop.call_soon(self._step)
        return self._tick

    def _step(self) -> None:
        if self._paced:
            print(time.perf_counter(), flush=True)
        assert self._tick is not None
        tick, self._tick = self._tick, None
        tick.set_result(None)


def _until_step(phase: float) -> float:
    """Seconds until the next step of a paced engine, by the clock that all processes share."""
    return PERIOD - (time.monotonic() - phase) % PERIOD


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
    """Serve one of KINDS on one core; the address goes to standard output."""
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


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        raise SystemExit(f"expected one of {', '.join(map(repr, KINDS))}")
    serve(sys.argv[1])
