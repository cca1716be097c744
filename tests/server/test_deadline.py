"""Requests that take longer than they may."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from fake_llm import FakeLLM

from headrace.errors import DeadlineExceeded, RequestError
from headrace.server.deadline import Deadline, deadline_of

SLOW = {"model": "fake", "prompt": "x", "max_tokens": 1500}
"""Half a minute of it, at 0.02 s a token"""
SOON = {"x-request-timeout": "0.3"}
LATER = {"x-request-timeout": "3"}
"""Late enough for a first token, on any machine"""


def test_a_whole_answer_that_is_not_there_in_time_is_504(serve) -> None:
    llm = FakeLLM(step_seconds=0.02)
    answer = httpx.post(f"{serve(llm)}/v1/completions", json=SLOW, headers=SOON, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "within 0.3 s" in answer.json()["error"]["message"]
    assert all(one.is_cancelled for one in llm.streams)


def test_a_stream_ends_with_an_error(serve) -> None:
    llm = FakeLLM(step_seconds=0.02)
    body = SLOW | {"stream": True}
    answer = httpx.post(f"{serve(llm)}/v1/completions", json=body, headers=LATER, timeout=60)
    assert answer.status_code == 200
    assert "deadline_exceeded" in answer.text
    assert answer.text.count("shutting down") == 0
    assert all(one.is_cancelled for one in llm.streams)


def test_the_servers_limit_holds_for_those_who_ask_for_more(serve) -> None:
    base = serve(FakeLLM(step_seconds=0.02), request_seconds=3)
    for headers in ({}, {"x-request-timeout": "1000"}):
        assert httpx.post(f"{base}/v1/completions", json=SLOW, headers=headers, timeout=60).status_code == 504
    quick = httpx.post(f"{base}/v1/completions", json=SLOW | {"max_tokens": 1}, timeout=60)
    assert quick.status_code == 200


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_timeout_that_is_none_is_refused(quick: str, value: str) -> None:
    answer = httpx.post(f"{quick}/v1/completions", json=SLOW, headers={"x-request-timeout": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout")


def test_the_openai_clients_own_timeout_header_is_not_ours(quick: str) -> None:
    headers = {"x-stainless-read-timeout": "0.0001"}
    assert httpx.post(f"{quick}/v1/completions", json=SLOW, headers=headers).status_code == 200


def test_other_timeouts_are_not_taken_for_ours() -> None:
    async def check() -> None:
        with pytest.raises(TimeoutError, match="somebody else's"):
            async with Deadline(60).within():
                raise TimeoutError("somebody else's")
        with pytest.raises(DeadlineExceeded):
            async with Deadline(0.01).within():
                await asyncio.sleep(10)
        async with Deadline(None).within():
            pass
        with pytest.raises(RequestError):
            deadline_of({"x-request-timeout": "?"}, None)

    begin = time.monotonic()
    asyncio.run(check())
    assert time.monotonic() - begin < 9
