"""Where the references of a JSON Schema lead: pointers, anchors, and schemas with an $id of their own inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

from headrace.text.grammar.json_values import SchemaError, short

_MOST_DEPTH = 128
_HOLD_ONE = (
    *("not", "if", "then", "else", "items", "additionalItems", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_HOLD_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_HOLD_NAMED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies")


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference leads to."""

    key: str
    """The same for the same target"""
    schema: Any
    base: str
    """What references inside of it are relative to"""


class References:
    """The resources of one schema: itself and, not up to draft 7 (`is_old`), every schema in it that has an $id."""

    def __init__(self, root: Any, *, is_old: bool) -> None:
        self._is_old = is_old
        self._resources: dict[str, Any] = {}
        self._bases: dict[int, str] = {}
        """Of the schemas with an $id, by identity"""
        self._anchors: dict[tuple[str, str], Target] = {}
        self._num_dynamic: Counter[str] = Counter()
        """How many $dynamicAnchor there are of a name"""
        self._dynamic: set[tuple[str, str]] = set()
        root_id = root.get("$id", root.get("id") if is_old else None) if isinstance(root, dict) else None
        self.base = root_id.rstrip("#") if isinstance(root_id, str) else ""
        """The root's"""
        self._resources[self.base] = root
        self._bases[id(root)] = self.base
        self._collect(root, self.base, 0)
        self._resources.setdefault("", root)

    def base_of(self, schema: Any, base: str) -> str:
        """What references in a schema are relative to, where those around it are relative to `base`."""
        return self._bases.get(id(schema), base)

    def find(self, reference: Any, base: str, path: str) -> Target:
        """Where a $ref leads.

        Raises:
            SchemaError: out of the schema, or nowhere.
        """
        if not isinstance(reference, str):
            raise SchemaError(path, "expected text")
        resource, _, fragment = _join(base, reference).partition("#")
        if resource not in self._resources:
            raise SchemaError(path, f"{short(reference)} is outside of this schema; put it into $defs")
        fragment = unquote(fragment)
        if not fragment or fragment.startswith("/"):
            return self._at_pointer(resource, fragment, path)
        if (resource, fragment) not in self._anchors:
            raise SchemaError(path, f"there is no $anchor {fragment!r}")
        return self._anchors[resource, fragment]

    def find_dynamic(self, reference: Any, base: str, path: str) -> Target:
        """Where a $dynamicRef leads, where that does not depend on the way by which one came to it.

        Raises:
            SchemaError: it does, or as for `find`.
        """
        target = self.find(reference, base, path)
        resource, _, name = _join(base, reference).partition("#")
        if (resource, name) in self._dynamic and self._num_dynamic[name] > 1:
            raise SchemaError(
                path, f"there are several $dynamicAnchor {name!r}, and which is meant cannot be enforced; use $ref"
            )
        return target

    def _at_pointer(self, resource: str, pointer: str, path: str) -> Target:
        target, base = self._resources[resource], resource
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise SchemaError(path, f"there is nothing at #{pointer}")
            base = self.base_of(target, base)
        return Target(f"{resource}#{pointer}", target, base)

    def _collect(self, schema: Any, base: str, depth: int) -> None:
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return
        own = schema.get("$id")
        if isinstance(own, str) and not self._is_old and id(schema) not in self._bases:
            base = self._bases[id(schema)] = _join(base, own).rstrip("#")
            self._resources.setdefault(base, schema)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := schema.get(keyword), str):
                self._anchors.setdefault((base, name), Target(f"{base}#{name}", schema, base))
                if keyword == "$dynamicAnchor":
                    self._num_dynamic[name] += 1
                    self._dynamic.add((base, name))
        for each in _parts(schema):
            self._collect(each, base, depth + 1)


def _parts(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas in a schema; what is in constants and unknown keywords is none."""
    for keyword, value in schema.items():
        if keyword in _HOLD_NAMED and isinstance(value, dict):
            yield from value.values()
        elif keyword in _HOLD_LISTS and isinstance(value, list):
            yield from value
        elif keyword in _HOLD_ONE:
            yield value


def _join(base: str, reference: str) -> str:
    return f"{base}{reference}" if reference.startswith("#") else urljoin(base, reference)
