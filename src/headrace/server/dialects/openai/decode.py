"""From a body to a struct: JSON, known fields that are refused, types. Every mistake names its field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.openai.unsupported import refuse_unsupported

_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<field>.*)`$", re.DOTALL)
_TAGS = {"role": "system, developer, user, assistant, tool or function", "type": "text: other content is not supported"}
_FORMATS = "text, json_object, json_schema or structural_tag"
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("messages", "tools", "tool_choice", "reasoning_effort"), "/v1/chat/completions"),
    **dict.fromkeys(("prompt", "best_of"), "/v1/completions"),
}
"""Where a parameter belongs that was sent to another path"""

T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes, kind: type[T], unsupported: Mapping[str, tuple[Any, ...]]) -> T:
    """The body as a `kind`, after the fields that `unsupported` names.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    try:
        fields = msgspec.json.decode(body)
        if isinstance(fields, dict):
            refuse_unsupported(fields, unsupported)
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None
    except UnicodeError:
        raise RequestError("The body is not valid UTF-8") from None
    except RecursionError:
        raise RequestError("The body's JSON is nested too deeply") from None
    except OverflowError:
        raise RequestError("The body has a number that is too large") from None


def _field_error(message: str) -> RequestError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.a[0]`" into a line and a path."""
    match = _AT_PATH.match(message)
    assert match is not None
    what, path = match["what"], (match["path"] or "").lstrip(".")
    if named := _NAMED_FIELD.match(what):
        path = f"{path}.{named['field']}" if path else named["field"]
        if "missing" in what:
            return RequestError(f"{path} is required", param=path)
        elsewhere = _ELSEWHERE.get(path)
        hint = f"it is for {elsewhere}" if elsewhere else "check its spelling or leave it out"
        return RequestError(f"{path} is not a known parameter; {hint}", param=path)
    what = what.replace("`", "").replace(" | ", " or ")
    if path == "response_format.type" and what.startswith("Invalid value"):
        return RequestError(f"{path}: {what[0].lower()}{what[1:]}, expected {_FORMATS}", param=path)
    if what.startswith("Invalid value") and (expected := _TAGS.get(path.rpartition(".")[2])):
        return UnsupportedParameter(f"{path}: {what[0].lower()}{what[1:]}, expected {expected}", param=path)
    return RequestError(f"{path}: {what[:1].lower()}{what[1:]}" if path else f"The body: {what}", param=path or None)
