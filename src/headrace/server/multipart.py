"""A form's parts (RFC 7578: multipart/form-data), of a body that has been read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import RequestError

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)
_MOST_PARTS = 32
_LONGEST_HEAD = 8192


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    content: memoryview
    filename: str | None = None

    def text(self, name: str) -> str:
        """The field's value.

        Raises:
            RequestError: it is no text.
        """
        try:
            return str(self.content, "utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"{name} is not valid UTF-8", param=name) from None


def parse_form(content_type: str, body: bytes) -> Mapping[str, Part]:
    """The fields of a form by name.

    Raises:
        RequestError: it is malformed, or has a field twice.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise RequestError("The Content-Type has no boundary, expected multipart/form-data; boundary=…")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1", "replace")
    parts: dict[str, Part] = {}
    view = memoryview(body)
    at = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _end_of(body, delimiter, 0)
    while not body.startswith(b"--", at):
        if len(parts) == _MOST_PARTS:
            raise RequestError(f"The form has more than {_MOST_PARTS} fields")
        start = body.find(b"\r\n", at, at + 200)
        head_end = body.find(b"\r\n\r\n", max(start, at), at + _LONGEST_HEAD)
        if start < 0 or head_end < 0:
            raise _malformed()
        end = body.find(delimiter, head_end + 2)  # an empty part's delimiter begins with its head's last line break
        if end < 0:
            raise _malformed()
        name, filename = _names(body[start:head_end])
        if name in parts:
            raise RequestError(f"The form has the field {name!r} twice", param=name)
        parts[name] = Part(view[min(head_end + 4, end) : end], filename)
        at = end + len(delimiter)
    return parts


def _end_of(body: bytes, delimiter: bytes, at: int) -> int:
    found = body.find(delimiter, at)
    if found < 0:
        raise _malformed()
    return found + len(delimiter)


def _names(head: bytes) -> tuple[str, str | None]:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        kind, _, value = line.partition(":")
        if kind.strip().lower() == "content-disposition":
            found = {key.lower(): _unescaped(text) for key, text in _PARAMETER.findall(value)}
            if "name" in found:
                return found["name"][:200], found.get("filename")
    raise RequestError("A part of the form has no name in its Content-Disposition")


def _unescaped(name: str) -> str:
    """Clients write quotes either way."""
    return re.sub(r"\\(.)", r"\1", name).replace("%22", '"')


def _malformed() -> RequestError:
    return RequestError("The form is malformed: it ends without its boundary, or a part has no end of its head")
