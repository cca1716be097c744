"""`response_format` and vLLM's `structured_outputs` → StructuredOutput."""

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


def structured_name(fields: SharedFields) -> str:
    """The field that asks for a structure, for errors."""
    return "response_format" if fields.structured_outputs is None else "structured_outputs"


def structured_output(fields: SharedFields) -> StructuredOutput | None:
    """What the request asks for.

    Raises:
        RequestError: it asks twice, or for what makes no sense; `param` is the field.
    """
    asked = fields.structured_outputs
    response_format = None if isinstance(fields.response_format, TextFormat) else fields.response_format
    if asked is None and response_format is None:
        return None
    if asked is not None and response_format is not None:
        raise RequestError(
            "structured_outputs and response_format both ask for a structure; send one of them",
            param="structured_outputs",
        )
    try:
        if asked is None:
            return StructuredOutput(**_of_format(response_format))
        given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}
        return StructuredOutput(**given)
    except RequestError as error:
        error.param = structured_name(fields)
        raise


def _of_format(response_format: object) -> dict[str, Any]:
    if isinstance(response_format, JsonObjectFormat):
        return {"json_object": True}
    if isinstance(response_format, JsonSchemaFormat):
        schema = response_format.json_schema.schema_
        return {"json": {} if schema is None else schema}
    assert isinstance(response_format, StructuralTagFormat)
    given = {name: value for name, value in msgspec.structs.asdict(response_format).items() if value is not None}
    return {"structural_tag": {"type": "structural_tag", **given}}
