"""Every keyword of JSON Schema that is known: enforced, an annotation, or asking for nothing. Others are refused."""

from __future__ import annotations

ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$comment", "$defs", "definitions", "$vocabulary"),
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "contentSchema", "discriminator"),
    )
)
"""They say nothing about what is valid; nor do keywords that begin with x-"""

OLD_ASSERTIONS = frozenset(("contentMediaType", "contentEncoding"))
"""Annotations that were assertions up to draft 7"""

ENFORCED = frozenset(
    (
        *("type", "enum", "const", "allOf", "anyOf", "oneOf", "not", "$ref", "$dynamicRef"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("prefixItems", "items", "minItems", "maxItems", "contains", "uniqueItems"),
        *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
        *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "if"),
        *("unevaluatedProperties", "unevaluatedItems"),
    )
)
"""Enforced, or rewritten into what is"""

BESIDE = frozenset(("minContains", "maxContains", "then", "else", "additionalItems"))
"""Read together with another one (contains, if, items), without which they say nothing"""
