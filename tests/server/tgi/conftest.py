"""TGI's own description of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest


@pytest.fixture(scope="session")
def check(shared: Path) -> Callable[[str, Any], None]:
    """check(name, value): the value is what TGI's OpenAPI document calls by that name."""
    document = json.loads((shared / "data/specs/tgi.json").read_text())

    def against(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": _with_null(document["components"])}
        jsonschema.Draft202012Validator(schema).validate(value)

    return against


def _with_null(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in JSON Schema's words."""
    if isinstance(schema, list):
        return [_with_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: _with_null(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [read, {"type": "null"}]} if schema.get("nullable") is True else read
