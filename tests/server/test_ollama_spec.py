"""Ollama's own OpenAPI document against the server: what is made up from it never gets a 500, and answers fit it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_llm import FakeLLM, serving
from hypothesis import HealthCheck, given, settings, strategies

from headrace.server.dialects import ollama

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import response_schema_conformance  # noqa: E402

OPERATIONS = [
    ("GET", "/api/tags"), ("GET", "/api/ps"), ("GET", "/api/version"), ("DELETE", "/api/delete"),
    *(("POST", f"/api/{name}") for name in ("generate", "chat", "show", "pull", "push", "create", "copy")),
]  # fmt: skip
"""All of the spec but /api/embed, which the fake does not do, blobs, and the paths of Ollama's cloud"""
MILD = ("prompt", "messages", "stream", "verbose", "insecure")
"""Fields that leave a request one that can be answered, mostly"""


def _mild(body: dict[str, Any]) -> dict[str, Any]:
    mild = {name: value for name, value in body.items() if name in MILD}
    if isinstance(messages := mild.get("messages"), list):
        mild["messages"] = [{"role": "user", "content": str(message)[:100]} for message in messages]
    return mild


@pytest.fixture(scope="module")
def spec(shared: Path) -> Any:
    return schemathesis.openapi.from_path(shared / "data/specs/ollama.yaml")


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving(FakeLLM()) as base:
        yield base


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_made_up_from_the_spec(spec: Any, base: str, method: str, path: str) -> None:
    statuses: set[int] = set()

    @given(case=spec[path][method].as_strategy(), is_ours=strategies.booleans())
    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any, is_ours: bool) -> None:
        if is_ours and isinstance(case.body, dict):
            case.body = _mild(case.body) | {"model": "fake"}
        response = case.call(base_url=base)
        statuses.add(response.status_code)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code == 200:
            case.validate_response(response, checks=[response_schema_conformance])
        else:
            assert set(response.json()) == {"error"}

    check()
    assert max(statuses) < 500
    if path.rpartition("/")[2] not in ("push", "create", "copy", "delete"):
        assert 200 in statuses


def test_every_path_of_the_spec_is_there(spec: Any) -> None:
    ours = {(route.method, route.path) for route in ollama.dialect().routes}
    theirs = {
        (operation.ok().method.upper().replace("HEAD", "GET"), operation.ok().path)
        for operation in spec.get_all_operations()
        if "web_" not in operation.ok().path
    }
    assert theirs <= ours
    assert {("POST", path) if method == "POST" else (method, path) for method, path in OPERATIONS} <= theirs
