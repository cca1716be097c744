"""From a body to a struct: JSON, known fields that are refused, types. Every mistake names its field.

The shape of the structs is a dialect's own, and so are some of the words (`Words`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import msgspec

from headrace.errors import RequestError, UnsupportedParameter

_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<field>.*)`$", re.DOTALL)

T = TypeVar("T")

Unsupported: TypeAlias = Mapping[str, tuple[Any, ...]]
"""Fields of an API that are not implemented, and the values of each that ask for nothing, as null always does"""
NEVER: tuple[Any, ...] = ()
"""No value but null asks for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a dialect's errors say of some fields."""

    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Where a field belongs that is unknown here"""
    expected: Mapping[str, str] = field(default_factory=dict)
    """By the end of its path (or the whole path): what a field may be, where the value of another kind is refused"""
    instead: Mapping[str, str] = field(default_factory=dict)
    """What to do about an unsupported field"""


_PLAIN = Words()


def decode(body: bytes, kind: type[T], unsupported: Unsupported, words: Words = _PLAIN) -> T:
    """The body as a `kind`, after the fields that `unsupported` names.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    try:
        fields = msgspec.json.decode(body)
        if isinstance(fields, dict):
            _refuse_unsupported(fields, unsupported, words)
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), words) from None
    except msgspec.DecodeError as error:
        if not body.strip():
            raise RequestError("The body is empty, expected a JSON object") from None
        raise RequestError(f"The body is not valid JSON: {error}") from None
    except UnicodeError:
        raise RequestError("The body is not valid UTF-8") from None
    except RecursionError:
        raise RequestError("The body's JSON is nested too deeply") from None
    except OverflowError:
        raise RequestError("The body has a number that is too large") from None


def convert(value: object, kind: type[T], path: str, words: Words = _PLAIN) -> T:
    """A part of a body, which stands at `path`, as a `kind`.

    Raises:
        RequestError: it is none; `param` is the JSON path of the field at fault.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), words, path) from None


def encoded(fields: Mapping[str, Any]) -> bytes:
    """JSON again, of what `decode` gave.

    Raises:
        RequestError: it holds what JSON of other servers may hold, but no text or 64-bit number.
    """
    try:
        return msgspec.json.encode(fields)
    except OverflowError:
        raise RequestError("The body has a number that is too large") from None
    except UnicodeError:
        raise RequestError("The body is not valid UTF-8") from None
    except RecursionError:
        raise RequestError("The body's JSON is nested too deeply") from None


def written_json(text: str) -> Any:
    """JSON that a model wrote. Half of a surrogate pair, which JSON may have and what is sent may not, becomes "?".

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        value = json.loads(text)
        if "\\u" not in text:
            return value
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def value_of(body: bytes, key: str) -> Any:
    """One field of a body that nothing is known of yet; None where it is no JSON object, or has no such field."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
        return None
    return fields.get(key) if isinstance(fields, dict) else None


def has_key(body: bytes, key: str) -> bool:
    """Whether a body that nothing is known of yet has a field."""
    return f'"{key}"'.encode() in body and value_of(body, key) is not None


def _refuse_unsupported(fields: dict[str, Any], known: Unsupported, words: Words) -> None:
    """Take the known parameters out of `fields`, unless one of them asks for something."""
    for name in [name for name in fields if name in known]:
        value = fields.pop(name)
        # Types are compared too: False == 0 in Python, not in JSON.
        if value is None or any(type(value) is type(neutral) and value == neutral for neutral in known[name]):
            continue
        allowed = " or ".join(str(neutral) for neutral in known[name])
        hint = words.instead.get(name) or (f"leave it out (or send {allowed})" if allowed else "leave it out")
        raise UnsupportedParameter(f"{name} is not supported here; {hint}", param=name)


def _field_error(message: str, words: Words, above: str = "") -> RequestError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.a[0]`" into a line and a path."""
    match = _AT_PATH.match(message)
    assert match is not None
    what, path = match["what"], f"{above}{match['path'] or ''}".lstrip(".")
    if named := _NAMED_FIELD.match(what):
        path = f"{path}.{named['field']}" if path else named["field"]
        if "missing" in what:
            return RequestError(f"{path} is required", param=path)
        elsewhere = words.elsewhere.get(path)
        hint = f"it is for {elsewhere}" if elsewhere else "check its spelling or leave it out"
        return RequestError(f"{path} is not a known parameter; {hint}", param=path)
    what = what.replace("`", "").replace(" | ", " or ")
    if what.startswith("Invalid value"):
        if expected := words.expected.get(path):
            return RequestError(f"{path}: {what[0].lower()}{what[1:]}, expected {expected}", param=path)
        if expected := words.expected.get(path.rpartition(".")[2]):
            return UnsupportedParameter(f"{path}: {what[0].lower()}{what[1:]}, expected {expected}", param=path)
    return RequestError(f"{path}: {what[:1].lower()}{what[1:]}" if path else f"The body: {what}", param=path or None)
