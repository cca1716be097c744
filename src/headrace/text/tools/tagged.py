"""Arguments between tags, as the JSON object that clients get."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from headrace.text.tools.format import TaggedCall
from headrace.text.tools.scan import MORE, NO, match_parts, num_held, skip_space, split_marker

_MOST_REFERENCES = 16
_MOST_BRANCHINGS = 4
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


class TaggedArguments:
    """Reads pairs of key and value up to what is no pair. A string's text is given out as it comes, as JSON."""

    def __init__(self, body: TaggedCall, schema: Mapping[str, Any]) -> None:
        self._open = split_marker(body.open)
        self._middle = split_marker(body.middle)
        self._close = body.close.strip()
        self._line_before = body.middle.endswith("\n")
        self._line_after = body.close.startswith("\n")
        properties = schema.get("properties")
        found = properties if isinstance(properties, Mapping) else {}
        self._properties: Mapping[str, Any] = {key: resolved(each, schema) for key, each in found.items()}
        self._num_pairs = 0
        self._key: str | None = None
        self._is_text = False
        self._at_start = False
        self.has_ended = False

    def push(self, text: str) -> tuple[str, int]:
        """(JSON that is final, how many characters are done with); nothing is done where more has to come first."""
        return self._read_key(text) if self._key is None else self._read_value(text)

    def _read_key(self, text: str) -> tuple[str, int]:
        at = match_parts(text, 0, self._open)
        if at == NO:
            self.has_ended = True
            return "}" if self._num_pairs else "{}", 0
        end = MORE if at == MORE else text.find(self._middle[0], at)
        end_of_middle = MORE if end < 0 else match_parts(text, end, self._middle)
        if end_of_middle < 0 or end_of_middle == len(text):
            return "", 0
        if self._line_before and text[end_of_middle] == "\n":
            end_of_middle += 1
        key = text[at:end].strip()
        self._key = key
        self._is_text = _is_string_only(self._properties.get(key))
        piece = ", " if self._num_pairs else "{"
        self._num_pairs += 1
        return f"{piece}{_dump(key)}: " + ('"' if self._is_text else ""), end_of_middle

    def _read_value(self, text: str) -> tuple[str, int]:
        end = text.find(self._close)
        if end < 0:
            if not self._is_text:
                return "", 0
            done = len(text) - num_held(text, self._close)
            done -= self._line_after and text[:done].endswith("\n")
            return _dump(text[:done])[1:-1], done
        value = text[:end]
        if self._line_after and value.endswith("\n"):
            value = value[:-1]
        schema = self._properties.get(self._key or "")
        piece = _dump(value)[1:-1] + '"' if self._is_text else _dump(_read(value, schema))
        self._key = None
        return piece, end + len(self._close)

    def skip_space(self, text: str) -> int:
        """Spaces between pairs."""
        return 0 if self._key is not None else skip_space(text, 0)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _types(schema: Any) -> set[str]:
    """The JSON types that a schema names; empty if it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, list):
        return {each for each in named if isinstance(each, str)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {name for name, kind in _KINDS.items() if any(isinstance(value, kind) for value in values)}
    lists = (schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list))
    branches = [branch for found in lists for branch in found]
    each = [_types(branch) for branch in branches]
    return set().union(*each) if each and all(each) else set()


def resolved(schema: Any, whole: Mapping[str, Any], depth: int = 0) -> Any:
    """A schema with what it, or each of its branches, refers to in `whole`, such as #/$defs/Unit, in its place."""
    for _ in range(_MOST_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found: Any = whole
        for key in reference[2:].split("/"):
            found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            break
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    if isinstance(schema, Mapping) and depth < _MOST_BRANCHINGS:
        branches = {key: schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)}
        further = {key: [resolved(each, whole, depth + 1) for each in found] for key, found in branches.items()}
        schema = {**schema, **further} if further else schema
    return schema


def is_text(schema: Any) -> bool:
    """Whether a value may be a string, so that its text may be anything."""
    types = _types(schema)
    return not types or "string" in types


def _is_string_only(schema: Any) -> bool:
    return _types(schema) == {"string"}


def _read(text: str, schema: Any) -> Any:
    """A value that may be something else than a string: JSON or Python's notation, whatever fits the schema."""
    types = _types(schema)
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
            json.dumps(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if not types or value is None or _fits(value, types):
            return text if isinstance(value, str) and not types else value
    return text


def _fits(value: Any, types: set[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _KINDS[name]) for name in types & _KINDS.keys() - {"boolean"})
