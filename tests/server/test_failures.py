"""What can go wrong with any request, in the shape, the status and the words of each API; and what official clients
make of it: their own exceptions, and another try where it helps.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import ollama
import openai
import pytest
from fake_llm import FakeLLM, answer, broken, serving

from headrace.errors import DeadlyRequest, EngineError, Overloaded, QueueFull

MESSAGES = [{"role": "user", "content": "Hi."}]
ANSWERED = answer(list(b"user: Hi.\n"), 0, 4)


@dataclass(frozen=True)
class Api:
    """An API: a request in it, and how it says that something went wrong."""

    requests: Mapping[str, dict[str, Any]]
    """By their paths"""
    error: Callable[[int, str], dict[str, Any]]
    """The whole body, from the status on the wire and the word for its kind; "…" is any text"""
    kinds: Mapping[int, str] | None = None
    """Words by our own status; one that is not here is that of 400 below 500, and that of 500 from there on"""
    statuses: Mapping[int, int] | None = None
    """What the API has another status for"""

    def expected(self, status: int) -> tuple[int, dict[str, Any]]:
        kinds = self.kinds or {400: "", 500: ""}
        shown = (self.statuses or {}).get(status, status)
        return shown, self.error(shown, kinds.get(status) or kinds[400 if status < 500 else 500])


APIS = {
    "openai": Api(
        {
            "/v1/chat/completions": {"model": "fake", "messages": MESSAGES, "max_tokens": 4},
            "/v1/completions": {"model": "fake", "prompt": "Hi.", "max_tokens": 4},
            "/v1/responses": {"model": "fake", "input": "Hi.", "max_output_tokens": 4, "store": False},
        },
        lambda _, kind: {"error": {"message": "…", "type": kind, "param": "…", "code": "…"}},
        {400: "invalid_request_error", 429: "rate_limit_error", 500: "server_error"},
    ),
    "anthropic": Api(
        {"/v1/messages": {"model": "fake", "messages": MESSAGES, "max_tokens": 4}},
        lambda _, kind: {"type": "error", "error": {"type": kind, "message": "…"}, "request_id": "…"},
        {
            400: "invalid_request_error",
            401: "authentication_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            500: "api_error",
            503: "overloaded_error",
            504: "timeout_error",
        },
        {503: 529},
    ),
    "ollama": Api(
        {
            "/api/generate": {"model": "fake", "prompt": "Hi.", "stream": False, "options": {"num_predict": 4}},
            "/api/chat": {"model": "fake", "messages": MESSAGES, "stream": False, "options": {"num_predict": 4}},
        },
        lambda *_: {"error": "…"},
    ),
    "tgi": Api(
        {
            "/generate": {"inputs": "Hi.", "parameters": {"max_new_tokens": 4}},
            "/": {"inputs": "Hi.", "parameters": {"max_new_tokens": 4}},
        },
        lambda _, kind: {"error": "…", "error_type": kind},
        {400: "validation", 429: "overloaded", 500: "generation", 503: "overloaded", 504: "incomplete_generation"},
        {400: 422, 500: 424, 503: 429},
    ),
    "kserve": Api(
        {
            "/v2/models/fake/generate": {"text_input": "Hi.", "max_tokens": 4},
            "/v2/models/fake/infer": {
                "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hi."]}],
                "parameters": {"max_tokens": 4},
            },
        },
        lambda *_: {"error": "…"},
    ),
    "llama-server": Api(
        {"/completion": {"prompt": "Hi.", "n_predict": 4}},
        lambda status, kind: {"error": {"code": status, "message": "…", "type": kind}},
        {
            400: "invalid_request_error",
            401: "authentication_error",
            404: "not_found_error",
            429: "unavailable_error",
            500: "server_error",
            503: "unavailable_error",
        },
    ),
}
ASKED = [pytest.param(api, path, body, id=path) for api in APIS.values() for path, body in api.requests.items()]
_STREAMS = {
    "/generate_stream": ("tgi", "/generate", {}),
    "/v2/models/fake/generate_stream": ("kserve", "/v2/models/fake/generate", {}),
    **{
        path: (api, path, {"stream": True})
        for api in ("openai", "anthropic", "ollama", "llama-server")
        for path in APIS[api].requests
        if path != "/v1/responses"  # has events of its own for what fails
    },
}
STREAMED = [
    pytest.param(APIS[api], path, APIS[api].requests[as_in] | also, id=path)
    for path, (api, as_in, also) in _STREAMS.items()
]
RAISED = [
    pytest.param(QueueFull("too much waits", retry_after=7), 429, {"retry-after": "7"}, id="a full queue"),
    pytest.param(Overloaded("the engine is being started again"), 503, {"retry-after": "1"}, id="a restart"),
    pytest.param(EngineError("the engine failed"), 500, {}, id="a failure"),
    pytest.param(DeadlyRequest("the engine died of it"), 500, {"x-should-retry": "false"}, id="a deadly request"),
    pytest.param(RuntimeError("a secret"), 500, {}, id="a mistake of ours"),
]


def check(response: httpx.Response, api: Api, status: int) -> None:
    shown, body = api.expected(status)
    assert response.headers["content-type"] == "application/json"
    assert (response.status_code, _with_any_text(response.json(), body)) == (shown, body), response.text


def _with_any_text(said: Any, expected: Any) -> Any:
    """`said`, with "…" for texts where any is expected."""
    if expected == "…" and isinstance(said, str | None):
        return "…"
    if isinstance(said, dict) and isinstance(expected, dict):
        return {key: _with_any_text(value, expected.get(key)) for key, value in said.items()}
    return said


@pytest.fixture(scope="module")
def of_one() -> Iterator[Callable[..., str]]:
    """Base URL of a server with such settings or failures, one for all tests that want the same."""
    bases: dict[str, Any] = {}

    def base(llm: Callable[[], FakeLLM] = FakeLLM, name: str = "", **options: Any) -> str:
        key = f"{name} {options}"
        if key not in bases:
            context = serving(llm(), **options)
            bases[key] = (context, context.__enter__())
        return bases[key][1]

    yield base
    for context, _ in bases.values():
        context.__exit__(None, None, None)


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
@pytest.mark.parametrize(("error", "status", "headers"), RAISED)
def test_what_the_engine_says(of_one, api: Api, path: str, body: dict, error, status: int, headers: dict) -> None:
    base = of_one(lambda: broken(error), repr(error))
    response = httpx.post(f"{base}{path}", json=body)
    check(response, api, status)
    for name in ("retry-after", "x-should-retry"):
        assert response.headers.get(name) == headers.get(name)
    assert (str(error) in response.text) == (not isinstance(error, RuntimeError)), "it is no business of a client"


@pytest.mark.parametrize(("api", "path", "body"), STREAMED)
@pytest.mark.parametrize(("error", "status", "headers"), RAISED)
def test_before_a_stream_begins(of_one, api: Api, path: str, body: dict, error, status: int, headers: dict) -> None:
    base = of_one(lambda: broken(error), repr(error))
    check(httpx.post(f"{base}{path}", json=body), api, status)


@pytest.mark.parametrize(("api", "path", "body"), STREAMED)
@pytest.mark.parametrize(("error", "status", "headers"), RAISED)
def test_in_the_midst_of_a_stream(of_one, api: Api, path: str, body: dict, error, status: int, headers: dict) -> None:
    base = of_one(lambda: broken(error, after=2), f"{error!r} later")
    response = httpx.post(f"{base}{path}", json=body)
    assert response.status_code == 200
    *_, last = [line for line in response.text.splitlines() if line and "[DONE]" not in line]
    said = json.loads(last[last.index("{") :])
    assert _with_any_text(said, api.expected(status)[1]) == api.expected(status)[1]


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
def test_no_key(of_one, api: Api, path: str, body: dict) -> None:
    base = of_one(api_keys=("open-sesame",))
    for headers in ({}, {"authorization": "Bearer simsim"}, {"x-api-key": "simsim"}):
        response = httpx.post(f"{base}{path}", json=body, headers=headers)
        check(response, api, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    assert httpx.post(f"{base}{path}", json=body, headers={"x-api-key": "open-sesame"}).status_code == 200


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
def test_a_body_that_is_too_large(of_one, api: Api, path: str, body: dict) -> None:
    base = of_one(max_body_bytes=20)
    response = httpx.post(f"{base}{path}", json=body)
    check(response, api, 413)
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
def test_a_body_that_does_not_come(of_one, api: Api, path: str, body: dict) -> None:
    parts = urlsplit(of_one(body_idle_seconds=0.1))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as client:
        client.sendall(head.encode())
        said = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, text = said.decode().partition("\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    check(httpx.Response(int(head.split()[1]), headers=lines, text=text), api, 408)
    assert lines["connection"] == "close"


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
def test_an_answer_that_is_not_there_in_time(of_one, api: Api, path: str, body: dict) -> None:
    base = of_one(lambda: FakeLLM(step_seconds=600), "slow")
    response = httpx.post(f"{base}{path}", json=body, headers={"x-request-timeout": "0.1"}, timeout=60)
    check(response, api, 504)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("api", "path", "body"), ASKED)
def test_a_request_that_is_wrong(of_one, api: Api, path: str, body: dict) -> None:
    for content in (b"{", b"[]", b"\xff", json.dumps(body | {"no_such_field": 1}).encode()):
        sent = httpx.post(f"{of_one()}{path}", content=content, headers={"content-type": "application/json"})
        check(sent, api, 400)


@contextmanager
def one_failure(error: Exception) -> Iterator[tuple[str, FakeLLM]]:
    """A server whose first request fails."""

    class Once(FakeLLM):
        def submit(self, *args: Any, **options: Any) -> Any:
            stream = super().submit(*args, **options)
            if len(self.streams) == 1:
                stream.llm = broken(error)
            return stream

    llm = Once()
    with serving(llm) as base:
        yield base, llm


def _chat(base: str, stream: bool, **options: Any) -> str:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", **options)
    asked = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=4, stream=stream)
    if not stream:
        return asked.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in asked)


def _message(base: str, stream: bool, **options: Any) -> str:
    client = anthropic.Anthropic(base_url=base, api_key="none", **options)
    if not stream:
        return client.messages.create(model="fake", messages=MESSAGES, max_tokens=4).content[0].text
    with client.messages.stream(model="fake", messages=MESSAGES, max_tokens=4) as asked:
        return asked.get_final_text()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [_chat, _message])
@pytest.mark.parametrize("error", [QueueFull("full", retry_after=1), Overloaded("not now")])
def test_official_clients_come_again_when_they_are_told_to(ask, stream: bool, error: Exception) -> None:
    with one_failure(error) as (base, llm):
        begin = time.monotonic()
        assert ask(base, stream, max_retries=1) == ANSWERED
        assert time.monotonic() - begin > 0.99, "without Retry-After they wait for half a second at most"
        assert len(llm.streams) == 2


@pytest.mark.parametrize("ask", [_chat, _message])
def test_official_clients_do_not_come_again_with_what_ends_the_same(ask) -> None:
    llm = broken(DeadlyRequest("the engine died of it"))
    with serving(llm) as base, pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
        ask(base, False, max_retries=5)
    assert len(llm.streams) == 1
    llm = FakeLLM(step_seconds=600)
    kinds = (openai.InternalServerError, anthropic.APIStatusError)
    with serving(llm) as base, pytest.raises(kinds) as late:
        ask(base, False, max_retries=5, default_headers={"x-request-timeout": "0.1"})
    assert (late.value.status_code, len(llm.streams)) == (504, 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (QueueFull("full"), (openai.RateLimitError, anthropic.RateLimitError, 429)),
        (Overloaded("not now"), (openai.InternalServerError, anthropic.OverloadedError, 503)),
        (EngineError("it broke"), (openai.InternalServerError, anthropic.InternalServerError, 500)),
    ],
)
def test_official_clients_raise_their_own_errors(of_one, error: Exception, kinds: tuple, stream: bool) -> None:
    base = of_one(lambda: broken(error), repr(error))
    for_openai, for_anthropic, status = kinds
    with pytest.raises(for_openai):
        _chat(base, stream, max_retries=0)
    with pytest.raises(for_anthropic):
        _message(base, stream, max_retries=0)
    with pytest.raises(ollama.ResponseError) as refused:
        list(ollama.Client(base).chat("fake", MESSAGES, stream=True))
    assert (refused.value.status_code, refused.value.error) == (status, str(error))


def test_without_a_key_they_raise_their_own_errors(of_one) -> None:
    base = of_one(api_keys=("open-sesame",))
    with pytest.raises(openai.AuthenticationError):
        _chat(base, False)
    with pytest.raises(anthropic.AuthenticationError):
        _message(base, False)
    with pytest.raises(ollama.ResponseError) as refused:
        ollama.Client(base).generate("fake", "Hi.")
    assert refused.value.status_code == 401
