"""Strange requests, made up from the protocols' own documents: no failure of ours, no answer of another shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")
conforms = pytest.importorskip("schemathesis.specs.openapi.checks")

pytestmark = pytest.mark.slow

EXAMPLES = 15
TGI = ("/", "/generate", "/generate_stream", "/info", "/tokenize")
KSERVE = ("/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models/stories/versions/1/infer")


def plain(schema: Any) -> Any:
    """A document in OpenAPI 3.1's words: null is a type, and nothing but types and bounds is said of values."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = ("nullable", "example", "default", "examples", "x-examples")
    read = {key: plain(value) for key, value in schema.items() if key not in left_out}
    return {"anyOf": [read, {"type": "null"}]} if schema.get("nullable") is True else read


def document(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return pytest.importorskip("yaml").safe_load(path.read_text())


def try_path(described: Any, path: str, base: str) -> set[int]:
    """The statuses that strange and less strange requests to a path get."""
    described["paths"] = {path: described["paths"][path]}
    schema = schemathesis.openapi.from_dict({**plain(described), "openapi": "3.1.0"})
    [operation] = [found.ok() for found in schema.get_all_operations()]
    statuses: set[int] = set()

    def once(case: Any) -> None:
        parameters = case.body.get("parameters") if isinstance(case.body, dict) else None
        if isinstance(parameters, dict):
            parameters["max_new_tokens"] = 2
        response = case.call(base_url=base)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
        assert response.status_code != 424, response.text
        is_stream = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
        if response.status_code == 200 and not is_stream:
            case.validate_response(response, checks=[conforms.response_schema_conformance])

    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.method != "get":
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:
        quick = settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            derandomize=True,
            database=None,
        )
        quick(given(case=operation.as_strategy(generation_mode=mode))(once))()
    return statuses


@pytest.mark.parametrize("path", TGI)
def test_tgi(path: str, base: str, shared: Path) -> None:
    assert try_path(document(shared / "data/specs/tgi.json"), path, base) <= {200, 400, 422}


@pytest.mark.parametrize("path", KSERVE)
def test_kserve(path: str, base: str, shared: Path) -> None:
    described = document(shared / "data/specs/kserve_v2.yaml")
    named = {
        name.replace("${MODEL_NAME}", "stories").replace("${MODEL_VERSION}", "1"): value
        for name, value in described["paths"].items()
    }
    for value in named.values():
        value.pop("parameters", None)
    statuses = try_path({**described, "paths": named}, path, base)
    assert statuses <= {200, 400}
    assert statuses & ({400} if path.endswith("infer") else {200})
