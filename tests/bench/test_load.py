"""bench/load.py against a live server: what it sends, what it counts, and what it says of a server that misbehaves."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_llm import serving

from headrace.async_llm import AsyncLLM
from headrace.config import EngineConfig

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "load.py"
IDS = ["--vocabulary", "512", "--lowest-id", "300"]


@pytest.fixture(scope="module")
def stories() -> Iterator[str]:
    with serving(AsyncLLM("stories", EngineConfig(threads=1)), "stories") as base:
        yield base


def load(*arguments: str, fails: bool = False) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == int(fails), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_closed_loop_counts_tokens_by_usage(stories: str) -> None:
    result = load("closed", stories, "--streams", "3", "--requests", "7", "--tokens", "9", "--prompt-tokens", "5", *IDS)
    assert (result["requests"], result["failed"], result["streams"]) == (7, 0, 3)
    assert (result["tokens"], result["prompt_tokens"]) == (7 * 9, 7 * 5)
    assert result["tokens_per_second"] == pytest.approx(
        63 / result["seconds"], abs=63 * 0.0006 / result["seconds"] ** 2
    )
    assert 0 < result["first_token_ms"]["p50"] <= result["first_token_ms"]["p99"]


def test_trace_is_scaled_in_time_and_length(stories: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{46 + at}.6805900,{100 + 20 * at},40" for at in range(5)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    scaled = ["--trace", str(trace), "--rate", "10", "--length", "0.1", "--seconds", "9"]
    result = load("open", stories, *scaled, "--most-first", "60000", "--most-per-token", "60000", *IDS)
    assert (result["tokens"], result["prompt_tokens"]) == (5 * 4, 10 + 12 + 14 + 16 + 18)
    assert result["seconds"] >= 0.4  # 5 requests over 4 s, at 10 a second instead of 1.25
    assert result["goodput"]["share"] == 1
    assert result["goodput"]["requests_per_second"] == pytest.approx(result["requests_per_second"], rel=0.01)
    missed = load("open", stories, *scaled, "--most-first", "0.001", *IDS)
    assert missed["goodput"]["share"] == missed["goodput"]["tokens_per_second"] == 0


def test_refusals_are_counted_and_shown(stories: str) -> None:
    result = load("closed", stories, "--streams", "2", "--requests", "2", "--tokens", "100000", *IDS, fails=True)
    assert (result["requests"], result["failed"]) == (0, 2)
    assert "400" in result["first_error"]


def answer(usage: str) -> bytes:
    """A stream as llama-server sends it: a header line that looks like the end of a chunked body."""
    body = b'data: {"choices":[{"text":"a"}]}\n\n', b'data: {"choices":[],"usage":' + usage.encode() + b"}\n\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in body)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n" + chunks


def has_all(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


@contextmanager
def pretended(*connections: list[bytes]) -> Iterator[str]:
    """A server that answers the requests of each connection with these bytes, then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answers in connections:
            connection, _ = listener.accept()
            with connection:
                for each in answers:
                    request = b""
                    while not has_all(request):
                        request += connection.recv(65536)
                    head = each.index(b"\r\n\r\n") + 4
                    for part in (each[:head], each[head:-3], each[-3:]):  # the end mark is cut in two
                        connection.sendall(part)
                        time.sleep(0.05)  # so that each is a read of its own

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(60)


def test_connections_that_the_server_closes_are_opened_again() -> None:
    good = answer('{"prompt_tokens":4,"completion_tokens":3}') + b"0\r\n\r\n"
    with pretended([good, good], [good]) as base:  # one to warm up
        result = load("closed", base, "--streams", "1", "--requests", "2", "--model", "m")
    assert (result["requests"], result["failed"], result["tokens"]) == (2, 0, 6)


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    good = answer('{"prompt_tokens":4,"completion_tokens":3}')
    with pretended([good + b"0\r\n\r\n"], [good]) as base:
        result = load("closed", base, "--streams", "1", "--requests", "1", "--model", "m", fails=True)
    assert (result["requests"], result["failed"]) == (0, 1)
    assert "in the middle" in result["first_error"]
