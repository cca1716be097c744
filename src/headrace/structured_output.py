"""What a request says about the form of its output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import RequestError

KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutput:
    """The form that an output must have; exactly one of the first six is given. Names and meaning are vLLM's.

    The output matches it as a whole, and is complete when it ends: see docs/structured-output.md.

    Raises:
        RequestError: none or several are given, or one is of the wrong type; `param` is "structured".
    """

    json: str | Mapping[str, Any] | bool | None = None
    """A JSON Schema, as an object or its text; kept as text."""
    json_object: bool = False
    """Any JSON object."""
    regex: str | None = None
    """A regular expression in JavaScript's syntax, without look-around and back-references."""
    choice: tuple[str, ...] | None = None
    """One of these texts."""
    grammar: str | None = None
    """A grammar in Lark's syntax, llama.cpp's GBNF or EBNF."""
    structural_tag: str | Mapping[str, Any] | None = None
    """Free text in which some tags have contents that follow a schema; an object or its text, kept as text."""
    whitespace_pattern: str | None = None
    """For JSON: a regular expression for the white space between its elements, instead of one space after , and :."""
    disable_any_whitespace: bool = False
    """For JSON: no white space at all."""
    disable_additional_properties: bool = False
    """For a JSON Schema: objects that name properties have no others, unless the schema says which."""

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False) or (name, self.json) == KINDS_FALSE]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise _wrong(f"expected exactly one of {', '.join(KINDS)}, and {found} is given")
        for name in ("json", "structural_tag"):
            object.__setattr__(self, name, _as_text(name, getattr(self, name)))  # frozen
        for name in ("regex", "grammar", "whitespace_pattern"):
            if not isinstance(getattr(self, name), str | None):
                raise _wrong(f"{name} is of type {type(getattr(self, name)).__name__}, expected text")
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(f"{name} is {getattr(self, name)!r}, expected True or False")
        if self.choice is not None:
            object.__setattr__(self, "choice", _as_choice(self.choice))
        self._check_options(given[0])

    @property
    def schema(self) -> str | None:
        """The text of the JSON Schema that is asked for, if it is one."""
        assert self.json is None or isinstance(self.json, str)
        return self.json

    @property
    def tag(self) -> str | None:
        """The text of the structural tag, if it is one."""
        assert self.structural_tag is None or isinstance(self.structural_tag, str)
        return self.structural_tag

    def _check_options(self, kind: str) -> None:
        is_json = kind in ("json", "json_object")
        for name in ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"):
            if getattr(self, name) and not is_json:
                raise _wrong(f"{name} belongs to json, and {kind} is given; leave it out")
        if self.whitespace_pattern is not None and self.disable_any_whitespace:
            raise _wrong("whitespace_pattern and disable_any_whitespace exclude each other; give one of them")


KINDS_FALSE = ("json", False)
"""The schema false is a schema (that nothing satisfies)"""


def _wrong(message: str) -> RequestError:
    return RequestError(f"structured output: {message}", param="structured")


def _as_text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Mapping | bool):
        raise _wrong(f"{name} is of type {type(value).__name__}, expected an object or its text")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(f"{name} is not JSON ({error})") from error


def _refuse(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it has a {type(value).__name__}")


def _as_choice(choice: object) -> tuple[str, ...]:
    if isinstance(choice, str) or not isinstance(choice, Iterable):
        raise _wrong(f"choice is of type {type(choice).__name__}, expected a list of texts")
    texts = tuple(choice)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise _wrong("choice expects one or more texts, none of them empty")
    return texts
