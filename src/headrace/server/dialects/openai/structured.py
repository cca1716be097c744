"""`response_format`, vLLM's `structured_outputs` by either of its names, llama-server's two → StructuredOutput."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.errors import RequestError
from headrace.server.dialects.openai.requests import (
    JsonObjectFormat,
    JsonSchemaFormat,
    SharedFields,
    StructuralTagFormat,
    TextFormat,
)
from headrace.structured_output import StructuredOutput

_GUIDED = {f"guided_{name}": name for name in ("json", "regex", "choice", "grammar", "whitespace_pattern")}
"""What vLLM before 0.12 takes as guided_json …"""


def structured_name(fields: SharedFields) -> str:
    """The field that asks for a structure, for errors."""
    return next((name for name, _ in _asked(fields)), "response_format")


def structured_output(fields: SharedFields) -> StructuredOutput | None:
    """What the request asks for.

    Raises:
        RequestError: it asks twice, or for what makes no sense; `param` is the field.
    """
    asked = _asked(fields)
    if not asked:
        return None
    name, structure = asked[0]
    if len(asked) > 1:
        raise RequestError(f"{name} and {asked[1][0]} both ask for a structure; send one of them", param=name)
    try:
        return StructuredOutput(**structure)
    except RequestError as error:
        error.param = name
        raise


def _asked(fields: SharedFields) -> list[tuple[str, dict[str, Any]]]:
    """Every structure that is asked for, by its field."""
    asked: list[tuple[str, dict[str, Any]]] = []
    if fields.structured_outputs is not None:
        asked.append(("structured_outputs", _given(fields.structured_outputs)))
    if guided := _guided(fields):
        asked.append((f"guided_{next(iter(guided))}", guided))
    if fields.response_format is not None and not isinstance(fields.response_format, TextFormat):
        asked.append(("response_format", _of_format(fields.response_format)))
    if fields.json_schema is not None:
        asked.append(("json_schema", {"json": fields.json_schema}))
    if fields.grammar:
        asked.append(("grammar", {"grammar": fields.grammar}))
    return asked


def _guided(fields: SharedFields) -> dict[str, Any]:
    return {name: value for field, name in _GUIDED.items() if (value := getattr(fields, field)) is not None}


def _given(fields: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not None}


def _of_format(response_format: object) -> dict[str, Any]:
    if isinstance(response_format, JsonObjectFormat):
        return {"json_object": True}
    if isinstance(response_format, JsonSchemaFormat):
        schema = response_format.json_schema.schema_
        return {"json": {} if schema is None else schema}
    assert isinstance(response_format, StructuralTagFormat)
    return {"structural_tag": {"type": "structural_tag", **_given(response_format)}}
