"""One process and its socket: what it inherits, what becomes of half a message, of junk, of an end at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.config import EngineConfig
from headrace.errors import EngineError
from headrace.supervise.process import EngineProcess
from headrace.supervise.wire import Died, FromEngine, Start

START = Start(name="none", folder=None, gguf_path=None, config=EngineConfig(), adapters=[])
HEAD = """
import os, signal, socket, sys, time
from headrace.supervise.wire import Died, encode
line = socket.socket(fileno=int(sys.argv[1]))
"""


def command(body: str) -> list[str]:
    return [sys.executable, "-c", HEAD + body]


@contextmanager
def waiting(body: str) -> Iterator[EngineProcess]:
    process = EngineProcess(START, command(body))
    try:
        yield process
    finally:
        process.abandon()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os._exit(3)", "exited with status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("line.recv(1 << 20); os._exit(4)", "exited with status 4"),
        ("line.recv(1 << 20); line.close(); time.sleep(60)", "was killed by SIGKILL"),
        ("line.sendall(encode(Died('x'))[:-1]); os._exit(5)", "exited with status 5"),
        ("line.sendall(bytes([4, 0, 0, 0]) + b'junk'); time.sleep(60)", "no message"),
    ],
)
def test_what_ends_before_it_says_anything(body: str, words: str) -> None:
    with waiting(body) as process, pytest.raises(EngineError, match=words):
        process.wait()


async def life(body: str) -> tuple[list[FromEngine], list[str]]:
    """What is heard of a process, and how it died."""
    process = EngineProcess(START, command(body))
    heard: list[FromEngine] = []
    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    process.attach(asyncio.get_running_loop(), heard.append, died.set_result)
    end = await asyncio.wait_for(died, 60)
    await asyncio.sleep(0.05)  # a second call would raise
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    return heard, [end]


async def test_half_a_message_at_the_end_is_not_heard() -> None:
    body = "data = encode(Died('one')); line.sendall(data + data + data[:-2]); os._exit(7)"
    assert await life(body) == ([Died("one"), Died("one")], ["exited with status 7"])


async def test_messages_come_whole_however_slowly() -> None:
    body = """
for byte in encode(Died("slow")):
    line.sendall(bytes([byte]))
    time.sleep(0.002)
line.recv(1 << 20)
"""
    heard, _ = await life(body)
    assert heard == [Died("slow")]


async def test_junk_is_the_end_of_it() -> None:
    body = "line.sendall(encode(Died('one')) + bytes([4, 0, 0, 0]) + b'junk' + encode(Died('two'))); time.sleep(60)"
    heard, (end,) = await life(body)
    assert heard == [Died("one")]
    assert end == "sent what is no message and was killed by SIGKILL"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
async def test_it_inherits_its_socket_and_no_other_file() -> None:
    body = """
import json
numbers = [number for number in sorted(map(int, os.listdir("/proc/self/fd"))) if number > 2]
targets = [os.readlink(f"/proc/self/fd/{number}") for number in numbers if os.path.exists(f"/proc/self/fd/{number}")]
line.sendall(encode(Died(json.dumps([sys.stdin.read(), os.getpgrp() == os.getpid(), targets]))))
line.recv(1 << 20)
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)  # not even then
        heard, _ = await life(body)
    (message,) = heard
    assert isinstance(message, Died)
    (stdin, is_leader, targets) = __import__("json").loads(message.message)
    assert (stdin, is_leader) == ("", True)
    assert [target for target in targets if target.startswith("socket:")] == targets[:1]
    assert not any("/dev/" not in target and not target.startswith("socket:") for target in targets), targets


FRONT = """
import sys, time
from headrace.hub.resolve import resolve_model
from headrace.supervise.process import EngineProcess
from headrace.supervise.wire import Start
from headrace.config import EngineConfig
folder = str(resolve_model("stories").folder)
process = EngineProcess(Start(name="stories", folder=folder, gguf_path=None, config=EngineConfig(), adapters=[]))
if sys.argv[1] == "loaded":
    process.wait()
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["loading", "loaded"])
def test_a_front_that_dies_leaves_no_orphan(moment: str) -> None:
    front: Any = subprocess.Popen([sys.executable, "-c", FRONT, moment], stdout=subprocess.PIPE, text=True)
    with front:
        pid = int(front.stdout.readline())
        front.send_signal(signal.SIGKILL)
        front.wait()
    for _ in range(1200):
        if not _lives(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the engine's process outlives the server's")


def _lives(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_terminating_a_whole_group_leaves_the_engine_to_the_server() -> None:
    from headrace.hub.resolve import resolve_model

    start = Start(
        name="stories",
        folder=str(resolve_model("stories").folder),
        gguf_path=None,
        config=EngineConfig(),
        adapters=[],
    )
    process = EngineProcess(start)
    try:
        process.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)
        process._connection.close()
        assert process._process.wait(60) == 0, "it ends because the server has gone"
    finally:
        process.abandon()
