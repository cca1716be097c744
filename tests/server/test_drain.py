"""A server that is told to stop: nothing that it has begun is lost, and nothing stays behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from fake_llm import FakeLLM, HeldLLM, running
from waiting import wait_until

LONG = {"model": "fake", "prompt": "x", "max_tokens": 60, "stream": True}
SHORT = {"model": "fake", "prompt": "x", "max_tokens": 1}


def test_while_streams_finish_nothing_new_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace.server")
    llm = HeldLLM()
    with running(llm, shutdown_seconds=300) as (server, base, thread):
        assert httpx.get(f"{base}/health/ready").status_code == 200
        with httpx.stream("POST", f"{base}/v1/completions", json=LONG, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.should_exit = True
            wait_until(lambda: httpx.post(f"{base}/v1/completions", json=SHORT).status_code == 503)
            refused = httpx.post(f"{base}/v1/completions", json=SHORT)
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "overloaded"
            ready = httpx.get(f"{base}/health/ready")
            assert (ready.status_code, "shutting down" in ready.text) == (503, True)
            assert httpx.get(f"{base}/health/live").status_code == 200
            assert "vllm:num_requests_running" in httpx.get(f"{base}/metrics").text
            llm.go.set()
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        thread.join(60)
        assert not thread.is_alive()
    said = [record.getMessage() for record in caplog.records if record.name == "headrace.server"]
    assert re.fullmatch(r"stopping: \d+ requests? (is|are) open, with 300 s to finish; a second signal .*", said[0])
    assert len(said) == 1


def test_in_the_time_for_balancers_requests_are_served_and_connections_are_not_kept() -> None:
    with running(FakeLLM(), drain_seconds=6) as (server, base, _):
        server.should_exit = True
        with httpx.Client() as client:
            wait_until(lambda: client.get(f"{base}/health/ready").status_code == 503)
            answer = client.post(f"{base}/v1/completions", json=SHORT)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


class Balancer:
    """Round robin over the servers that are ready; it looks every 20 ms."""

    def __init__(self) -> None:
        self._bases: list[str] = []
        self._ready: set[str] = set()
        self._next = 0
        self._is_over = False
        self._client = httpx.Client(timeout=60)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def add(self, base: str) -> None:
        self._bases.append(base)
        wait_until(lambda: base in self._ready)

    def remove(self, base: str) -> None:
        self._bases.remove(base)

    def post(self, body: dict) -> httpx.Response:
        self._next += 1
        ready = [base for base in self._bases if base in self._ready]
        return self._client.post(f"{ready[self._next % len(ready)]}/v1/completions", json=body)

    def _look(self) -> None:
        looker = httpx.Client(timeout=60)
        while not self._is_over:
            for base in list(self._bases):
                try:
                    is_ready = looker.get(f"{base}/health/ready").status_code == 200
                except httpx.HTTPError:
                    is_ready = False
                (self._ready.add if is_ready else self._ready.discard)(base)
            time.sleep(0.02)

    def close(self) -> None:
        self._is_over = True
        self._thread.join(60)
        self._client.close()


def test_a_rolling_restart_behind_a_balancer_loses_nothing() -> None:
    """Each of two servers in turn is stopped and another one takes its place, while four clients ask."""
    balancer = Balancer()
    answers: list[int | Exception] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                answer = balancer.post(SHORT | {"max_tokens": 10})
                answers.append(answer.status_code)
            except Exception as error:  # noqa: BLE001
                answers.append(error)
            time.sleep(0.02)

    with ExitStack() as all_servers:
        servers = []
        for _ in range(2):
            server, base, thread = all_servers.enter_context(running(FakeLLM(step_seconds=0.01), drain_seconds=4))
            servers.append((server, base, thread))
            balancer.add(base)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for server, base, thread in servers:
            server.should_exit = True
            _, new, _ = all_servers.enter_context(running(FakeLLM(step_seconds=0.01), drain_seconds=0))
            balancer.add(new)
            thread.join(60)
            assert not thread.is_alive()
            balancer.remove(base)
        is_over.set()
        for thread in threads:
            thread.join(60)
        balancer.close()
    assert len(answers) > 20
    assert set(answers) == {200}


@contextmanager
def served() -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """`headrace serve`, its address, and its engine's process."""
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "serve", "stories", "--port", "0", "--threads", "1"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = ""
        for line in process.stderr:
            if line.startswith("headrace serves"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1, line
        yield process, line.split()[-1], int(children[0])
    finally:
        process.kill()
        process.communicate()


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGKILL]])
def test_no_child_stays_behind(signals: list[signal.Signals]) -> None:
    body = {"model": "stories", "prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with served() as (process, base, child):
        assert is_there(child)
        with httpx.stream("POST", f"{base}/v1/completions", json=body, timeout=60) as stream:
            next(stream.iter_bytes())
            for number in signals:
                process.send_signal(number)
                time.sleep(0.3)
        process.wait(60)
        wait_until(lambda: not is_there(child))
