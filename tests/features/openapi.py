"""Walks a schema of an OpenAPI document: every field, each with a value of the right type, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
Sample = tuple[str, Any]


class Walk:
    """Samples of schemas. `schemas` are the document's components.

    A label says where in the body the value differs from the smallest one: `a.b` is field b of a, `a=x` the value x of
    an enumeration, `a[x]` the alternative of a whose constant field says x. Items of lists have the list's label.
    """

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas

    def fields(self, name: str) -> Iterator[tuple[str, str, Any]]:
        """(field, label, value of the field) of the request schema `name`."""
        schema = self._resolve(self._schemas[name])
        for field, inner in schema["properties"].items():
            for label, value in self.samples(inner, field):
                yield field, label, value

    def samples(self, schema: Schema, label: str) -> Iterator[Sample]:
        """Values of the schema; the first one is the smallest."""
        schema = self._resolve(schema)
        alternatives = [*schema.get("oneOf", ()), *schema.get("anyOf", ())]
        if alternatives:
            for alternative in alternatives:
                yield from self.samples(alternative, label)
        elif "enum" in schema:
            yield from ((f"{label}={value}", value) for value in schema["enum"])
        elif schema.get("type") == "object":
            yield from self._objects(schema, label)
        elif schema.get("type") == "array":
            yield from ((inner, [value]) for inner, value in self.samples(schema["items"], label))
        elif schema.get("type") == "boolean":
            yield from ((f"{label}={str(value).lower()}", value) for value in (True, False))
        elif schema.get("type") in ("integer", "number"):
            yield label, min(max(1, schema.get("minimum", 1)), schema.get("maximum", 1))
        elif schema.get("type") == "string" or not schema.get("type"):  # of no type is any value
            yield label, "text"
        else:
            assert schema.get("type") == "null", schema

    def _objects(self, schema: Schema, label: str) -> Iterator[Sample]:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        if not properties:
            further = schema.get("additionalProperties", True)
            yield label, {} if isinstance(further, bool) else {"1": self._smallest(further)}
            return
        constants = {name: value for name, one in properties.items() if (value := self._constant(one)) is not None}
        label = label + "".join(f"[{value}]" for value in constants.values())
        required = [name for name in schema.get("required", ()) if name in properties]
        smallest = constants | {name: self._smallest(properties[name]) for name in required}
        yield label, smallest
        for name in properties.keys() - constants.keys():
            for inner, value in self.samples(properties[name], f"{label}.{name}"):
                yield inner, {**smallest, name: value}

    def _smallest(self, schema: Schema) -> Any:
        return next(value for _, value in self.samples(schema, ""))

    def _constant(self, schema: Schema) -> str | None:
        enumeration = self._resolve(schema).get("enum", ())
        return str(enumeration[0]) if len(enumeration) == 1 and schema.get("x-stainless-const") else None

    def _resolve(self, schema: Schema) -> Schema:
        """Without $ref and allOf."""
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if "allOf" not in schema:
            return schema
        properties: dict[str, Schema] = {}
        for part in schema["allOf"]:
            properties |= self._resolve(part).get("properties", {})
        return {"type": "object", "properties": properties}
