"""The opposite of a schema, in the words of the library: what satisfies it is valid exactly where the schema is not.

It is taken of what `json_schema` makes of a schema, so a few keywords are enough. What that has narrowed (a format, of
which not every text is written; `contains`, found among the first items) has no opposite here: it would be too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from headrace.text.grammar.disjoint import Schema, type_of
from headrace.text.grammar.regex import spelled

TYPES = ("null", "boolean", "number", "string", "array", "object")
"""Each value has one of them"""
_MOST_PARTS = 5_000
_MOST_CHARACTERS = 2_000
"""Of the texts of one enum"""
_LONGEST_TEXT = 60
_MOST_NUMBERS = 100
_OPPOSITE_BOUNDS = {
    "minimum": "exclusiveMaximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum",
    "exclusiveMaximum": "minimum",
}
_COUNTS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
}


class NoOppositeError(Exception):
    """A schema whose opposite cannot be enforced; the message names the keyword."""


class Narrowed(dict[str, Any]):
    """A schema that allows less than what it was made from."""


class Opposite(dict[str, Any]):
    """The opposite of a schema: empty until `Negation.fill` knows it."""

    def __init__(self, schema: Schema, path: str, why: str) -> None:
        super().__init__()
        self.schema = schema
        self.path = path
        """Where it is asked for, and how the message begins if there is none"""
        self.why = why


class Negation:
    """Makes opposites of the schemas of one document. `target` looks up what a #/$defs/… stands for."""

    def __init__(self, target: Callable[[str], Schema]) -> None:
        self._target = target
        self._num_parts = 0
        self._inside: list[str] = []
        """References that are being followed"""

    def fill(self, opposite: Opposite) -> None:
        """Work it out.

        Raises:
            NoOppositeError: there is none that can be enforced.
        """
        found = self._of(opposite.schema)
        opposite.update({"allOf": [found]} if isinstance(found, bool) else found)

    def _of(self, schema: Schema) -> Schema:
        self._num_parts += 1
        if self._num_parts > _MOST_PARTS:
            raise NoOppositeError("it has too many parts; make it smaller")
        if isinstance(schema, bool):
            return not schema
        if isinstance(schema, Opposite):
            return schema.schema
        if isinstance(schema, Narrowed):
            raise NoOppositeError("something in it is enforced in part only")
        options = [each for keyword in schema for each in self._of_keyword(keyword, schema) if each is not False]
        if not options or True in options:
            return bool(options)
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _of_keyword(self, keyword: str, schema: Mapping[str, Any]) -> list[Schema]:
        """What each violates the keyword."""
        value = schema[keyword]
        makers: Mapping[str, Callable[[], list[Schema]]] = {
            "type": lambda: _of_types([value] if isinstance(value, str) else value),
            "enum": lambda: _of_constants(value),
            "allOf": lambda: [self._of(each) for each in value],
            "anyOf": lambda: [_all_of([self._of(each) for each in value])],
            "$ref": lambda: [self._of_reference(value)],
            "required": lambda: [{"type": "object", "properties": {name: False}} for name in value],
            "properties": lambda: self._of_properties(value),
            "prefixItems": lambda: self._of_places(value),
            "items": lambda: self._of_items(value, len(schema.get("prefixItems", ()))),
        }
        if keyword in makers:
            return makers[keyword]()
        if keyword in _OPPOSITE_BOUNDS:
            return [{"type": "number", _OPPOSITE_BOUNDS[keyword]: value}]
        if keyword in _COUNTS:
            kind, opposite, by = _COUNTS[keyword]
            return [{"type": kind, opposite: value + by}] if value + by >= 0 else []
        if keyword == "additionalProperties" and value in (True, {}):
            return []
        raise NoOppositeError(f"{keyword} cannot be negated")

    def _of_properties(self, members: Mapping[str, Schema]) -> list[Schema]:
        opposites = ((name, self._of(each)) for name, each in members.items())
        return [
            {"type": "object", "properties": {name: opposite}, "required": [name]}
            for name, opposite in opposites
            if opposite is not False
        ]

    def _of_places(self, places: Sequence[Schema]) -> list[Schema]:
        opposites = ((at, self._of(each)) for at, each in enumerate(places))
        return [
            {"type": "array", "prefixItems": [True] * at + [opposite], "minItems": at + 1}
            for at, opposite in opposites
            if opposite is not False
        ]

    def _of_items(self, items: Schema, start: int) -> list[Schema]:
        opposite = self._of(items)
        if opposite is False:
            return []
        if opposite is True:
            return [{"type": "array", "minItems": start + 1}]
        raise NoOppositeError("items cannot be negated")

    def _of_reference(self, reference: str) -> Schema:
        if reference in self._inside:
            raise NoOppositeError("it refers to itself")
        self._inside.append(reference)
        found = self._of(self._target(reference))
        self._inside.pop()
        return found


def _all_of(schemas: list[Schema]) -> Schema:
    wanted = [each for each in schemas if each is not True]
    if False in wanted:
        return False
    return wanted[0] if len(wanted) == 1 else {"allOf": wanted} if wanted else True


def _of_types(types: Iterable[str]) -> list[Schema]:
    """Without numbers where only integers are excluded: 1.0 is one."""
    excluded = {"number" if each == "integer" else each for each in types}
    others = [each for each in TYPES if each not in excluded]
    return [{"type": others}] if others else []


def _of_constants(values: Sequence[Any]) -> list[Schema]:
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(type_of(value), []).append(value)
    found: list[Schema] = _of_types(by_type)
    if len(booleans := set(by_type.get("boolean", ()))) == 1:
        found.append({"enum": [not booleans.pop()]})
    if numbers := sorted(set(by_type.get("number", ()))):
        found += _outside_of(numbers)
    if texts := by_type.get("string"):
        found.append({"type": "string", "pattern": f"^(?:{_no_text_of(texts)})$"})
    for kind, keyword in (("array", "minItems"), ("object", "minProperties")):
        constants = by_type.get(kind)
        if constants and any(constants):
            raise NoOppositeError(f"a constant that is an {kind} cannot be negated")
        if constants:
            found.append({"type": kind, keyword: 1})
    return found


def _outside_of(numbers: Sequence[float]) -> list[Schema]:
    if len(numbers) > _MOST_NUMBERS:
        raise NoOppositeError(f"more than {_MOST_NUMBERS} numbers cannot be negated")
    between = [{"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(numbers)]
    return [
        {"type": "number", "exclusiveMaximum": numbers[0]},
        *between,
        {"type": "number", "exclusiveMinimum": numbers[-1]},
    ]


def _no_text_of(texts: Sequence[str]) -> str:
    """An expression, in the library's syntax, of every text but these."""
    if sum(map(len, texts)) > _MOST_CHARACTERS or max(map(len, texts)) > _LONGEST_TEXT:
        raise NoOppositeError(
            f"texts of more than {_LONGEST_TEXT} characters, or of {_MOST_CHARACTERS:,} in all, cannot be negated"
        )
    return _no_end_of(sorted(set(texts)))


def _no_end_of(ends: Sequence[str]) -> str:
    """Texts that differ from each of some sorted ones, of which the first may be empty."""
    behind: dict[str, list[str]] = {}
    for end in ends:
        if end:
            behind.setdefault(end[0], []).append(end[1:])
    known = spelled("".join(behind))
    other = f"[^{known}](?s:.*)" if known else "(?s:.+)"
    options = [other, *(f"{spelled(first)}{_no_end_of(rest)}" for first, rest in behind.items())]
    return f"(?:{'|'.join(options)}){'' if '' in ends else '?'}"
