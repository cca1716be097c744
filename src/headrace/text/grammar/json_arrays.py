"""Which items an array has, in the words of the library: `contains` and `uniqueItems` as choices between arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, islice
from typing import Any

from headrace.text.grammar.disjoint import Schema, type_of
from headrace.text.grammar.json_values import SchemaError
from headrace.text.grammar.negation import TYPES, Narrowed

_PLACES = 8
"""What `contains` looks for stands among the first so many items"""
_MOST_CHOICES = 100
_MOST_ARRANGEMENTS = 330
_OTHERS: Schema = {"type": [name for name in TYPES if name != "array"]}


class Containing(Narrowed):
    """Arrays that contain something."""


def containing(wanted: Schema, low: int, high: int | None, other: Schema, path: str) -> Schema:
    """Arrays of which `low` to `high` items are as wanted; any of the others is what `other` says.

    Raises:
        SchemaError: more of them are wanted than can be enforced.
    """
    if high is None and low == 0:
        return Containing()
    counts = range(low, low + 1) if high is None else range(low, min(high, _PLACES) + 1)
    places = list(
        islice(chain.from_iterable(combinations(range(_PLACES), count) for count in counts), _MOST_CHOICES + 1)
    )
    if len(places) > _MOST_CHOICES or (counts and max(counts) > _PLACES):
        raise SchemaError(path, "so many items to look for cannot be enforced; lower minContains and maxContains")
    arrays: list[Schema] = []
    for chosen in places:
        length = max(chosen, default=-1) + 1
        array: dict[str, Any] = {
            "type": "array",
            "prefixItems": [wanted if at in chosen else other for at in range(length)],
        }
        if length:
            array["minItems"] = length
        if other is not True:
            array["items"] = other
        arrays.append(array)
    return Containing({"anyOf": [_OTHERS, *arrays]})


def all_different(array: Mapping[str, Any], path: str) -> Schema:
    """Those of some arrays whose items are different, where there are so few that all can be written down.

    Raises:
        SchemaError: there are more.
    """
    low, high = array.get("minItems", 0), array.get("maxItems", math.inf)
    if high <= 1:
        return True
    prefix = [_values(each) for each in array.get("prefixItems", ())]
    rest = _values(array.get("items", True))
    first = [each for each in prefix if each is not None]
    if rest is not None and len(first) == len(prefix):
        for in_order in (False, True):
            found = list(islice(_arrays([], first, rest, high, in_order=in_order), _MOST_ARRANGEMENTS + 1))
            if len(found) <= _MOST_ARRANGEMENTS:
                kept = [each for each in found if len(each) >= low]
                return Narrowed({"anyOf": [_OTHERS, {"enum": kept}]}) if kept else _OTHERS
    raise SchemaError(
        path,
        "different items can be enforced where items is an enum of up to 8 values, or maxItems is small; leave it out,"
        " or give such an enum",
    )


def _values(schema: Schema) -> list[Any] | None:
    """All values that satisfy a schema, if it says so plainly."""
    if isinstance(schema, bool):
        return None if schema else []
    types = schema.get("type", TYPES)
    types = [types] if isinstance(types, str) else types
    if "enum" in schema and schema.keys() <= {"enum", "type"}:
        return [each for each in schema["enum"] if type_of(each) in types or ("integer" in types and _is_integer(each))]
    constants: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}
    if schema.keys() == {"type"} and all(each in constants for each in types):
        return [value for each in types for value in constants[each]]
    return None


def _is_integer(value: Any) -> bool:
    return type_of(value) == "number" and value == int(value)


def _arrays(
    start: list[Any], prefix: Sequence[Sequence[Any]], rest: Sequence[Any], most: float, *, in_order: bool
) -> Iterator[list[Any]]:
    """Arrays of different values that begin with `start`; `in_order`: as their order in `rest` is."""
    yield start
    if len(start) >= most:
        return
    values = prefix[len(start)] if len(start) < len(prefix) else rest
    used = {_key(each) for each in start}
    for at, value in enumerate(values):
        if _key(value) not in used:
            behind = rest[at + 1 :] if in_order and len(start) >= len(prefix) else rest
            yield from _arrays([*start, value], prefix, behind, most, in_order=in_order)


def _key(value: Any) -> str:
    """The same for the same JSON value: 1 is 1.0, and true is not 1."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
