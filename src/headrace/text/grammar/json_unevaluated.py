"""`unevaluatedProperties` and `unevaluatedItems`: what the rest of a schema looks at, and what holds for the others.

What is looked at depends on which options of a schema hold. So there is an alternative for each way to choose among
them, and in each what is looked at is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from headrace.text.grammar.disjoint import Schema
from headrace.text.grammar.json_arrays import Containing
from headrace.text.grammar.json_values import SchemaError
from headrace.text.grammar.negation import Opposite

_MOST_WAYS = 500
_MOST_TOGETHER = 3
"""With more options than these, only one at a time is taken to hold"""


class Silent(dict[str, Any]):
    """A schema that is enforced by keywords which would look at properties, and looks at none."""


class Unevaluated(dict[str, Any]):
    """What holds for the properties or items that nothing in `schema` looks at: empty until `fill` knows which."""

    def __init__(self, keyword: str, schema: dict[str, Any], rest: Schema, path: str) -> None:
        super().__init__()
        self.keyword = keyword
        self.schema = schema
        self.rest = rest
        self.path = path

    def fill(self, target: Callable[[str], Schema]) -> None:
        """Work it out; `target` looks up what a #/$defs/… stands for.

        Raises:
            SchemaError: there are too many ways.
        """
        ways = _Ways(self, target).of(self.schema)
        schemas = [_together([*way.chosen, self._rest(way)]) for way in ways]
        self.update({"anyOf": schemas} if len(schemas) > 1 else {"allOf": schemas})

    def _rest(self, way: _Way) -> Schema:
        if way.has_all:
            return True
        if self.keyword == "unevaluatedItems":
            return {"prefixItems": [True] * way.num_items, "items": self.rest}
        found: dict[str, Any] = {"properties": dict.fromkeys(way.names, True)}
        if way.patterns:
            found["patternProperties"] = dict.fromkeys(way.patterns, True)
        return {**found, "additionalProperties": self.rest}


@dataclass(frozen=True, slots=True)
class _Way:
    """Options that hold, and what is looked at then."""

    chosen: tuple[Schema, ...] = ()
    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    num_items: int = 0
    has_all: bool = False

    def and_(self, other: _Way) -> _Way:
        return _Way(
            (*self.chosen, *other.chosen),
            tuple(dict.fromkeys((*self.names, *other.names))),
            tuple(dict.fromkeys((*self.patterns, *other.patterns))),
            max(self.num_items, other.num_items),
            self.has_all or other.has_all,
        )


class _Ways:
    def __init__(self, of: Unevaluated, target: Callable[[str], Schema]) -> None:
        self._of = of
        self._target = target
        self._num_ways = 0
        self._inside: list[str] = []
        """References that are being followed"""

    def of(self, schema: Schema) -> list[_Way]:
        """The ways in which a schema can hold, as far as they matter."""
        if isinstance(schema, bool | Opposite | Silent) or schema is self._of:
            return [_Way()]
        if isinstance(schema, Unevaluated):
            return [_Way(has_all=schema.keyword == self._of.keyword)]
        if isinstance(schema, Containing) and self._of.keyword == "unevaluatedItems":
            raise SchemaError(self._of.path, "contains beside this keyword cannot be enforced; leave one of them out")
        parts = [[self._own(schema)], *(self.of(each) for each in schema.get("allOf", ()))]
        if "$ref" in schema:
            parts.append(self._of_reference(schema["$ref"]))
        if "anyOf" in schema:
            parts.append(list(self._of_options(schema["anyOf"])))
        ways = [_Way()]
        for part in parts:
            ways = [self._counted(one.and_(other)) for one, other in product(ways, part)]
        return ways

    def _own(self, schema: Mapping[str, Any]) -> _Way:
        if self._of.keyword == "unevaluatedItems":
            return _Way(num_items=len(schema.get("prefixItems", ())), has_all="items" in schema)
        names, patterns = (tuple(schema.get(keyword, ())) for keyword in ("properties", "patternProperties"))
        return _Way(names=names, patterns=patterns, has_all="additionalProperties" in schema)

    def _of_reference(self, reference: str) -> list[_Way]:
        if reference in self._inside:
            raise SchemaError(self._of.path, "beside a reference to itself it cannot be enforced")
        self._inside.append(reference)
        found = self.of(self._target(reference))
        self._inside.pop()
        return found

    def _of_options(self, options: list[Schema]) -> Iterator[_Way]:
        """One option holds, or several do, and each that holds looks at something."""
        inside = [[_Way((each,)).and_(way) for way in self.of(each)] for each in options]
        if all(_looks_nowhere(way) for ways in inside for way in ways):
            yield _Way()
            return
        most = len(options) if len(options) <= _MOST_TOGETHER else 1
        for size in range(1, most + 1):
            for some in combinations(inside, size):
                for ways in product(*some):
                    found = _Way()
                    for way in ways:
                        found = found.and_(way)
                    yield self._counted(found)

    def _counted(self, way: _Way) -> _Way:
        self._num_ways += 1
        if self._num_ways > _MOST_WAYS:
            raise SchemaError(self._of.path, "it depends on too many options; use additionalProperties or items")
        return way


def _looks_nowhere(way: _Way) -> bool:
    return not (way.names or way.patterns or way.num_items or way.has_all)


def _together(schemas: list[Schema]) -> Schema:
    wanted = [each for each in schemas if each is not True]
    return {"allOf": wanted} if wanted else True
