"""Request ids, and the line of a request."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, broken
from waiting import wait_until

from headrace.errors import EngineError
from headrace.logs import JsonFormatter
from headrace.server.record import request_id

SECRET = "zebra"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """lines(n) waits for the lines of n requests: they are written when the client has its answer already."""
    caplog.set_level(logging.DEBUG, "headrace.requests")

    def so_far(count: int) -> list[Any]:
        def records() -> list[logging.LogRecord]:
            return [record for record in caplog.records if record.name == "headrace.requests"]

        wait_until(lambda: len(records()) >= count)
        return [json.loads(JsonFormatter().format(record)) for record in records()]

    return so_far


def test_a_client_s_id_comes_back_if_it_can(quick: str) -> None:
    headers = httpx.get(f"{quick}/health", headers={"x-request-id": "mine-1"}).headers
    assert headers["x-request-id"] == "mine-1"
    for bad in ("two words", "x" * 129, ""):
        made = httpx.get(f"{quick}/v1/models", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made.startswith("req_")
    assert request_id({}) != request_id({})


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_has_an_id(quick: str, stream: bool) -> None:
    answers = [
        httpx.post(f"{quick}/v1/chat/completions", json=CHAT | {"stream": stream}),
        httpx.post(f"{quick}/v1/chat/completions", json=CHAT | {"max_tokens": -1}),
        httpx.get(f"{quick}/nowhere"),
        httpx.get(f"{quick}/v1/chat/completions"),
        httpx.post(f"{quick}/v1/chat/completions", content=b"{", headers={"content-type": "text/plain"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 405, 415]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(ids)


def test_the_line_of_a_request(serve, lines) -> None:
    base = serve(FakeLLM(), api_keys=("k" * 8,))
    headers = {"authorization": "Bearer " + "k" * 8, "x-request-id": "one"}
    text = httpx.post(f"{base}/v1/chat/completions", json=CHAT, headers=headers).text
    (line,) = lines(1)
    assert line["request_id"] == "one"
    assert (line["tenant"], line["route"], line["status"]) == ("key-1", "/v1/chat/completions", 200)
    assert (line["model"], line["dialect"], line["finish_reasons"]) == ("fake", "openai", ["length"])
    assert (line["prompt_tokens"], line["completion_tokens"], line["cached_tokens"]) == (12, 4, 3)
    assert 0 <= line["seconds_queued"] <= line["seconds_to_first_token"] <= line["seconds"]
    answer = json.loads(text)["choices"][0]["message"]["content"]
    assert SECRET not in json.dumps(line)
    assert answer not in json.dumps(line)


def test_the_line_of_what_goes_on_in_the_background(serve, lines) -> None:
    def ask(llm: FakeLLM, **fields: Any) -> tuple[str, str]:
        base = serve(llm)
        body = {"model": "fake", "input": SECRET, "background": True, "max_output_tokens": 4, **fields}
        return base, httpx.post(f"{base}/v1/responses", json=body).json()["id"]

    def ends() -> list[Any]:
        return [(line["status"], line.get("error")) for line in lines(0) if "completion_tokens" in line]

    ask(FakeLLM())
    wait_until(lambda: (200, None) in ends())
    ask(broken(EngineError("gone"), after=2))
    wait_until(lambda: (500, "engine_error") in ends())
    base, made = ask(FakeLLM(step_seconds=30))
    httpx.post(f"{base}/v1/responses/{made}/cancel")
    wait_until(lambda: (499, None) in ends())
    assert len(ends()) == 3


def test_failures_and_their_reasons(serve, lines) -> None:
    base = serve(broken(EngineError("gone"), after=2))
    httpx.post(f"{base}/v1/chat/completions", json=CHAT)
    httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"stream": True})
    httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"nonsense": SECRET})
    httpx.get(f"{base}/{SECRET}")
    found = [(line["status"], line["error"]) for line in lines(4)]
    assert found == [(500, "engine_error"), (200, "engine_error"), (400, "invalid_request"), (404, "not_found")]
    assert SECRET not in json.dumps(lines(4))
    metrics = httpx.get(f"{base}/metrics").text
    assert (
        'headrace:request_failures_total{code="engine_error",engine="0",model_name="fake",status="500"} 2.0' in metrics
    )
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 1.0' in metrics
    assert 'http_requests_total{handler="none",method="GET",status="4xx"} 1.0' in metrics


async def test_a_client_that_leaves(serve, lines) -> None:
    base = serve(llm := FakeLLM(step_seconds=0.01))
    async with httpx.AsyncClient() as client:
        url = f"{base}/v1/chat/completions"
        async with client.stream("POST", url, json=CHAT | {"stream": True, "max_tokens": 1000}) as response:
            await anext(response.aiter_bytes())
    (line,) = await asyncio.to_thread(lines, 1)
    assert (line["status"], line["finish_reasons"]) == (499, ["abort"])
    assert "error" not in line
    assert line["completion_tokens"] == llm.streams[0].num_made


def test_health_checks_are_for_debugging(quick: str, lines, caplog: pytest.LogCaptureFixture) -> None:
    httpx.get(f"{quick}/health")
    assert [line["level"] for line in lines(1)] == ["debug"]
    caplog.set_level(logging.INFO, "headrace.requests")
    caplog.clear()
    for path in ("health", "v1/models"):
        httpx.get(f"{quick}/{path}")
    assert [line["route"] for line in lines(1)] == ["/v1/models"]


def test_requests_by_key(serve, lines) -> None:
    base = serve(FakeLLM(), api_keys=("k" * 8, "l" * 8))
    for key in ("k", "k", "l"):
        httpx.post(f"{base}/v1/chat/completions", json=CHAT, headers={"x-api-key": key * 8})
    lines(3)
    metrics = httpx.get(f"{base}/metrics", headers={"x-api-key": "k" * 8}).text
    labels = 'engine="0",model_name="fake",tenant='
    assert f'headrace:tenant_requests_total{{{labels}"key-1"}} 2.0' in metrics
    assert f'headrace:tenant_requests_total{{{labels}"key-2"}} 1.0' in metrics
