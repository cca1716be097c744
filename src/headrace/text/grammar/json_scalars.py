"""What a JSON Schema says of types, numbers, texts and constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from headrace.text.grammar import regex
from headrace.text.grammar.formats import FORMATS
from headrace.text.grammar.json_values import LARGEST_EXACT, SchemaError, also, check_constant, copy_counts, short

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_LARGEST_MULTIPLE = 20_000
"""Digits of multipleOf as a whole number, all together: 0.25 counts as 25"""


class Scalars:
    """Reads the keywords for them, of all schemas of one document."""

    def __init__(self) -> None:
        self._multiple = 1
        """The least common multiple of all multipleOf without their powers of ten"""
        self.examples: list[str] = []
        """Texts that match the patterns"""

    def read(self, schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
        """Bring one schema's into `found`.

        Raises:
            SchemaError: one of them cannot be enforced or is malformed.
        """
        _types(schema, found, path)
        self._numbers(schema, found, path)
        self._strings(schema, found, path)
        _constants(schema, found, path)

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
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
                raise SchemaError(f"{path}.{keyword}", f"expected a number, and it is {short(value)}")
            if abs(value) > LARGEST_EXACT:
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
        copy_counts(schema, found, path, "minLength", "maxLength")
        patterns = []
        if "pattern" in schema:
            patterns.append(self.pattern(schema["pattern"], f"{path}.pattern"))
        if "format" in schema:
            name = schema["format"]
            if not isinstance(name, str) or name not in FORMATS:
                known = ", ".join(sorted(FORMATS))
                raise SchemaError(f"{path}.format", f"{short(name)} cannot be enforced; these can: {known}")
            patterns.append(anchored(FORMATS[name]))
        if patterns:
            found["pattern"] = patterns[0]
            for pattern in patterns[1:]:
                also(found, {"pattern": pattern})

    def pattern(self, pattern: Any, path: str) -> str:
        """An expression that is looked for anywhere, as the library takes it."""
        if not isinstance(pattern, str):
            raise SchemaError(path, f"expected a regular expression, and it is {short(pattern)}")
        try:
            found = regex.search(pattern)
        except regex.RegexError as error:
            raise SchemaError(path, f"the regular expression {short(pattern)} cannot be used: {error}") from error
        self.examples.append(found.example)
        return anchored(found.text)


def _types(schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
    if "type" not in schema:
        return
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not isinstance(types, list) or not types or any(each not in _TYPES for each in types):
        raise SchemaError(f"{path}.type", f"expected {', '.join(_TYPES)}, or a list of them")
    if "number" in types:
        types = [each for each in types if each != "integer"]
    found["type"] = types[0] if len(types) == 1 else list(dict.fromkeys(types))


def _constants(schema: Mapping[str, Any], found: dict[str, Any], path: str) -> None:
    if "enum" in schema:
        if not isinstance(schema["enum"], list) or not schema["enum"]:
            raise SchemaError(f"{path}.enum", "expected a list of one or more values")
        for at, value in enumerate(schema["enum"]):
            check_constant(value, f"{path}.enum[{at}]")
        found["enum"] = schema["enum"]
    if "const" in schema:
        check_constant(schema["const"], f"{path}.const")
        if "enum" in found:
            also(found, {"enum": [schema["const"]]})
        else:
            found["enum"] = [schema["const"]]


def anchored(expression: str) -> str:
    """What the library takes for a text as a whole."""
    return f"^(?:{expression})$"


def counted(schema: Mapping[str, Any]) -> str:
    """The lengths of a schema as a quantifier."""
    return f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"


def _is_finite(value: float) -> bool:
    return abs(value) <= 1e308  # no conversion: a whole number may be larger than any float
