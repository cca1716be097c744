"""Whether no value satisfies two schemas of a oneOf: then exactly one of them holds wherever one of any does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any] | bool

_ALL = frozenset(("null", "boolean", "number", "string", "array", "object"))
_MOST_DEPTH = 12
_MOST_OPTIONS = 200


def first_overlap(options: Sequence[Schema], defs: Mapping[str, Schema]) -> tuple[int, int] | None:
    """The first two options that are not known to exclude each other. Takes what `json_schema` makes of schemas."""
    if len(options) > _MOST_OPTIONS:
        return 0, 1
    for (at, one), (other_at, other) in combinations(enumerate(options), 2):
        if not are_disjoint(one, other, defs):
            return at, other_at
    return None


def constants_of_property(schema: Schema, *, is_object: bool) -> tuple[str, list[Any]]:
    """The property and its values, if all that a schema says is that an object's property is one of these constants.

    Else "" and none. `is_object`: that the value is one is said elsewhere.
    """
    if isinstance(schema, bool) or not schema.keys() <= {"type", "required", "properties"}:
        return "", []
    properties = schema.get("properties", {})
    member = next(iter(properties.values()), True)
    if len(properties) != 1 or schema.get("required") != list(properties) or isinstance(member, bool):
        return "", []
    is_object |= schema.get("type") == "object"
    is_plain = member.keys() == {"enum"} or (member.keys() == {"type", "enum"} and member["type"] == "string")
    if not is_object or not is_plain or not all(isinstance(each, str) for each in member["enum"]):
        return "", []
    return schema["required"][0], member["enum"]


def are_disjoint(one: Schema, other: Schema, defs: Mapping[str, Schema], depth: int = _MOST_DEPTH) -> bool:
    """Whether it is known that no value satisfies both."""
    if isinstance(one, bool) or isinstance(other, bool) or depth <= 0:
        return one is False or other is False
    if _is_split_apart(one, other, defs, depth - 1) or _is_split_apart(other, one, defs, depth - 1):
        return True
    if not _types(one) & _types(other) or _are_numbers_apart(one, other):
        return True
    if "enum" in one and "enum" in other:
        return all(not _equal(a, b) for a in one["enum"] for b in other["enum"])
    return _are_objects_apart(one, other, defs, depth)


def _is_split_apart(one: dict[str, Any], other: Schema, defs: Mapping[str, Schema], depth: int) -> bool:
    """By what `one` is put together from."""
    target = defs[one["$ref"].rpartition("/")[2]] if "$ref" in one else True
    parts = [target, *one.get("allOf", ())]
    if any(are_disjoint(part, other, defs, depth) for part in parts):
        return True
    return "anyOf" in one and all(are_disjoint(part, other, defs, depth) for part in one["anyOf"])


def _types(schema: dict[str, Any]) -> frozenset[str]:
    if "enum" in schema:
        return frozenset(type_of(each) for each in schema["enum"])
    given = schema.get("type", _ALL)
    types = {given} if isinstance(given, str) else set(given)
    return frozenset("number" if each == "integer" else each for each in types)


def _are_numbers_apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if _types(one) & _types(other) != {"number"}:
        return False
    for low, high in ((one, other), (other, one)):
        least = max(low.get("minimum", float("-inf")), low.get("exclusiveMinimum", float("-inf")))
        most = min(high.get("maximum", float("inf")), high.get("exclusiveMaximum", float("inf")))
        if least > most or (least == most and least in (low.get("exclusiveMinimum"), high.get("exclusiveMaximum"))):
            return True
    return False


def _are_objects_apart(one: dict[str, Any], other: dict[str, Any], defs: Mapping[str, Schema], depth: int) -> bool:
    if _types(one) & _types(other) != {"object"}:
        return False
    return any(
        are_disjoint(_member(one, name), _member(other, name), defs, depth - 1)
        for name in {*one.get("required", ()), *other.get("required", ())}
    )


def _member(schema: dict[str, Any], name: str) -> Schema:
    """What a property must satisfy, at least."""
    properties: dict[str, Schema] = schema.get("properties", {})
    if name in properties:
        return properties[name]
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return not is_closed


def type_of(value: Any) -> str:
    """The type of a JSON value; all numbers are of one."""
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (int | float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _equal(one: Any, other: Any) -> bool:
    """As JSON: 1 is 1.0, and true is not 1. Lists and objects may always be equal."""
    if type_of(one) != type_of(other):
        return False
    return isinstance(one, list | dict) or bool(one == other)
