"""What schemas are checked with: counts, names and constants, and the error that has a path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from headrace.errors import RequestError

LARGEST_EXACT = 2**53
_MOST_COUNT = 100_000
_MOST_DEPTH = 64


class SchemaError(RequestError):
    """A schema that cannot be enforced."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"structured output: {path}: {what}", param="structured")


def count(schema: Mapping[str, Any], keyword: str, path: str) -> int | None:
    """A keyword's count; None if it is not there.

    Raises:
        SchemaError: it is no count, or too large.
    """
    if keyword not in schema:
        return None
    value = schema[keyword]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SchemaError(f"{path}.{keyword}", f"expected a count, and it is {short(value)}")
    if value > _MOST_COUNT:
        raise SchemaError(f"{path}.{keyword}", f"{value:,} is more than can be enforced ({_MOST_COUNT:,})")
    return value


def copy_counts(schema: Mapping[str, Any], found: dict[str, Any], path: str, *keywords: str) -> None:
    """Take over counts."""
    for keyword in keywords:
        if (value := count(schema, keyword, path)) is not None:
            found[keyword] = value


def also(found: dict[str, Any], schema: dict[str, Any] | bool) -> None:
    """Let another schema hold too."""
    if schema is not True:
        found.setdefault("allOf", []).append(schema)


def list_of_names(value: Any, path: str) -> list[str]:
    """A list of names, checked."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise SchemaError(path, "expected a list of names")
    return value


def check_constant(value: Any, path: str, depth: int = 0) -> None:
    """Raise SchemaError if a constant cannot be enforced exactly."""
    if depth > _MOST_DEPTH:
        raise SchemaError(path, "it is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(path, "it is no JSON number")
    if isinstance(value, int | float) and abs(value) > LARGEST_EXACT:
        raise SchemaError(path, "numbers beyond 2^53 cannot be enforced exactly")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_constant(each, path, depth + 1)


def short(value: Any) -> str:
    """A value in a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
