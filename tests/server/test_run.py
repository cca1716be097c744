"""The server as a process: its line, its signals, an address that is taken."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from waiting import wait_until

from headrace.errors import ConfigError
from headrace.server.run import listen, url

PROGRAM = """
import sys
from fake_llm import FakeLLM
from headrace.server.run import run_server
llm = FakeLLM(step_seconds=0.05)
run_server(llm, "127.0.0.1", 0, "fake")
print("closed", llm.is_closed, flush=True)
"""
BODY = {"model": "fake", "prompt": "x", "max_tokens": 30, "stream": True}


@contextmanager
def program() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its URL."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("headrace serves fake at http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_finish(number: signal.Signals) -> None:
    with program() as (process, base):
        with httpx.stream("POST", f"{base}/v1/completions", json=BODY) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(number)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "closed True\n", "")


def test_a_second_signal_stops_at_once() -> None:
    body = BODY | {"max_tokens": 1500}
    with program() as (process, base), httpx.stream("POST", f"{base}/v1/completions", json=body) as response:
        data = response.iter_raw()
        next(data)
        process.terminate()
        wait_until(lambda: httpx.get(f"{base}/health/ready").status_code == 503)
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


def test_a_port_that_is_taken_is_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: Address already in use; choose") as refused:
            listen("127.0.0.1", port)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "port"), [("no such host", 80), ("127.0.0.1", 70000), ("256.1.1.1", 80), ("é" * 80, 1)]
)
def test_an_address_that_is_none(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="choose another"):
        listen(host, port)


def test_ipv6_has_brackets() -> None:
    try:
        with listen("::1", 0) as listener:
            assert url(listener) == f"http://[::1]:{listener.getsockname()[1]}"
    except ConfigError:
        assert not socket.has_ipv6 or "Cannot assign" in str(sys.exc_info()[1])


HEAPS = """
import ctypes, sys, threading
from headrace.server.heaps import bound_heaps
libc = ctypes.CDLL(None)
for name in ("malloc", "fopen"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
bound_heaps()
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heaps")
def test_threads_share_two_heaps(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HEAPS, str(tmp_path / "info")], check=True, timeout=60)
    assert 1 <= (tmp_path / "info").read_text().count("<heap ") <= 2


LARGE_BLOCKS = """
from headrace.server.heaps import bound_heaps
bound_heaps()
def mapped():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
before = mapped()
for _ in range(3):
    larger, smaller = bytearray(16 << 20), bytearray(2 << 20)  # glibc would put the second one into the heap for good
    wall = bytearray(100_000)
    del larger, smaller
print((mapped() - before) // 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heaps")
def test_large_blocks_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], check=True, timeout=60, capture_output=True, text=True)
    assert int(done.stdout) < 2
