"""A client that leaves frees its sequences; nobody pays for an answer that nobody reads."""

from __future__ import annotations

import threading
import time

import httpx
import openai
import pytest
from fake_llm import FakeLLM, serving
from waiting import wait_until

BODY = {"model": "fake", "prompt": ["a", "b"], "max_tokens": 1500}


def test_leaving_a_stream_cancels_it(serve) -> None:
    llm = FakeLLM(step_seconds=0.01)
    client = openai.OpenAI(base_url=f"{serve(llm)}/v1", api_key="none", max_retries=0)
    with client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "x"}], stream=True, max_tokens=1500
    ) as stream:
        next(iter(stream))
    client.close()
    wait_until(lambda: llm.streams[0].is_cancelled)
    assert llm.streams[0].num_steps < 1000


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_a_completion_cancels_all_its_prompts(serve, stream: bool) -> None:
    llm = FakeLLM(step_seconds=0.01)
    base = serve(llm)
    timeout = httpx.Timeout(60, read=0.3)
    if stream:
        with httpx.stream("POST", f"{base}/v1/completions", json=BODY | {"stream": True}, timeout=timeout) as response:
            next(response.iter_bytes())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{base}/v1/completions", json=BODY, timeout=timeout)
    wait_until(lambda: len(llm.streams) == 2 and all(one.is_cancelled for one in llm.streams))
    assert all(one.num_steps < 1000 for one in llm.streams)
    assert httpx.get(f"{base}/health").status_code == 200
    metrics = httpx.get(f"{base}/metrics").text
    assert 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="fake"} 2.0' in metrics
    assert 'vllm:num_requests_running{engine="0",model_name="fake"} 0.0' in metrics


def test_a_stop_lets_open_streams_finish_and_then_closes_the_engine() -> None:
    llm = FakeLLM(step_seconds=0.01)
    with serving(llm) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="fake", prompt="x", max_tokens=40, stream=True)
        next(stream)
        rest: list[int] = []
        reader = threading.Thread(target=lambda: rest.append(len(list(stream))))
        reader.start()
        time.sleep(0.05)
    reader.join(60)
    assert rest == [39]
    assert llm.is_closed
    client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_what_outlives_the_time_for_a_stop_is_told_so(stream: bool) -> None:
    llm = FakeLLM(step_seconds=0.05)
    answers: list[str] = []

    def ask(base: str) -> None:
        answers.append(httpx.post(f"{base}/v1/completions", json=BODY | {"stream": stream}, timeout=60).text)

    with serving(llm, shutdown_seconds=1) as base:
        thread = threading.Thread(target=ask, args=(base,))
        thread.start()
        wait_until(lambda: len(llm.streams) == 2 and llm.streams[1].num_steps > 1)
    thread.join(60)
    assert "shutting down" in answers[0]
    assert all(one.is_cancelled for one in llm.streams)
