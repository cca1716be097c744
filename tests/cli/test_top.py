"""`headrace top`: what it makes of two looks at /metrics, of ours and of vLLM's."""

from __future__ import annotations

import math
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from click.testing import CliRunner
from fake_llm import FakeLLM, serving
from rich.console import Console

from headrace.cli.command import headrace
from headrace.cli.scrape import Scrape, quantiles, rate, rates_by
from headrace.cli.top_frame import frame

VLLM = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="a"}} 3.0
vllm:num_requests_running{{engine="1",model_name="b"}} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="a"}} 2.0
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{{engine="0",model_name="a"}} 0.5
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="a"}} {tokens}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1",model_name="a"}} {few}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="1.0",model_name="a"}} {all}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="a"}} {all}
vllm:time_to_first_token_seconds_count{{engine="0",model_name="a"}} {all}
vllm:time_to_first_token_seconds_sum{{engine="0",model_name="a"}} 1.0
# TYPE headrace:tenant_tokens_total counter
headrace:tenant_tokens_total{{tenant="x"}} {tokens}
"""
TTFT = ("vllm:time_to_first_token_seconds",)


def scrape(at: float, tokens: int, few: int, all_: int) -> Scrape:
    return Scrape.of(VLLM.format(tokens=tokens, few=few, all=all_), at)


def drawn(*history: Scrape, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(frame(history, "here"))
    return console.export_text()


def test_rates_and_quantiles_are_those_between_two_looks() -> None:
    before, after = scrape(10, 100, 90, 100), scrape(12, 300, 92, 110)
    assert rate(before, after, "vllm:generation_tokens_total") == 100
    assert rates_by(before, after, "headrace:tenant_tokens_total", "tenant") == {"x": 100}
    assert before.total("vllm:num_requests_running") == 7
    (median, highest) = quantiles(before, after, TTFT, (0.5, 1.0))
    assert median == pytest.approx(0.1 + 0.9 * 3 / 8)  # rank 5 of 10; 2 lie below 0.1, 8 up to 1.0
    assert highest == 1.0
    assert quantiles(None, before, TTFT, (0.45,)) == [pytest.approx(0.05)]


def test_a_server_that_began_again_and_one_without_anything() -> None:
    before, after = scrape(10, 100, 90, 100), scrape(11, 7, 4, 4)
    assert rate(before, after, "vllm:generation_tokens_total") == 7
    assert quantiles(before, after, TTFT, (0.5,)) == [pytest.approx(0.05)]
    assert math.isnan(quantiles(after, after, TTFT, (0.5,))[0])
    assert math.isnan(quantiles(None, after, ("no_such",), (0.5,))[0])
    assert after.total("no_such", "neither") == 0


def test_what_is_above_all_bounds_is_said_as_the_last_bound() -> None:
    text = VLLM.format(tokens=1, few=0, all=0).replace('le="+Inf",model_name="a"}} 0', "")
    text = text.replace('le="+Inf",model_name="a"} 0', 'le="+Inf",model_name="a"} 5')
    assert quantiles(None, Scrape.of(text, 0), TTFT, (0.5,)) == [1.0]


def test_a_frame_of_vllm_s() -> None:
    text = drawn(scrape(10, 100, 90, 100), scrape(12, 300, 92, 110))
    assert "a, b" in text
    assert "running" in text
    assert "50%" in text
    assert "100" in text
    assert "438 ms" in text
    assert "–" in drawn(scrape(10, 100, 0, 0))


def test_what_lies_in_the_outer_buckets_is_said_by_their_bounds() -> None:
    quick = drawn(scrape(10, 100, 0, 0), scrape(12, 300, 10, 10))
    assert quick.count("<100 ms") == 3
    text = VLLM.format(tokens=1, few=0, all=0).replace('le="+Inf",model_name="a"} 0', 'le="+Inf",model_name="a"} 5')
    assert drawn(Scrape.of(text, 0)).count(">1 s") == 3


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_width_shows_all_figures(width: int) -> None:
    text = drawn(scrape(10, 100, 90, 100), scrape(12, 300, 92, 110), width=width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("running", "waiting", "out", "100", "438 ms", "KV cache", "preempted 0", "x ", "100%", "tokens/s"):
        assert words in text, words


def test_once_prints_a_frame_and_ends() -> None:
    with serving(FakeLLM(), api_keys=("k" * 8,)) as base:
        body = {"model": "fake", "prompt": "x", "max_tokens": 5}
        httpx.post(f"{base}/v1/completions", json=body, headers={"x-api-key": "k" * 8})
        done = CliRunner().invoke(headrace, ["top", base, "--once", "--interval", "0.01", "--api-key", "k" * 8])
        refused = CliRunner().invoke(headrace, ["top", base, "--once"])
    assert done.exit_code == 0
    assert base in done.output
    assert "fake" in done.output
    assert refused.exit_code == 1
    assert "--api-key" in refused.output
    gone = CliRunner().invoke(headrace, ["top", base, "--once"])
    assert "is the server running there" in gone.output


def test_what_speaks_no_http_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=serve, daemon=True).start()
        found = CliRunner().invoke(headrace, ["top", f"127.0.0.1:{listener.getsockname()[1]}", "--once"])
    assert "cannot be reached" in found.output


def test_it_lives_until_q() -> None:
    main, side = pty.openpty()
    with serving(FakeLLM()) as base:
        command = [sys.executable, "-m", "headrace", "top", base, "--interval", "0.05"]
        process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side)
        os.close(side)
        shown = _read_until(main, b"q quit")
        os.write(main, b"p")
        shown += _read_until(main, b"paused")
        os.write(main, b"p")
        _read_until(main, b"running")
    _read_until(main, b"no answer")
    os.write(main, b"q")
    _read_until(main, b"\x1b[?1049l")  # the screen as it was
    assert process.wait(60) == 0
    os.close(main)
    assert b"running" in shown


def test_a_server_that_does_not_answer_is_not_said_to_run() -> None:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(
        frame([Scrape.of("# TYPE vllm:engine_healthy gauge\nvllm:engine_healthy 1.0\n", 0)], "here", "", "gone")
    )
    lines = console.export_text().splitlines()
    assert [line.strip() for line in lines[:2]] == ["here    no answer", "gone"]


def _read_until(terminal: int, mark: bytes) -> bytes:
    deadline, shown = time.monotonic() + 60, b""
    while mark not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536)
    return shown
