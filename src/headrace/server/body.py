"""Read a request's body, within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.server.errors import BodyTooLarge, RequestTooSlow, WrongContentType


async def read_body(
    headers: Mapping[str, str],
    receive: Receive,
    limit: int,
    media_types: Sequence[str] | None,
    *,
    seconds: float | None = None,
    idle_seconds: float | None = None,
) -> bytes:
    """The whole body, at most `limit` bytes, declared as one of `media_types` (None: as anything, or not at all).

    Raises:
        WrongContentType: it is declared as something else, or not at all.
        BodyTooLarge: it is longer than `limit`.
        RequestTooSlow: it takes longer than `seconds`, or nothing of it comes for `idle_seconds`.
        ClientDisconnect: the client left.
    """
    content_type = headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if media_types is not None and kind not in media_types:
        raise WrongContentType(f"Content-Type is {content_type!r}, expected {' or '.join(media_types)}")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"The body has {int(declared):,} bytes, expected at most {limit:,}")
    try:
        async with asyncio.timeout(None) as timeout:
            return await _read(receive, limit, timeout, seconds, idle_seconds)
    except TimeoutError:
        raise RequestTooSlow(
            f"The body did not come in time: within {seconds} s, and no {idle_seconds} s without any of it"
        ) from None


async def _read(
    receive: Receive, limit: int, timeout: asyncio.Timeout, seconds: float | None, idle_seconds: float | None
) -> bytes:
    now = asyncio.get_running_loop().time
    end = None if seconds is None else now() + seconds
    parts: list[bytes] = []
    size = 0
    while True:
        limits = [end, None if idle_seconds is None else now() + idle_seconds]
        timeout.reschedule(min((at for at in limits if at is not None), default=None))
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
