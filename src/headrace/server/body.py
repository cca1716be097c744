"""Read a request's body, within a limit."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from headrace.server.errors import BodyTooLarge, WrongContentType


async def read_json_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, at most `limit` bytes. It is declared as JSON; whether it is, the dialect's parse says.

    Requiring the content type also keeps web pages of other origins from posting here: a browser asks first.

    Raises:
        WrongContentType: it is declared as something else, or not at all.
        BodyTooLarge: it is longer than `limit`.
        ClientDisconnect: the client left.
    """
    headers = Headers(scope=scope)
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType(f"Content-Type is {content_type!r}, expected application/json")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"The body has {int(declared):,} bytes, expected at most {limit:,}")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"The body has more than {limit:,} bytes; send at most that")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
