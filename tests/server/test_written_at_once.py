"""A token of a stream is written in the engine's call, and nothing is lost or doubled where that cannot be."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from waiting import until

from headrace import AsyncLLM, EngineConfig
from headrace.engine_port import EngineListener
from headrace.sampling_params import SamplingParams
from headrace.server.run import listen, make_server
from headrace.server.settings import ServerSettings
from headrace.types import Chunk, FinishReason, Request, StepOutput

TEXT = "Once upon a time there was a girl who liked to play in the park with her red ball. " * 8


class HandPort:
    """An engine that gives what the test says, when it says so."""

    trouble = None

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.listener: EngineListener | None = None

    def attach(self, listener: EngineListener, _: object) -> None:
        self.listener = listener

    def submit(self, request: Request) -> None:
        self.requests.append(request)

    def cancel(self, *_: object) -> None:
        pass

    async def close(self) -> None:
        pass

    def give(self, token_ids: Sequence[int], *, is_last: bool = False) -> None:
        """A step in which every request gets these tokens."""
        assert self.listener is not None
        reason = FinishReason.LENGTH if is_last else None
        outputs = [StepOutput(each.id, 0, list(token_ids), finish_reason=reason) for each in self.requests]
        self.listener.take(outputs)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[HandPort, AsyncLLM, int]]:
    llm, port = AsyncLLM("stories", EngineConfig(threads=1)), HandPort()
    await llm.close()  # nothing is computed
    llm.through(lambda _: port)  # type: ignore[arg-type, return-value]
    server = make_server(llm, "stories", ServerSettings(max_unread_tokens=10**6, shutdown_seconds=1))
    with listen("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield port, llm, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def ask(at: int, **fields: Any) -> socket.socket:
    body = json.dumps({"model": "stories", "prompt": "Once", "max_tokens": 400, "stream": True, **fields}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    await asyncio.to_thread(client.connect, ("127.0.0.1", at))
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    return client


def read_until(client: socket.socket, mark: bytes) -> bytes:
    said = b""
    while mark not in said[-65536 - len(mark) :]:
        part = client.recv(65536)
        assert part, f"the server hung up after {said[-300:]!r}"
        said += part
    return said


def run(test: Any, loop_factory: Any) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(test())


LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_a_token_is_there_before_the_loop_turns(loop_factory: Any) -> None:
    async def test() -> None:
        async with served() as (port, llm, at):
            assert llm.tokenizer is not None
            first, second, third = llm.tokenizer.encode(" girl ball park", add_special_tokens=False)[-3:]
            clients = [await ask(at) for _ in range(3)]
            await until(lambda: len(port.requests) == 3)
            port.give([first])  # with the headers, by the loop
            for client in clients:
                await asyncio.to_thread(read_until, client, b"data: {")
            for token_id in (second, third):
                port.give([token_id])
                text = json.dumps(llm.tokenizer.decode([token_id])).strip('" ').encode()
                for client in clients:  # the loop does not run between these lines
                    assert text in client.recv(65536)
            port.give([first], is_last=True)
            for client in clients:
                await asyncio.to_thread(read_until, client, b"data: [DONE]")
                client.close()

    run(test, loop_factory)


@LOOPS
def test_who_stops_reading_gets_all_of_it_later(loop_factory: Any) -> None:
    async def test() -> None:
        async with served() as (port, llm, at):
            assert llm.tokenizer is not None
            token_ids = llm.tokenizer.encode(TEXT, add_special_tokens=False)
            client = await ask(at)
            await until(lambda: bool(port.requests))
            [request] = port.requests
            rounds = 300
            for number in range(rounds):
                for token_id in token_ids:
                    port.give([token_id])
                if not number % 7:
                    await asyncio.sleep(0)
            stream = llm._streams[request.id]
            assert stream._chunks, "the buffers of the system took it all: the test shows nothing"
            port.give([token_ids[0]], is_last=True)
            said = await asyncio.to_thread(read_until, client, b"data: [DONE]")
            client.close()
            events = [line[6:] for line in said.split(b"\n") if line.startswith(b"data: {")]
            text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
            expected = llm.tokenizer.decode([*token_ids * rounds, token_ids[0]])
            assert text.strip() == expected.strip()

    run(test, loop_factory)


async def test_what_is_not_taken_comes_in_turn() -> None:
    """Whoever takes chunks now and then, and is waited for or not, has all of them, once and in order."""
    random_ = random.Random(5)
    llm, port = AsyncLLM("stories", EngineConfig(threads=1)), HandPort()
    await llm.close()
    llm.through(lambda _: port)  # type: ignore[arg-type, return-value]
    assert llm.tokenizer is not None
    token_ids = llm.tokenizer.encode(TEXT, add_special_tokens=False)
    for willing in (0.0, 0.3, 0.9, 1.0):
        stream = llm.submit("Once", SamplingParams(max_tokens=len(token_ids), n=2))
        got: list[Chunk] = []

        def take(chunk: Chunk, willing: float = willing, got: list[Chunk] = got) -> bool:
            if random_.random() >= willing:
                return False
            got.append(chunk)
            return True

        async def read(stream: Any = stream, got: list[Chunk] = got, take: Any = take) -> None:
            while chunks := await stream.next_chunks(take):
                got.extend(chunks)
                if random_.random() < 0.5:
                    await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        for number, token_id in enumerate(token_ids, 1):
            reason = FinishReason.LENGTH if number == len(token_ids) else None
            for index in range(2):
                stream.push(StepOutput(stream.request_id, index, [token_id], finish_reason=reason))
            for _ in range(random_.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await reading
        for index in range(2):
            own = [chunk for chunk in got if chunk.index == index]
            assert [token_id for chunk in own for token_id in chunk.token_ids] == token_ids
            assert own[-1].finish_reason is FinishReason.LENGTH
    assert not llm._streams
