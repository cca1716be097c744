"""Paths that answer with one call: errors, an unknown model, a client that leaves."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM
from waiting import wait_until

from headrace.errors import EngineError, RequestError
from headrace.server.dialects import openai
from headrace.server.dialects.base import Incoming, Inquiry, Route, Served
from headrace.server.settings import ServerSettings
from headrace.server.stored.kept import Kept


class Counter:
    """An endpoint that counts letters, slowly or not at all."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def parse(self, incoming: Incoming, _: Served) -> Inquiry:
        fields = json.loads(incoming.body)
        if "text" not in fields:
            raise RequestError("text is required", param="text")

        async def ask(llm: Any) -> int:
            try:
                await asyncio.sleep(fields.get("seconds", 0))
            except asyncio.CancelledError:
                self.is_cancelled = True
                raise
            if fields["text"] == "bad":
                raise RequestError("the prompt is bad", param="prompt")
            if fields["text"] == "dead":
                raise EngineError("the engine failed; restart it")
            assert isinstance(llm, FakeLLM)
            return len(fields["text"])

        return Inquiry(
            model=fields["model"],
            ask=ask,
            render=lambda found, served: json.dumps({"count": found, "model": served.name}).encode(),
            param_names={"prompt": "text"},
        )


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    kept = Kept(ServerSettings())
    routes = (Route(path="/v1/count", parse=counter.parse),)
    dialect = replace(openai.dialect(None, "fake", kept, 2**20), routes=routes)
    monkeypatch.setattr(openai, "dialect", lambda *_: dialect)
    return counter


def test_an_answer(serve, counter: Counter) -> None:
    response = httpx.post(f"{serve(FakeLLM())}/v1/count", json={"model": "fake", "text": "four"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"count": 4, "model": "fake"}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "fake"}, 400, "text"),
        ({"model": "other", "text": "x"}, 404, "model"),
        ({"model": "fake", "text": "bad"}, 400, "text"),
        ({"model": "fake", "text": "dead"}, 500, None),
    ],
)
def test_errors(serve, counter: Counter, body: dict[str, Any], status: int, param: str | None) -> None:
    response = httpx.post(f"{serve(FakeLLM())}/v1/count", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert httpx.get(f"{serve(FakeLLM())}/v1/count").status_code == 405


def test_leaving_cancels_the_call(serve, counter: Counter) -> None:
    base = serve(FakeLLM())
    body = {"model": "fake", "text": "x", "seconds": 60}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{base}/v1/count", json=body, timeout=httpx.Timeout(60, read=0.3))
    wait_until(lambda: counter.is_cancelled)
