"""Keys: who gets in, through which door, and what a changed file does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fake_llm import FakeLLM, serving

from headrace.errors import ConfigError
from headrace.server import access
from headrace.server.access import EVERYBODY, Access, Keys, Tenant
from headrace.server.dialects.base import Answer, Route
from headrace.server.errors import Forbidden, Unauthorized

PATHS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/fake"),
    ("POST", "/v1/load_lora_adapter"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/nothing/here"),
    ("DELETE", "/v1/models"),
]


def a_route(**flags: bool) -> Route:
    return Route(path="/x", parse=lambda *_: Answer(), **flags)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_door_opens_without_the_key(method: str, path: str) -> None:
    with serving(FakeLLM(), api_keys=("secret",)) as base:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}, {"x-api-key": "secre"}):
            response = httpx.request(method, f"{base}{path}", headers=headers)
            assert response.status_code == 401, headers
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert "secret" not in response.text


def test_every_way_to_send_it_opens() -> None:
    with serving(FakeLLM(), api_keys=("secret", "other")) as base:
        for headers in (
            {"authorization": "Bearer secret"},
            {"authorization": "bearer other"},
            {"x-api-key": "secret"},
            {"api-key": "other"},
        ):
            assert httpx.get(f"{base}/v1/models", headers=headers).status_code == 200


def test_health_needs_no_key() -> None:
    with serving(FakeLLM(), api_keys=("secret",)) as base:
        for path in ("/health", "/health/live", "/health/ready"):
            assert httpx.get(f"{base}{path}").status_code == 200


def test_a_strangers_body_is_not_read() -> None:
    with serving(FakeLLM(), api_keys=("secret",), max_body_bytes=10) as base:
        response = httpx.post(f"{base}/v1/completions", content=b"x" * 100)
        assert response.status_code == 401


def test_admins_paths_take_the_admins_key_only() -> None:
    with serving(FakeLLM(), api_keys=("secret",), admin_keys=("boss",)) as base:
        url, body = f"{base}/v1/unload_lora_adapter", {"lora_name": "x"}
        assert httpx.post(url, json=body, headers={"x-api-key": "secret"}).status_code == 403
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(url, json=body, headers={"x-api-key": "boss"}).status_code == 400  # no --lora-dir
        assert httpx.get(f"{base}/v1/models", headers={"x-api-key": "boss"}).status_code == 200


def test_with_keys_and_no_admin_key_nobody_changes_the_server() -> None:
    with pytest.raises(Forbidden):
        Access(Keys(["secret"]), Keys()).check([a_route(is_admin=True)], {"x-api-key": "secret"})


def test_an_admin_key_alone_leaves_the_rest_open() -> None:
    door = Access(Keys(), Keys(["boss"]))
    assert door.check([a_route()], {}) == EVERYBODY
    with pytest.raises(Forbidden):
        door.check([a_route(is_admin=True)], {})


def test_of_routes_with_one_path_the_strictest_counts() -> None:
    door = Access(Keys(["secret"]), Keys())
    assert door.check([a_route(is_open=True), a_route(is_open=True)], {}) == EVERYBODY
    for routes in ([a_route(is_open=True), a_route()], [a_route(), a_route(is_open=True)]):
        with pytest.raises(Unauthorized):
            door.check(routes, {})


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_RELOAD_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nalice k1\nbob k2 2.5\n\nk3  # a key alone\n")
    keys = Keys(path=path)
    assert keys.tenant("k1") == Tenant("alice")
    assert keys.tenant("k2") == Tenant("bob", 2.5)
    assert keys.tenant("k3").name.startswith("key-")
    assert keys.tenant("alice") is None
    path.write_text("carol k4\n")
    assert (keys.tenant("k1"), keys.tenant("k4")) == (None, Tenant("carol"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "change", [lambda path: path.write_text("a b c d e\n"), os.unlink, lambda path: path.write_text("")]
)
def test_a_change_that_cannot_be_read_leaves_the_keys(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "keys"
    path.write_text("alice k1\n")
    keys = Keys(path=path)
    change(path)
    assert keys.tenant("k1") == Tenant("alice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c d\n", "line 1: 4 words"),
        ("\nname key heavy\n", "line 2: the weight is heavy"),
        ("name key 0\n", "the weight is 0"),
        ("name key\nadmin other\n", "line 2: admin is a name of the server's own"),
        ("everybody key\n", "everybody is a name of the server's own"),
        ("key-1 key\n", "key-1 is a name of the server's own"),
        ("a k\nb k\n", "line 2: the key stands there twice"),
        ("a schlüssel\n", "printable ASCII"),
        ("# nothing\n", "has no keys"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Keys(path=path)


def test_pages_of_other_origins_may_ask_only_where_that_is_set() -> None:
    asking = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with serving(FakeLLM()) as base:
        assert "access-control-allow-origin" not in httpx.options(f"{base}/v1/models", headers=asking).headers
    with serving(FakeLLM(), cors_origins=("https://page.example",), api_keys=("secret",)) as base:
        response = httpx.options(f"{base}/v1/models", headers=asking)
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(f"{base}/v1/models", headers=asking | {"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = httpx.get(f"{base}/v1/models", headers=asking)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://page.example"
