"""`response_format` and vLLM's `structured_outputs`, by either of its names → StructuredOutput."""

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

_GUIDED = ("json", "regex", "choice", "grammar", "whitespace_pattern")
"""What vLLM before 0.12 takes as guided_json …"""


def structured_name(fields: SharedFields) -> str:
    """The field that asks for a structure, for errors."""
    if fields.structured_outputs is not None:
        return "structured_outputs"
    return next((f"guided_{name}" for name in _guided(fields)), "response_format")


def structured_output(fields: SharedFields) -> StructuredOutput | None:
    """What the request asks for.

    Raises:
        RequestError: it asks twice, or for what makes no sense; `param` is the field.
    """
    asked: list[dict[str, Any]] = []
    if fields.structured_outputs is not None:
        asked.append(_given(fields.structured_outputs))
    if guided := _guided(fields):
        asked.append(guided)
    if fields.response_format is not None and not isinstance(fields.response_format, TextFormat):
        asked.append(_of_format(fields.response_format))
    if not asked:
        return None
    name = structured_name(fields)
    if len(asked) > 1:
        other = "response_format" if not guided or fields.structured_outputs is None else f"guided_{next(iter(guided))}"
        raise RequestError(f"{name} and {other} both ask for a structure; send one of them", param=name)
    try:
        return StructuredOutput(**asked[0])
    except RequestError as error:
        error.param = name
        raise


def _guided(fields: SharedFields) -> dict[str, Any]:
    return {name: value for name in _GUIDED if (value := getattr(fields, f"guided_{name}")) is not None}


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
