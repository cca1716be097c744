"""JSON Schemas, checked and brought into the form that the library enforces in full.

Every keyword is known here: enforced, rewritten into enforced ones, or an annotation. Any other is refused by name and
path. What comes out uses a few keywords in a fixed order, since the library reads some of them by their order, with
references as #/$defs/N. It may allow less than the schema (properties come in its order, an integer is written 7 and
not 7.0), never more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import unquote

from headrace.errors import RequestError
from headrace.text.grammar import regex
from headrace.text.grammar.disjoint import first_overlap
from headrace.text.grammar.formats import FORMATS
from headrace.text.grammar.json_keywords import ANNOTATIONS, ENFORCED, NEUTRAL, OLD_ASSERTIONS

Schema: TypeAlias = dict[str, Any] | bool

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_VALUES = ("enum", "const", "default", "examples", "example")
"""Keywords whose contents are no schemas"""
_MOST_DEPTH = 64
_MOST_NODES = 10_000
_MOST_PROPERTIES = 1_000
"""Of one object"""
_LARGEST_MULTIPLE = 20_000
"""Digits of multipleOf as a whole number, all together: 0.25 counts as 25"""
_LARGEST_EXACT = 2**53
_MOST_COUNT = 100_000


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """A schema in the library's words."""

    schema: Schema
    examples: tuple[str, ...]
    """Texts that match its patterns"""
    has_escaped_names: bool
    """Some property's name has control characters: strings must not spell them in a second way (\\u000A for \\n)"""


def checked_schema(schema: Any, *, close_objects: bool = False) -> CheckedSchema:
    """Check a schema. `close_objects`: objects that name properties have no others by default.

    Raises:
        RequestError: a keyword cannot be enforced or is malformed; the message has its path.
    """
    checker = _Checker(schema, close_objects=close_objects)
    return CheckedSchema(checker.run(), tuple(dict.fromkeys(checker.examples)), checker.has_escaped_names)


class SchemaError(RequestError):
    """A schema that cannot be enforced."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"structured output: {path}: {what}", param="structured")


class _Checker:
    """Goes once through a schema and what it refers to."""

    def __init__(self, root: Any, *, close_objects: bool) -> None:
        self._root = root
        self._close_objects = close_objects
        self._names: dict[str, str] = {}
        """Where a reference points → its name in the new $defs"""
        self._defs: dict[str, Schema] = {}
        self._waiting: list[tuple[str, Any, str]] = []
        self._num_nodes = 0
        dialect = root.get("$schema", "") if isinstance(root, dict) else ""
        is_old = isinstance(dialect, str) and "/draft-0" in dialect
        self._annotations = ANNOTATIONS - OLD_ASSERTIONS if is_old else ANNOTATIONS
        self._anchors: dict[str, Any] | None = None
        self._multiple = 1
        """The least common multiple of all multipleOf without their powers of ten"""
        self.has_escaped_names = False
        self.examples: list[str] = []
        self._one_ofs: list[tuple[str, list[Schema]]] = []

    def run(self) -> Schema:
        """The whole."""
        found = self._node(self._root, "$", 0)
        while self._waiting:
            name, target, path = self._waiting.pop()
            self._defs[name] = self._node(target, path, 0)
        for path, options in self._one_ofs:
            if (overlap := first_overlap(options, self._defs)) is not None:
                raise SchemaError(
                    path,
                    f"options {overlap[0]} and {overlap[1]} may hold together, so that exactly one cannot be enforced;"
                    " use anyOf, or give them a required property with different constants",
                )
        if not self._defs or isinstance(found, bool):
            return found
        return {**found, "$defs": self._defs}

    def _node(self, schema: Any, path: str, depth: int) -> Schema:
        self._num_nodes += 1
        if self._num_nodes > _MOST_NODES:
            raise SchemaError(path, f"the schema has more than {_MOST_NODES:,} parts; make it smaller")
        if depth > _MOST_DEPTH:
            raise SchemaError(path, f"it is nested more than {_MOST_DEPTH} deep; use $ref")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError(path, f"expected a schema (an object, true or false), and it is {_short(schema)}")
        self._refuse_unknown(schema, path)
        found: dict[str, Any] = {}
        self._types(schema, found, path)
        self._numbers(schema, found, path)
        self._strings(schema, found, path)
        self._arrays(schema, found, path, depth + 1)
        self._objects(schema, found, path, depth + 1)
        self._constants(schema, found, path)
        self._combinations(schema, found, path, depth + 1)
        self._conditions(schema, found, path, depth + 1)
        return found

    def _refuse_unknown(self, schema: Mapping[str, Any], path: str) -> None:
        for keyword, value in schema.items():
            if keyword in ENFORCED or keyword in self._annotations or keyword.startswith("x-"):
                continue
            neutral = NEUTRAL.get(keyword)
            if neutral is None or not neutral(value, schema):
                raise SchemaError(f"{path}.{keyword}", "this keyword cannot be enforced; leave it out")
        if path != "$" and isinstance(schema.get("$id", schema.get("id")), str) and "$ref" in json.dumps(self._root):
            raise SchemaError(f"{path}.$id", "a schema inside another one that has its own base for $ref; leave it out")

    def _types(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        if "type" not in schema:
            return
        types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not isinstance(types, list) or not types or any(each not in _TYPES for each in types):
            raise SchemaError(f"{path}.type", f"expected {', '.join(_TYPES)}, or a list of them")
        if "number" in types:
            types = [each for each in types if each != "integer"]
        found["type"] = types[0] if len(types) == 1 else list(dict.fromkeys(types))

    def _numbers(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if keyword not in schema:
                continue
            value = schema[keyword]
            plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
            if isinstance(value, bool) and plain is not None:  # draft 4
                if value and plain in schema:
                    found[keyword] = found.pop(plain, schema[plain])
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise SchemaError(f"{path}.{keyword}", f"expected a number, and it is {_short(value)}")
            if abs(value) > _LARGEST_EXACT:
                raise SchemaError(f"{path}.{keyword}", "numbers beyond 2^53 cannot be enforced exactly")
            if keyword == "multipleOf":
                self._check_multiple(value, f"{path}.{keyword}")
            found[keyword] = value

    def _check_multiple(self, value: float, path: str) -> None:
        if not 1e-6 <= value <= 1e9:
            raise SchemaError(path, "expected a number from 0.000001 to 1,000,000,000")
        self._multiple = math.lcm(
            self._multiple, int("".join(map(str, Decimal(str(value)).normalize().as_tuple().digits)))
        )
        if self._multiple > _LARGEST_MULTIPLE:
            raise SchemaError(path, f"multiples of more than {_LARGEST_MULTIPLE:,} take too much work")

    def _strings(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        _copy_counts(schema, found, path, "minLength", "maxLength")
        patterns = []
        if "pattern" in schema:
            patterns.append(self._pattern(schema["pattern"], f"{path}.pattern"))
        if "format" in schema:
            name = schema["format"]
            if not isinstance(name, str) or name not in FORMATS:
                known = ", ".join(sorted(FORMATS))
                raise SchemaError(f"{path}.format", f"{_short(name)} cannot be enforced; these can: {known}")
            patterns.append(_anchored(FORMATS[name]))
        if patterns:
            found["pattern"] = patterns[0]
            for pattern in patterns[1:]:
                found.setdefault("allOf", []).append({"pattern": pattern})

    def _arrays(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        prefix, rest = schema.get("prefixItems"), "items"
        if isinstance(schema.get("items"), list):  # up to draft 2019-09
            if prefix is not None:
                raise SchemaError(f"{path}.items", "a list and prefixItems together; use prefixItems alone")
            prefix, rest = schema["items"], "additionalItems"
        if prefix is not None:
            name = "prefixItems" if "prefixItems" in schema else "items"
            if not isinstance(prefix, list):
                raise SchemaError(f"{path}.{name}", "expected a list of schemas")
            found["prefixItems"] = [self._node(each, f"{path}.{name}[{at}]", depth) for at, each in enumerate(prefix)]
        if rest not in schema and "unevaluatedItems" in schema:
            rest = "unevaluatedItems"
        if rest in schema:
            found["items"] = self._node(schema[rest], f"{path}.{rest}", depth)
        _copy_counts(schema, found, path, "minItems", "maxItems")

    def _objects(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        for keyword in ("properties", "patternProperties"):
            if keyword not in schema:
                continue
            members = schema[keyword]
            if not isinstance(members, dict):
                raise SchemaError(f"{path}.{keyword}", "expected an object of schemas")
            if len(members) > _MOST_PROPERTIES:
                raise SchemaError(f"{path}.{keyword}", f"expected at most {_MOST_PROPERTIES:,}")
            found[keyword] = {
                name: self._node(each, f"{path}.{keyword}.{name}", depth) for name, each in members.items()
            }
        if "patternProperties" in found:
            found["patternProperties"] = {
                self._pattern(name, f"{path}.patternProperties.{name}"): each
                for name, each in found["patternProperties"].items()
            }
        rest = "additionalProperties" if "additionalProperties" in schema else "unevaluatedProperties"
        if rest in schema:
            found["additionalProperties"] = self._node(schema[rest], f"{path}.{rest}", depth)
        elif self._close_objects and "properties" in schema:
            found["additionalProperties"] = False
        if "required" in schema and not isinstance(schema["required"], bool):  # draft 3 had true and false
            found["required"] = list(dict.fromkeys(_names(schema["required"], f"{path}.required")))
        elif "required" in schema:
            raise SchemaError(f"{path}.required", "expected a list of names")
        names = [*found.get("properties", ()), *found.get("required", ())]
        self.has_escaped_names |= any(character < " " for name in names for character in name)
        _copy_counts(schema, found, path, "minProperties", "maxProperties")
        if found.get("minProperties", 0) > len(found.get("required", ())) + 1:
            raise SchemaError(
                f"{path}.minProperties",
                "more than one beyond the required ones cannot be enforced, since names could repeat; name them in"
                " required",
            )
        if "propertyNames" in schema:
            self._property_names(schema, found, path, depth)

    def _property_names(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        """Names of a pattern or list, where no name is given otherwise: patternProperties and nothing else."""
        path = f"{path}.propertyNames"
        names = self._node(schema["propertyNames"], path, depth)
        if names is True or names in ({}, {"type": "string"}):
            return
        rest = found.get("additionalProperties", True)
        if names is not False and not found.keys() & {"properties", "patternProperties", "required"}:
            if names.keys() <= {"type", "pattern"} and "pattern" in names:
                found["patternProperties"] = {names["pattern"]: rest}
                found["additionalProperties"] = False
                return
            if names.keys() <= {"type", "enum"} and all(isinstance(each, str) for each in names["enum"]):
                found["properties"] = dict.fromkeys(names["enum"], rest)
                found["additionalProperties"] = False
                return
        raise SchemaError(path, "only a pattern or an enum, in an object without named properties, can be enforced")

    def _constants(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        if "enum" in schema:
            if not isinstance(schema["enum"], list) or not schema["enum"]:
                raise SchemaError(f"{path}.enum", "expected a list of one or more values")
            for at, value in enumerate(schema["enum"]):
                _check_constant(value, f"{path}.enum[{at}]", 0)
            found["enum"] = schema["enum"]
        if "const" in schema:
            _check_constant(schema["const"], f"{path}.const", 0)
            if "enum" in found:
                found.setdefault("allOf", []).append({"enum": [schema["const"]]})
            else:
                found["enum"] = [schema["const"]]

    def _combinations(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword not in schema:
                continue
            if not isinstance(schema[keyword], list) or not schema[keyword]:
                raise SchemaError(f"{path}.{keyword}", "expected a list of one or more schemas")
            options = [self._node(each, f"{path}.{keyword}[{at}]", depth) for at, each in enumerate(schema[keyword])]
            if keyword == "allOf":
                found["allOf"] = [*found.get("allOf", []), *options]
            elif keyword == "oneOf":
                self._one_ofs.append((f"{path}.oneOf", options))
                _add_choice(found, options)
            else:
                _add_choice(found, options)
        if "$ref" in schema:
            name = self._reference(schema["$ref"], f"{path}.$ref")
            found["$ref"] = f"#/$defs/{name}"

    def _conditions(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        """If a name is there, more follows: either it is absent, or the rest holds."""
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            members = schema.get(keyword, {})
            if not isinstance(members, dict):
                raise SchemaError(f"{path}.{keyword}", "expected an object")
            for name, needs in members.items():
                if isinstance(needs, list):
                    more: Schema = {"required": [name, *_names(needs, f"{path}.{keyword}.{name}")]}
                else:
                    there = {"required": [name]}
                    more = {"allOf": [there, self._node(needs, f"{path}.{keyword}.{name}", depth)]}
                _add_choice(found, [{"properties": {name: False}}, more])

    def _pattern(self, pattern: Any, path: str) -> str:
        if not isinstance(pattern, str):
            raise SchemaError(path, f"expected a regular expression, and it is {_short(pattern)}")
        try:
            found = regex.search(pattern)
        except regex.RegexError as error:
            raise SchemaError(path, f"the regular expression {_short(pattern)} cannot be used: {error}") from error
        self.examples.append(found.example)
        return _anchored(found.text)

    def _reference(self, reference: Any, path: str) -> str:
        if not isinstance(reference, str):
            raise SchemaError(path, "expected text")
        root_id = self._root.get("$id", self._root.get("id", "")) if isinstance(self._root, dict) else ""
        base, _, fragment = reference.partition("#")
        if base not in ("", str(root_id).rstrip("#")):
            raise SchemaError(path, f"{_short(reference)} is outside of this schema; put it into $defs")
        fragment = unquote(fragment)
        if fragment not in self._names:
            target = self._lookup(fragment, path)
            self._names[fragment] = name = str(len(self._names))
            self._waiting.append((name, target, f"#{fragment}"))
        return self._names[fragment]

    def _lookup(self, fragment: str, path: str) -> Any:
        if fragment == "":
            return self._root
        if not fragment.startswith("/"):
            return self._anchor(fragment, path)
        target = self._root
        for part in fragment[1:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise SchemaError(path, f"there is nothing at #{fragment}")
        return target

    def _anchor(self, name: str, path: str) -> Any:
        if self._anchors is None:
            self._anchors = {}
            _collect_anchors(self._root, self._anchors, 0)
        if name not in self._anchors:
            raise SchemaError(path, f"there is no $anchor {name!r}")
        return self._anchors[name]


def _collect_anchors(value: Any, anchors: dict[str, Any], depth: int) -> None:
    if depth > _MOST_DEPTH * 2:
        return
    if isinstance(value, dict):
        if isinstance(anchor := value.get("$anchor"), str):
            anchors.setdefault(anchor, value)
        for each in (member for name, member in value.items() if name not in _VALUES):
            _collect_anchors(each, anchors, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _collect_anchors(each, anchors, depth + 1)


def _add_choice(found: dict[str, Any], options: list[Schema]) -> None:
    if "anyOf" in found:
        found.setdefault("allOf", []).append({"anyOf": options})
    else:
        found["anyOf"] = options


def _copy_counts(schema: Mapping[str, Any], found: dict[str, Any], path: str, *keywords: str) -> None:
    for keyword in keywords:
        if keyword not in schema:
            continue
        value = schema[keyword]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SchemaError(f"{path}.{keyword}", f"expected a count, and it is {_short(value)}")
        if value > _MOST_COUNT:
            raise SchemaError(f"{path}.{keyword}", f"{value:,} is more than can be enforced ({_MOST_COUNT:,})")
        found[keyword] = value


def _anchored(expression: str) -> str:
    return f"^(?:{expression})$"


def _names(value: Any, path: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise SchemaError(path, "expected a list of names")
    return value


def _check_constant(value: Any, path: str, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise SchemaError(path, "it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(path, "it is no JSON number")
    if isinstance(value, int | float) and abs(value) > _LARGEST_EXACT:
        raise SchemaError(path, "numbers beyond 2^53 cannot be enforced exactly")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_constant(each, path, depth + 1)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
