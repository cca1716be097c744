"""The arguments of a call that was broken off, as far as they go."""

from __future__ import annotations

from typing import Any

from headrace.server.dialects.decode import written_json

_CLOSE = {"{": "}", "[": "]"}


def read_object(text: str) -> Any:
    """The JSON in `text`; of a text that is broken off all members and items that are whole, and at least {}."""
    try:
        return written_json(text)
    except ValueError:
        pass
    try:
        return written_json(_closed(text))
    except ValueError:
        return {}


def _closed(text: str) -> str:
    """The text up to the last place where brackets may be closed, with them closed."""
    open_brackets: list[str] = []
    in_string = is_escaped = False
    end = 0
    for at, char in enumerate(text):
        if in_string:
            in_string = is_escaped or char != '"'
            is_escaped = char == "\\" and not is_escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            open_brackets.append(_CLOSE[char])
            end = at + 1
        elif char in "}]" and open_brackets:
            open_brackets.pop()
            end = at + 1
        elif char == ",":
            end = at
    return text[:end] + "".join(reversed(open_brackets))
