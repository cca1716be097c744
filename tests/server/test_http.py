"""Raw HTTP: what no client library sends, and the routes that are not OpenAI's."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, broken, serving
from prometheus_client.parser import text_string_to_metric_families

from headrace import __version__
from headrace.errors import EngineError
from headrace.model_text import EncodedChat
from headrace.server.app import create_app
from headrace.text.answer import AnswerFormat, Reading

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
JSON = {"content-type": "application/json"}
RAW_JSON = [(b"content-type", b"application/json")]


def error_of(response: httpx.Response, status: int) -> dict[str, object]:
    """The error object, after checking that it is one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b"[1]", b'"\\ud800"', b'{"model": "\xff\xfe"}', b"[" * 200_000, b'{"model": 1e999}'],
    ids=lambda body: repr(body[:12]),
)
def test_malformed_bodies(quick: str, path: str, body: bytes) -> None:
    error_of(httpx.post(quick + path, content=body, headers=JSON), 400)


def test_an_error_is_short_whatever_it_quotes(quick: str) -> None:
    for fields in ({"n" * 100_000: 1}, {"model": "m" * 100_000}, {"n": int("9" * 4000)}, {"stop": ["a" * 9000, 1]}):
        response = httpx.post(f"{quick}/v1/chat/completions", json=CHAT | fields)
        assert response.status_code in (400, 404)
        error_of(response, response.status_code)
        assert len(response.content) < 1500


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_content_type(quick: str, content_type: str) -> None:
    body = json.dumps(CHAT).encode()
    response = httpx.post(f"{quick}/v1/chat/completions", content=body, headers={"content-type": content_type})
    error = error_of(response, 415)
    assert error["code"] == "unsupported_media_type"
    assert str(error["message"]).endswith(", expected application/json")
    ok = httpx.post(
        f"{quick}/v1/chat/completions", content=body, headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert ok.status_code == 200


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_body(quick: str, content: bytes) -> None:
    response = httpx.post(f"{quick}/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert error_of(response, 400)["message"] == "The body is empty, expected a JSON object"


def test_unknown_paths_and_methods(quick: str) -> None:
    assert "/v1/images" in str(error_of(httpx.post(f"{quick}/v1/images", json={}), 404)["message"])
    error_of(httpx.get(f"{quick}/nothing"), 404)
    error_of(httpx.get(f"{quick}/v1"), 404)
    response = httpx.get(f"{quick}/v1/chat/completions")
    assert "use POST" in str(error_of(response, 405)["message"])
    assert response.headers["allow"] == "POST"
    error_of(httpx.post(f"{quick}/health"), 405)
    error_of(httpx.delete(f"{quick}/v1/models/fake"), 405)


def test_a_body_above_the_limit(serve) -> None:
    llm = FakeLLM()
    base = serve(llm, max_body_bytes=1000)
    body = json.dumps(CHAT | {"user": "x" * 2000}).encode()
    pieces = (body[i : i + 100] for i in range(0, len(body), 100))
    with httpx.Client() as client:
        declared = client.post(f"{base}/v1/chat/completions", content=body, headers=JSON)
        assert error_of(declared, 413)["code"] == "body_too_large"
        error_of(client.post(f"{base}/v1/chat/completions", content=pieces, headers=JSON), 413)
        assert client.post(f"{base}/v1/chat/completions", json=CHAT).status_code == 200
    assert len(llm.streams) == 1


@pytest.mark.parametrize(
    ("most", "asked", "is_taken"),
    [(20, 20, True), (20, 21, False), (20, -1, False), (5, 6, False), (-1, 300, True), (0, 0, True), (0, 1, False)],
)
def test_the_limit_of_logprobs(serve, most: int, asked: int, is_taken: bool) -> None:
    base = serve(FakeLLM(), max_logprobs=most)
    for path, fields, param in (
        ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": asked}, "top_logprobs"),
        ("completions", {"model": "fake", "prompt": "a", "logprobs": asked}, "logprobs"),
        ("completions", {"model": "fake", "prompt": "a", "prompt_logprobs": asked}, "prompt_logprobs"),
    ):
        response = httpx.post(f"{base}/v1/{path}", json=fields)
        if is_taken:
            assert response.status_code == 200, response.text
        else:
            assert error_of(response, 400)["param"] == param


def test_the_default_limit_takes_long_prompts(quick: str) -> None:
    body = CHAT | {"messages": [{"role": "user", "content": "x" * 2_000_000}]}
    assert error_of(httpx.post(f"{quick}/v1/chat/completions", json=body), 400)["code"] == "context_length_exceeded"


def test_a_stream_on_the_wire(quick: str) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    response = httpx.post(f"{quick}/v1/chat/completions", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.text.endswith("data: [DONE]\n\n")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    assert parsed[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert len(parsed) == 5
    assert parsed[-1]["usage"]["total_tokens"] == parsed[-1]["usage"]["prompt_tokens"] + 3


async def test_one_write_for_each_step() -> None:
    """Two sequences make two events in a step; the first write has their roles, too, and the last only the end."""
    body = json.dumps(CHAT | {"n": 2, "stream": True}).encode()
    incoming = [{"type": "http.request", "body": body}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [*RAW_JSON]}
    await create_app(FakeLLM(), "fake")(scope, receive, send)
    assert [message["body"].count(b"data: ") for message in sent[1:]] == [4, 2, 2, 1]
    assert [message["more_body"] for message in sent[1:]] == [True, True, True, False]


def test_an_error_event_ends_a_broken_stream(serve) -> None:
    base = serve(broken(EngineError("the engine failed; restart it"), after=2))
    response = httpx.post(f"{base}/v1/chat/completions", json=CHAT | {"stream": True})
    assert response.status_code == 200
    *_, event, done, _ = response.text.split("\n\n")
    assert done == "data: [DONE]"
    error = json.loads(event.removeprefix("data: "))["error"]
    assert error == {
        "message": "the engine failed; restart it",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
    }


def test_health_and_version(serve) -> None:
    llm = FakeLLM()
    base = serve(llm)
    assert httpx.get(f"{base}/health").status_code == 200
    assert httpx.get(f"{base}/version").json() == {"version": __version__}
    llm.trouble = "the engine is closed; make a new one"
    assert httpx.get(f"{base}/health").status_code == 503
    error_of(httpx.post(f"{base}/v1/chat/completions", json=CHAT), 500)


def test_metrics_count_what_happened(serve) -> None:
    base = serve(FakeLLM(), name="org/name")
    body = {"model": "org/name", "prompt": ["a", "b"], "n": 2, "max_tokens": 5}
    assert httpx.post(f"{base}/v1/completions", json=body).status_code == 200
    assert httpx.post(f"{base}/v1/completions", json=body | {"max_tokens": 0}).status_code == 400
    response = httpx.get(f"{base}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {}
    without_model = ("vllm:cache_config_info", "vllm:engine_healthy")  # as in vLLM
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if family.name.startswith(("vllm:", "headrace:")) and family.name not in without_model:
                assert sample.labels["model_name"] == "org/name"
            key = (sample.name, sample.labels.get("finished_reason") or sample.labels.get("le"))
            samples[key] = sample.value
    assert samples["vllm:num_requests_running", None] == 0
    assert samples["vllm:num_requests_waiting", None] == 0
    assert samples["vllm:kv_cache_usage_perc", None] == 0.25
    assert samples["vllm:prompt_tokens_total", None] == 5
    assert samples["vllm:generation_tokens_total", None] == 20
    assert samples["vllm:prefix_cache_queries_total", None] == 10
    assert samples["vllm:prefix_cache_hits_total", None] == 3
    assert samples["vllm:num_preemptions_total", None] == 2
    assert samples["vllm:spec_decode_num_drafts_total", None] == 4
    assert samples["vllm:spec_decode_num_draft_tokens_total", None] == 9
    assert samples["vllm:spec_decode_num_accepted_tokens_total", None] == 6
    assert samples["vllm:request_success_total", "length"] == 4
    assert samples["vllm:request_success_total", "stop"] == samples["vllm:request_success_total", "abort"] == 0
    assert samples["vllm:time_to_first_token_seconds_count", None] == 4
    assert samples["vllm:inter_token_latency_seconds_count", None] == 16
    assert samples["vllm:time_per_output_token_seconds_count", None] == 16
    assert samples["vllm:time_per_output_token_seconds_bucket", "+Inf"] == 16
    assert samples["vllm:request_time_per_output_token_seconds_count", None] == 4
    assert samples["vllm:e2e_request_latency_seconds_count", None] == 4
    assert samples["vllm:request_prompt_tokens_sum", None] == 4
    assert samples["vllm:request_generation_tokens_bucket", "5.0"] == 4
    assert samples["vllm:request_generation_tokens_bucket", "2.0"] == 0


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_long_prompt_does_not_hold_up_the_others(path: str) -> None:
    """Megabytes take seconds to become token ids; here, until somebody else has been answered."""
    has_begun, may_end = threading.Event(), threading.Event()
    llm = FakeLLM(max_context=10**6)

    def slowly(*_: Any, **__: Any) -> Any:
        has_begun.set()
        assert may_end.wait(60)
        return [1] if path == "completions" else EncodedChat([1], Reading(AnswerFormat()))

    long = "x" * 20_000
    if path == "completions":
        llm.tokenizer.encode = slowly  # type: ignore[union-attr, method-assign]
        body: dict[str, Any] = {"model": "fake", "prompt": long, "max_tokens": 1}
    else:
        llm.encode_chat = slowly  # type: ignore[method-assign]
        body = {"model": "fake", "messages": [{"role": "user", "content": long}], "max_tokens": 1}
    with serving(llm, "fake") as base, ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{base}/v1/{path}", json=body, timeout=60)
        assert has_begun.wait(60)
        try:
            assert httpx.get(f"{base}/health", timeout=30).status_code == 200
        finally:
            may_end.set()
        assert answer.result().status_code == 200


PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
PROMETHEUS_3 = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2"


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3, "application/openmetrics-text", "*/*"])
def test_metrics_have_the_same_names_for_every_scraper(quick: str, accept: str) -> None:
    response = httpx.get(f"{quick}/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    names = {sample.name for family in families for sample in family.samples}
    assert "vllm:request_success_total" in names
    assert all(name.startswith(("vllm:", "headrace:", "http_", "process_")) for name in names)
