"""Memory of the server's front under clients that ask for long streams and read nothing.

    python bench/slow_readers.py [--readers 1000] [--completions 4] [--tokens 450] [--logprobs K]

An engine that gives every open completion a token in each turn of the loop is behind the real front, in a process of
its own. Prints one JSON object: what the front grew by at most, in all and for each reader. Readers who are further
behind than the server allows (`max_unread_tokens`) are cut off; what they took until then counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil
from scripted import ScriptedPort

from headrace import AsyncLLM, EngineConfig
from headrace.server.run import run_server
from headrace.server.settings import ServerSettings
from headrace.types import FinishReason, Logprob, Request, StepOutput

_WORDS = (300, 400, 500)
_QUIET_SECONDS = 5.0


class Flood(ScriptedPort):
    """Gives each completion of every request a token in each turn of the loop."""

    def _step(self) -> None:
        """A token for each completion of a hundred requests: the loop has its turn in between."""
        assert self._listener is not None
        assert self._loop is not None
        for request, count in list(self._open.values())[:100]:
            is_last = count + 1 == request.max_tokens
            reason = FinishReason.LENGTH if is_last else None
            del self._open[request.id]
            if not is_last:
                self._open[request.id] = (request, count + 1)
            self._listener.take([_output(request, index, count, reason) for index in range(request.params.n)])
        if self._open:
            self._loop.call_soon(self._step)
        else:
            self._is_stepping = False


def _output(request: Request, index: int, count: int, reason: FinishReason | None) -> StepOutput:
    word = _WORDS[count % len(_WORDS)]
    most = request.params.logprobs
    entries = None if most is None else [{each: Logprob(-1.0, rank) for rank, each in _ranked(word, most)}]
    return StepOutput(request.id, index, [word], logprobs=entries, finish_reason=reason)


def _ranked(word: int, most: int) -> Sequence[tuple[int, int]]:
    return list(enumerate([word, *range(10, 10 + most)], 1))


def _serve(address: Connection) -> None:
    llm = AsyncLLM("stories", EngineConfig(max_sequences=10**6))  # nobody waits for room
    llm._engine = Flood()  # type: ignore[assignment]
    settings = ServerSettings(write_seconds=3600.0, max_waiting_tokens=10**9)  # nobody is cut off for time
    run_server(llm, "127.0.0.1", 0, "stories", settings, announce=address.send)


def _ask(port: int, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return client


def measure(readers: int, completions: int, tokens: int, logprobs: int | None) -> dict[str, Any]:
    """Ask for streams, read nothing, and watch the front until it neither computes nor grows."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    port = int(ours.recv().rsplit(":", 1)[1])
    front = psutil.Process(process.pid)
    body = {"model": "stories", "prompt": "Once upon a time", "max_tokens": tokens, "n": completions, "stream": True}
    _ask(port, body | {"max_tokens": 2, "n": 1}).recv(65536)  # what a first request loads
    before = front.memory_info().rss
    if logprobs is not None:
        body["logprobs"] = logprobs
    clients = [_ask(port, body) for _ in range(readers)]
    most, busy, quiet_since = before, 0.0, time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        time.sleep(0.2)
        most = max(most, front.memory_info().rss)
        now = sum(front.cpu_times()[:2])
        if now - busy > 0.02:
            busy, quiet_since = now, time.monotonic()
    for client in clients:
        client.close()
    process.kill()
    growth = most - before
    return {
        "readers": readers,
        "tokens_for_each": completions * tokens,
        "logprobs": logprobs,
        "front_before_mib": round(before / 2**20, 1),
        "growth_mib": round(growth / 2**20, 1),
        "growth_kib_for_each": round(growth / readers / 2**10, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=450, help="of each completion")
    parser.add_argument("--logprobs", type=int)
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.readers, options.completions, options.tokens, options.logprobs)))


if __name__ == "__main__":
    main()
