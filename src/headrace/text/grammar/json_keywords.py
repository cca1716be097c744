"""Every keyword of JSON Schema that is known: enforced, an annotation, or asking for nothing. Others are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary"),
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "contentSchema", "discriminator"),
    )
)
"""They say nothing about what is valid; nor do keywords that begin with x-"""

OLD_ASSERTIONS = frozenset(("contentMediaType", "contentEncoding"))
"""Annotations that were assertions up to draft 7"""

ENFORCED = frozenset(
    (
        *("type", "enum", "const", "allOf", "anyOf", "oneOf", "$ref"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("prefixItems", "items", "minItems", "maxItems"),
        *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
        *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
    )
)
"""Enforced, or rewritten into what is"""

Neutral: TypeAlias = Callable[[Any, Mapping[str, Any]], bool]

NEUTRAL: Mapping[str, Neutral] = {
    "uniqueItems": lambda value, _: value is False,
    "minContains": lambda _, schema: "contains" not in schema,
    "maxContains": lambda _, schema: "contains" not in schema,
    "if": lambda _, schema: not schema.keys() & {"then", "else"},
    "then": lambda _, schema: "if" not in schema,
    "else": lambda _, schema: "if" not in schema,
    "not": lambda value, _: value is False,
    "unevaluatedItems": lambda value, schema: value in (True, {}) or _is_alone(schema, "items"),
    "unevaluatedProperties": lambda value, schema: value in (True, {}) or _is_alone(schema, "additionalProperties"),
    "additionalItems": lambda _value, _schema: True,  # read together with items
}
"""Keywords that ask for nothing, or for what another one does, with this value in this schema"""


def _is_alone(schema: Mapping[str, Any], keyword: str) -> bool:
    """Whether nothing beside an unevaluated… keyword evaluates anything but what `keyword` sees too."""
    beside = {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "contains", "$dynamicRef"}
    return not schema.keys() & (beside | {keyword})
