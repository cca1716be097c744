"""What web pages can do to a server that their visitor can reach: foreign origins, and names that were bent to it."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import httpx
import pytest
from fake_llm import FakeLLM, serving

from headrace.server.errors import ForeignHost, ForeignOrigin
from headrace.server.origins import Origins

PAGE = "https://page.example"
BODY = {"model": "fake", "prompt": "x", "max_tokens": 2}
ASK = {"model": "fake", "prompt": "x", "stream": False}
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "localhost.:1", "chat.localhost:8000", "127.0.0.1", "127.0.0.1:8000"),
        *("[::1]:8000", "[::1]", "192.168.7.1:80", "", "llm.example", "LLM.example.:8000"),
    ],
)
def test_own_names(host: str) -> None:
    Origins(["llm.Example"]).check_host({"host": host} if host else {})


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]:1", "xlocalhost"],
)
def test_names_of_others(host: str) -> None:
    Origins().check_host({"host": host})
    with pytest.raises(ForeignHost, match="--allowed-host"):
        Origins(()).check_host({"host": host})


def test_a_page_whose_name_leads_here_gets_nothing() -> None:
    with serving(FakeLLM(), allowed_hosts=()) as base:
        evil = {"host": f"evil.example:{urlsplit(base).port}", "origin": "http://evil.example"}
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/"),
            ("GET", "/no"),
            ("POST", "/v1/completions"),
        ):
            answer = httpx.request(method, f"{base}{path}", headers=evil, json=BODY if method == "POST" else None)
            assert (answer.status_code, "evil.example" in answer.text) == (403, True), path
        assert answer.json()["error"]["code"] == "foreign_host"
        said = httpx.post(f"{base}/api/generate", headers=evil, json=BODY)
        assert "evil.example" in said.json()["error"], "in the shape of the API that was asked"
        assert httpx.post(f"{base}/v1/completions", json=BODY).status_code == 200


def test_a_foreign_page_sends_nothing_that_browsers_do_not_ask_about() -> None:
    """JSON they ask about; see test_page_in_browser.py."""
    for headers in ({}, FORM, {"content-type": "text/plain"}):
        for origin in (PAGE, "null", "http://localhost:1"):
            with pytest.raises(ForeignOrigin):
                Origins().check_page({"origin": origin, "host": "localhost:8000", **headers})
    Origins().check_page({"origin": "http://localhost:8000", "host": "localhost:8000", **FORM})
    Origins().check_page({"host": "localhost:8000", **FORM})
    with serving(FakeLLM()) as base:
        for method, path in (
            ("POST", "/v1/files"),
            ("POST", "/api/generate"),
            ("POST", "/v1/responses/x/cancel"),
            ("DELETE", "/v1/responses/x"),
        ):
            answer = httpx.request(method, f"{base}{path}", headers={"origin": PAGE}, content=json.dumps(BODY))
            assert answer.status_code == 403, path
            assert "content-type: application/json" in answer.text.lower()


@pytest.mark.parametrize("pages", [(PAGE,), ("*",)])
def test_a_page_that_is_allowed_may_send_anything(pages: tuple[str, ...]) -> None:
    Origins((), pages).check_page({"origin": PAGE, "host": "localhost:8000", **FORM})
    with serving(FakeLLM(), cors_origins=pages) as base:
        answer = httpx.post(f"{base}/api/generate", headers={"origin": PAGE}, content=json.dumps(ASK))
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) in ((200, PAGE), (200, "*"))
