"""A full queue over HTTP, with a real model behind it."""

from __future__ import annotations

import threading

import httpx
import openai
import pytest
from fake_llm import serving

from headrace import AsyncLLM
from headrace.config import EngineConfig

LONG = {"model": "stories", "prompt": "Once", "max_tokens": 150, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def narrow() -> AsyncLLM:
    """A model that runs one sequence at a time."""
    return AsyncLLM("stories", EngineConfig(max_sequences=1, threads=1))


def test_a_full_queue_is_429_and_official_clients_come_again(narrow: AsyncLLM) -> None:
    answers: list[httpx.Response] = []
    with serving(narrow, "stories", max_waiting_requests=2) as base:

        def ask() -> None:
            answers.append(httpx.post(f"{base}/v1/completions", json=LONG, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=50)
        late = client.completions.create(model="stories", prompt="Once", max_tokens=5)
        for thread in threads:
            thread.join(60)
        metrics = httpx.get(f"{base}/metrics").text
        assert not narrow._streams, "what was refused is kept"
    assert late.usage is not None
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) + sum(answer.status_code == 200 for answer in answers) == 20
    assert refused
    for answer in refused:
        assert answer.json()["error"]["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 600
    assert "headrace:requests_refused_total" in metrics
    assert 'vllm:num_requests_waiting{engine="0",model_name="stories"} 0.0' in metrics
    assert "vllm:request_queue_time_seconds_count" in metrics


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a b c d e f g h i j k l m n"}),
        (
            "/v1/decisions",
            {"input": "a b c d e f g h", "questions": [{"type": "predicate", "instructions": "Is it a letter?"}]},
        ),
        ("/v1/completions", {"prompt": "a b c d e f g h i j k l m n"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b c d e f g h i j k l m n"}]}),
    ],
)
def test_everything_that_is_computed_goes_through_the_queue(narrow: AsyncLLM, path: str, body: dict) -> None:
    with serving(narrow, "stories", max_waiting_tokens=5) as base:
        answer = httpx.post(f"{base}{path}", json={"model": "stories", **body}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "does_not_fit")


WHOLE = {"model": "stories", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "ignore_eos": True}


@pytest.mark.parametrize("tokens", [{"max_tokens": 40}, {}], ids=["said", "left out"])
def test_an_answer_that_takes_too_much_memory_is_400_unless_it_is_streamed(narrow: AsyncLLM, tokens: dict) -> None:
    body = WHOLE | {"top_logprobs": 3, "n": 2} | tokens
    with serving(narrow, "stories", max_answer_bytes=100_000) as base:
        whole = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=60)
        streamed = httpx.post(f"{base}/v1/chat/completions", json=body | {"stream": True}, timeout=60)
        fewer = httpx.post(f"{base}/v1/chat/completions", json=body | {"max_tokens": 20}, timeout=60)
        assert not narrow._streams, "what was refused is kept"
    assert whole.status_code == 400
    assert "or for a stream" in whole.json()["error"]["message"]
    assert whole.json()["error"]["param"] == ("top_logprobs" if tokens else None)
    assert streamed.status_code == fewer.status_code == 200
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_log_probabilities_of_prompts_count_streamed_or_not(narrow: AsyncLLM) -> None:
    body = {"model": "stories", "prompt": [[5] * 30, [6] * 30], "max_tokens": 2, "prompt_logprobs": 3}
    with serving(narrow, "stories", max_answer_bytes=100_000) as base:
        for stream in (False, True):
            answer = httpx.post(f"{base}/v1/completions", json=body | {"stream": stream}, timeout=60)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "prompt_logprobs"
        assert httpx.post(f"{base}/v1/completions", json=body | {"prompt": [5] * 30}, timeout=60).status_code == 200
