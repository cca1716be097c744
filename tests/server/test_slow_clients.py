"""Clients that send slowly, send too much, or do not read: real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from fake_llm import FakeLLM
from waiting import wait_until

from headrace import AsyncLLM
from headrace.async_llm import AsyncStream
from headrace.config import EngineConfig
from headrace.errors import ReaderTooSlow
from headrace.sampling_params import SamplingParams
from headrace.server.run import Server, listen, make_server, url
from headrace.server.settings import ServerSettings
from headrace.types import StepOutput

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def connect(base: str, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(60)
    address = urlsplit(base)
    client.connect((address.hostname, address.port))
    return client


def rest_of(client: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@contextmanager
def narrow(llm: FakeLLM, **settings: float) -> Iterator[tuple[str, Server]]:
    """A server whose sockets hold little, so that a small answer is more than they take."""
    listener = listen("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = make_server(llm, "fake", ServerSettings(**settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    base = url(listener)
    thread.start()
    try:
        yield base, server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comple", HEAD, HEAD + b"x-more: a"])
def test_a_head_that_does_not_come_is_408(serve, sent: bytes) -> None:
    base = serve(FakeLLM(), head_seconds=0.3)
    with connect(base) as client:
        client.sendall(sent)
        said = rest_of(client)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said


def test_dripping_headers_do_not_help(serve) -> None:
    base = serve(FakeLLM(), head_seconds=0.5)
    with connect(base) as client:
        begin = time.monotonic()
        client.sendall(HEAD)
        try:
            while time.monotonic() - begin < 20:
                client.sendall(b"x: y\r\n")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - begin < 15


def test_a_second_request_has_time_limits_too(serve) -> None:
    base = serve(FakeLLM(), head_seconds=1)
    with connect(base) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(1.5)  # an idle connection is kept
        client.sendall(b"GET /health HT")
        said = rest_of(client)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


@pytest.mark.parametrize("limits", [{"body_idle_seconds": 0.3}, {"body_seconds": 0.3}])
def test_a_body_that_does_not_come_is_408_in_the_dialects_shape(serve, limits: dict[str, float]) -> None:
    base = serve(FakeLLM(), **limits)
    with connect(base) as client:
        client.sendall(HEAD + b'content-length: 100\r\n\r\n{"model"')
        said = rest_of(client)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_too_slow"' in said


def test_a_dripping_body_ends_at_the_total_limit(serve) -> None:
    base = serve(FakeLLM(), body_seconds=0.5, body_idle_seconds=10)
    with connect(base) as client:
        client.sendall(HEAD + b"content-length: 100000\r\n\r\n")
        begin = time.monotonic()
        try:
            while time.monotonic() - begin < 30:
                client.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "lines",
    [
        b"x-large: " + b"a" * 9000 + b"\r\n\r\n",
        b"".join(b"x-%d: a\r\n" % number for number in range(60)) + b"\r\n",
        b"x-endless: " + b"a" * 300_000,
    ],
)
def test_a_large_head_is_431(serve, lines: bytes) -> None:
    base = serve(FakeLLM(), max_head_bytes=8192, max_headers=50)
    with connect(base) as client:
        said = b""
        try:
            for begin in range(0, len(HEAD + lines), 4096):
                client.sendall((HEAD + lines)[begin : begin + 4096])
                time.sleep(0.001)
        except OSError:
            pass
        said = rest_of(client)
    assert said.startswith(b"HTTP/1.1 431 ") or said == b""  # a reset may overtake the words
    assert httpx.get(f"{base}/health").status_code == 200


def test_a_long_target_is_431(serve) -> None:
    base = serve(FakeLLM(), max_head_bytes=8192)
    assert httpx.get(f"{base}/{'x' * 9000}").status_code == 431


def test_what_is_no_http_is_400(serve) -> None:
    with connect(serve(FakeLLM())) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert rest_of(client).startswith(b"HTTP/1.1 400 ")


def test_connections_are_limited(serve) -> None:
    base = serve(FakeLLM(), max_connections=2)
    first, second = connect(base), connect(base)
    for client in (first, second):
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    with connect(base) as third:
        said = rest_of(third)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in said
    first.close()

    def has_room() -> bool:
        with connect(base) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return rest_of(client).startswith(b"HTTP/1.1 200 ")

    wait_until(has_room)
    second.close()


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_readers_who_do_not_read_are_cut_off(stream: bytes) -> None:
    """Twenty of them; meanwhile others are served, and in the end nothing of them is left."""
    llm = FakeLLM(max_context=100_000)
    with narrow(llm, write_seconds=0.5) as (base, server):
        body = b'{"model": "fake", "prompt": "x", "max_tokens": 4000, "logprobs": 5, "stream": %s}' % stream
        clients = [connect(base, receive_buffer=4096) for _ in range(20)]
        for client in clients:
            client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        small = {"model": "fake", "prompt": "x", "max_tokens": 3}
        assert httpx.post(f"{base}/v1/completions", json=small, timeout=60).status_code == 200
        wait_until(lambda: len(llm.streams) == 21 and all(one.is_over for one in llm.streams))
        if stream == b"true":
            assert all(one.is_cancelled and one.num_made < 4000 for one in llm.streams if one.length == 4000)
        wait_until(lambda: not server.server_state.connections)
        for client in clients:
            said = rest_of(client)
            assert len(said) < 100_000, "a part of the 340 kB or more that it is"
            assert b"[DONE]" not in said
            client.close()


def test_a_slow_reader_who_gets_on_is_not_cut_off() -> None:
    llm = FakeLLM(max_context=100_000)
    with narrow(llm, write_seconds=2) as (base, _), connect(base, receive_buffer=4096) as client:
        body = b'{"model": "fake", "prompt": "x", "max_tokens": 2000, "stream": true}'
        client.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        said = b""
        for _ in range(25):
            said += client.recv(16384)
            time.sleep(0.1)
        said += rest_of(client)
    assert b"data: [DONE]" in said


class Nothing:
    """An engine's port that only notes what is cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def attach(self, *_: object) -> None:
        pass

    def submit(self, _: object) -> None:
        pass

    async def close(self) -> None:
        pass

    def cancel(self, request_id: str, index: int | None = None) -> None:
        assert index is None
        self.cancelled.append(request_id)


async def test_what_is_not_read_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.async_llm._MANY_CHUNKS", 16)
    port = Nothing()
    async with AsyncLLM("stories", EngineConfig(threads=1)) as llm:
        await llm.close()  # nothing is to be computed
        llm.through(lambda _: port)
        ids = llm.tokenizer.encode("Once upon a time there was a girl who liked to play in the park. " * 6, False)
        texts = []
        for is_slow in (False, True):
            stream = llm.submit("Once", SamplingParams(max_tokens=len(ids), n=2))
            text = ["", ""]
            for token_id in ids:
                for index in range(2):
                    stream.push(StepOutput(stream.request_id, index, [token_id]))
                if not is_slow:
                    for chunk in await stream.next_chunks():
                        text[chunk.index] += chunk.text
            if is_slow:
                chunks = await stream.next_chunks()
                assert len(chunks) < 16
                for chunk in chunks:
                    text[chunk.index] += chunk.text
            texts.append(text)
        assert texts[0] == texts[1]
        stream = llm.submit("Once", SamplingParams(max_tokens=len(ids)))
        stream.most_unread = 40
        for token_id in ids:
            stream.push(StepOutput(stream.request_id, 0, [token_id]))
        assert port.cancelled == [stream.request_id]
        assert await stream.next_chunks()
        with pytest.raises(ReaderTooSlow):
            await stream.next_chunks()


async def test_many_completions_are_not_put_together_at_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.async_llm._MANY_CHUNKS", 16)
    passes = 0
    put_together = AsyncStream._put_together

    def counting(stream: AsyncStream) -> None:
        nonlocal passes
        passes += 1
        put_together(stream)

    monkeypatch.setattr(AsyncStream, "_put_together", counting)
    async with AsyncLLM("stories", EngineConfig(threads=1)) as llm:
        await llm.close()
        llm.through(lambda _: Nothing())
        stream = llm.submit("Once", SamplingParams(max_tokens=9, n=100))
        for _ in range(8):
            for index in range(100):
                stream.push(StepOutput(stream.request_id, index, [5]))
        assert passes < 20
        assert sum(len(chunk.token_ids) for chunk in await stream.next_chunks()) == 800
