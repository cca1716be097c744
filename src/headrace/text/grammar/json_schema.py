"""JSON Schemas, checked and brought into the form that the library enforces in full.

Every keyword is known here: enforced, rewritten into enforced ones, or an annotation. Any other is refused by name and
path. What comes out uses a few keywords in a fixed order, since the library reads some of them by their order, with
references as #/$defs/N. It may allow less than the schema (properties come in its order, an integer is written 7 and
not 7.0), never more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.text.grammar.disjoint import Schema, are_disjoint, constants_of_property, first_overlap
from headrace.text.grammar.json_arrays import all_different, containing
from headrace.text.grammar.json_keywords import ANNOTATIONS, BESIDE, ENFORCED, OLD_ASSERTIONS
from headrace.text.grammar.json_references import References, Target
from headrace.text.grammar.json_scalars import Scalars, anchored, counted
from headrace.text.grammar.json_unevaluated import Silent, Unevaluated
from headrace.text.grammar.json_values import (
    SchemaError,
    also,
    copy_counts,
    count,
    list_of_names,
    short,
)
from headrace.text.grammar.negation import Narrowed, Negation, NoOppositeError, Opposite

_MOST_DEPTH = 64
_MOST_NODES = 10_000
_MOST_PROPERTIES = 1_000
"""Of one object"""
_MOST_OVERLAPPING = 8
"""Options of a oneOf of which some may hold together"""


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


class _Checker:
    """Goes once through a schema and what it refers to."""

    def __init__(self, root: Any, *, close_objects: bool) -> None:
        self._root = root
        self._close_objects = close_objects
        self._names: dict[str, str] = {}
        """What a reference leads to → its name in the new $defs"""
        self._defs: dict[str, Schema] = {}
        self._waiting: list[Target] = []
        self._num_nodes = 0
        dialect = root.get("$schema", "") if isinstance(root, dict) else ""
        self._is_old = isinstance(dialect, str) and "/draft-0" in dialect
        self._annotations = ANNOTATIONS - OLD_ASSERTIONS if self._is_old else ANNOTATIONS
        self._references = References(root, is_old=self._is_old)
        self._base = self._references.base
        self._scalars = Scalars()
        self.has_escaped_names = False
        self._one_ofs: list[tuple[str, list[Schema]]] = []
        self._opposites: list[Opposite] = []
        self._unevaluated: list[Unevaluated] = []
        try:
            text = json.dumps(root)
        except RecursionError:
            raise SchemaError("$", "it is nested too deeply; use $ref") from None
        self._has_unevaluated = '"unevaluated' in text
        self._has_references = '"$ref"' in text or '"$dynamicRef"' in text

    @property
    def examples(self) -> list[str]:
        """Texts that match the patterns."""
        return self._scalars.examples

    def run(self) -> Schema:
        """The whole."""
        found = self._node(self._root, "$", 0)
        while self._waiting:
            target = self._waiting.pop()
            self._base = target.base
            self._defs[self._names[target.key]] = self._node(target.schema, f"#{target.key.partition('#')[2]}", 0)
        for path, options in self._one_ofs:
            self._make_exclusive(path, options)
        for unevaluated in self._unevaluated:
            unevaluated.fill(self._target)
        negation = Negation(self._target)
        for opposite in self._opposites:
            try:
                negation.fill(opposite)
            except NoOppositeError as error:
                raise SchemaError(opposite.path, f"{opposite.why}{error}") from error
        if not self._defs or isinstance(found, bool):
            return found
        return {**found, "$defs": self._defs}

    def _make_exclusive(self, path: str, options: list[Schema]) -> None:
        """Of options that may hold together, each without the others."""
        if (overlap := first_overlap(options, self._defs)) is None:
            return
        why = (
            f"options {overlap[0]} and {overlap[1]} may hold together, so that exactly one cannot be enforced;"
            " use anyOf, or give them a required property with different constants"
        )
        if len(options) > _MOST_OVERLAPPING:
            raise SchemaError(path, why)
        given = list(options)
        for at, each in enumerate(given):
            rivals = (other for other_at, other in enumerate(given) if other_at != at)
            others = [other for other in rivals if not are_disjoint(each, other, self._defs)]
            options[at] = {"allOf": [each, *(self._opposite(other, path, f"{why}: ") for other in others)]}

    def _target(self, reference: str) -> Schema:
        return self._defs[reference.rpartition("/")[2]]

    def _opposite(self, schema: Schema, path: str, why: str = "this keyword cannot be enforced here: ") -> Opposite:
        self._opposites.append(Opposite(schema, path, why))
        return self._opposites[-1]

    def _node(self, schema: Any, path: str, depth: int) -> Schema:
        self._num_nodes += 1
        if self._num_nodes > _MOST_NODES:
            raise SchemaError(path, f"the schema has more than {_MOST_NODES:,} parts; make it smaller")
        if depth > _MOST_DEPTH:
            raise SchemaError(path, f"it is nested more than {_MOST_DEPTH} deep; use $ref")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError(path, f"expected a schema (an object, true or false), and it is {short(schema)}")
        self._refuse_unknown(schema, path)
        around, self._base = self._base, self._references.base_of(schema, self._base)
        found: dict[str, Any] = Narrowed() if "format" in schema else {}
        self._scalars.read(schema, found, path)
        self._arrays(schema, found, path, depth + 1)
        self._objects(schema, found, path, depth + 1)
        self._combinations(schema, found, path, depth + 1)
        self._conditions(schema, found, path, depth + 1)
        self._unlooked(schema, found, path, depth + 1)
        self._base = around
        return found

    def _condition(self, schema: Any, path: str, depth: int) -> Schema:
        """A schema that is asked about and need not hold: its objects are as open as it says."""
        closing, self._close_objects = self._close_objects, False
        found = self._node(schema, path, depth)
        self._close_objects = closing
        return found

    def _refuse_unknown(self, schema: Mapping[str, Any], path: str) -> None:
        for keyword in schema:
            if keyword not in ENFORCED | BESIDE | self._annotations and not keyword.startswith("x-"):
                raise SchemaError(f"{path}.{keyword}", "this keyword cannot be enforced; leave it out")
        own = schema.get("$id", schema.get("id"))
        if path == "$" or not isinstance(own, str) or not self._has_references:
            return
        if self._is_old or "$id" not in schema or "#" in own.rstrip("#"):
            raise SchemaError(f"{path}.$id", "a schema inside another one that has its own base for $ref; leave it out")

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
        if rest in schema:
            found["items"] = self._node(schema[rest], f"{path}.{rest}", depth)
        copy_counts(schema, found, path, "minItems", "maxItems")
        if "contains" in schema:
            also(found, self._containing(schema, path, depth))
        if not isinstance(is_unique := schema.get("uniqueItems", False), bool):
            raise SchemaError(f"{path}.uniqueItems", f"expected true or false, and it is {short(is_unique)}")
        if is_unique:
            also(found, all_different(found, f"{path}.uniqueItems"))

    def _containing(self, schema: Mapping[str, Any], path: str, depth: int) -> Schema:
        wanted = self._condition(schema["contains"], f"{path}.contains", depth)
        low, high = count(schema, "minContains", path), count(schema, "maxContains", path)
        low = 1 if low is None else low
        if wanted in (True, {}):
            return {"minItems": low} if high is None else {"minItems": low, "maxItems": high}
        other = True if high is None else self._opposite(wanted, f"{path}.maxContains")
        return containing(wanted, low, high, other, f"{path}.contains")

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
                self._scalars.pattern(name, f"{path}.patternProperties.{name}"): each
                for name, each in found["patternProperties"].items()
            }
        if "additionalProperties" in schema:
            found["additionalProperties"] = self._node(
                schema["additionalProperties"], f"{path}.additionalProperties", depth
            )
        elif self._close_objects and "properties" in schema and "unevaluatedProperties" not in schema:
            found["additionalProperties"] = False
        if "required" in schema and not isinstance(schema["required"], bool):  # draft 3 had true and false
            found["required"] = list(dict.fromkeys(list_of_names(schema["required"], f"{path}.required")))
        elif "required" in schema:
            raise SchemaError(f"{path}.required", "expected a list of names")
        names = [*found.get("properties", ()), *found.get("required", ())]
        self.has_escaped_names |= any(character < " " for name in names for character in name)
        copy_counts(schema, found, path, "minProperties", "maxProperties")
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
        if names is False:
            also(found, {"maxProperties": 0})
        elif found.keys() & {"properties", "patternProperties", "required"}:
            raise SchemaError(path, "beside named properties it cannot be enforced; leave it out")
        elif names.keys() <= {"type", "enum"} and all(isinstance(each, str) for each in names["enum"]):
            also(found, Silent(properties=dict.fromkeys(names["enum"], rest), additionalProperties=False))
        elif names.keys() <= {"type", "pattern"} or names.keys() <= {"type", "minLength", "maxLength"}:
            pattern = names.get("pattern") or anchored(f"(?s:.){counted(names)}")
            also(found, Silent(patternProperties={pattern: rest}, additionalProperties=False))
        else:
            raise SchemaError(path, "only a pattern, lengths or an enum can be enforced")

    def _combinations(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword not in schema:
                continue
            if not isinstance(schema[keyword], list) or not schema[keyword]:
                raise SchemaError(f"{path}.{keyword}", "expected a list of one or more schemas")
            if keyword == "allOf":
                is_object = schema.get("type") == "object"
                for each in self._all_of(schema[keyword], f"{path}.allOf", depth, is_object=is_object):
                    found.setdefault("allOf", []).append(each)
                continue
            options = [self._node(each, f"{path}.{keyword}[{at}]", depth) for at, each in enumerate(schema[keyword])]
            if keyword == "oneOf":
                self._one_ofs.append((f"{path}.oneOf", options))
                _add_choice(found, options)
            else:
                _add_choice(found, options)
        if "not" in schema:
            also(found, self._opposite(self._condition(schema["not"], f"{path}.not", depth), f"{path}.not"))
        for keyword, find in (("$ref", self._references.find), ("$dynamicRef", self._references.find_dynamic)):
            if keyword in schema:
                reference = self._reference(find(schema[keyword], self._base, f"{path}.{keyword}"))
                if "$ref" in found:
                    also(found, {"$ref": reference})
                else:
                    found["$ref"] = reference

    def _all_of(self, schemas: list[Any], path: str, depth: int, *, is_object: bool) -> list[Schema]:
        """All of them; those that say what holds if a property has some constant become one choice of constants."""
        found: list[Schema] = []
        cases: dict[str, list[tuple[list[Any], Schema, Schema]]] = {}
        for at, each in enumerate(schemas):
            if not isinstance(each, dict) or each.keys() != {"if", "then"}:
                found.append(self._node(each, f"{path}[{at}]", depth))
                continue
            condition = self._condition(each["if"], f"{path}[{at}].if", depth)
            then = self._node(each["then"], f"{path}[{at}].then", depth)
            name, values = constants_of_property(condition, is_object=is_object)
            known = [value for other, _, _ in cases.get(name, ()) for value in other]
            if values and are_disjoint({"enum": values}, {"enum": known}, {}):
                cases.setdefault(name, []).append((values, condition, then))
            else:
                found.append({"anyOf": [self._opposite(condition, f"{path}[{at}].if"), {"allOf": [condition, then]}]})
        for name, pairs in cases.items():
            values = [value for own, _, _ in pairs for value in own]
            condition = {"type": "object", "required": [name], "properties": {name: {"enum": values}}}
            options = ({"allOf": [condition, then]} for _, condition, then in pairs)
            found.append({"anyOf": [*options, self._opposite(condition, f"{path}.if")]})
        return found

    def _conditions(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        """If a name is there, more follows: either it is absent, or the rest holds."""
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            members = schema.get(keyword, {})
            if not isinstance(members, dict):
                raise SchemaError(f"{path}.{keyword}", "expected an object")
            for name, needs in members.items():
                if isinstance(needs, list):
                    more: Schema = {"required": [name, *list_of_names(needs, f"{path}.{keyword}.{name}")]}
                else:
                    there = {"required": [name]}
                    more = {"allOf": [there, self._node(needs, f"{path}.{keyword}.{name}", depth)]}
                _add_choice(found, [{"properties": {name: False}}, more])
        if "if" in schema and (schema.keys() & {"then", "else"} or self._has_unevaluated):
            self._alternatives(schema, found, path, depth)

    def _alternatives(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        """`if`: it holds and so does `then`, or it does not, and `else` holds."""
        condition = self._condition(schema["if"], f"{path}.if", depth)
        then, other = (self._node(schema.get(each, True), f"{path}.{each}", depth) for each in ("then", "else"))
        if not self._has_unevaluated and then is True:  # what would hold beside it does not matter
            _add_choice(found, [condition, other])
            return
        otherwise = self._opposite(condition, f"{path}.if")
        if not self._has_unevaluated and other is True:
            _add_choice(found, [otherwise, then])
        else:
            _add_choice(found, [{"allOf": [condition, then]}, {"allOf": [otherwise, other]}])

    def _unlooked(self, schema: Mapping[str, Any], found: dict[str, Any], path: str, depth: int) -> None:
        for keyword in ("unevaluatedProperties", "unevaluatedItems"):
            if keyword in schema:
                rest = self._node(schema[keyword], f"{path}.{keyword}", depth)
                self._unevaluated.append(Unevaluated(keyword, found, rest, f"{path}.{keyword}"))
                also(found, self._unevaluated[-1])

    def _reference(self, target: Target) -> str:
        """A #/$defs/… of what is brought into form later."""
        if target.key not in self._names:
            self._names[target.key] = str(len(self._names))
            self._waiting.append(target)
        return f"#/$defs/{self._names[target.key]}"


def _add_choice(found: dict[str, Any], options: list[Schema]) -> None:
    if "anyOf" in found:
        also(found, {"anyOf": options})
    else:
        found["anyOf"] = options
