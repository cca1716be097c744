"""Read a request's body, within a limit; and all bodies that are in memory at a time, within another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.server.errors import BodiesTooLarge, BodyTooLarge, RequestTooSlow, WrongContentType

_FREE_BYTES = 2**16
"""Of each body: as much as its connection holds in any case. What most requests are always finds room."""


class BodyRoom:
    """The room for bodies that are being read, or have not become requests of the engine yet.

    Attributes:
        max_bytes: That there is.
        num_bytes: That they take of it now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0

    def share(self) -> BodyShare:
        """The part of one body: nothing yet."""
        return BodyShare(self)

    def _take(self, size: int) -> None:
        if self.num_bytes + size > self.max_bytes:
            raise BodiesTooLarge(
                f"The server has {self.num_bytes:,} bytes of requests' bodies in memory, and at most"
                f" {self.max_bytes:,}; send the request again later"
            )
        self.num_bytes += size

    def _give_back(self, size: int) -> None:
        self.num_bytes -= size


class BodyShare:
    """What one body takes of the room, beyond the 64 KiB that each may have; leaving gives it back."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._size = self._taken = 0

    def grow(self, size: int) -> None:
        """So many bytes more have come.

        Raises:
            BodyTooLarge: there never is, even without any other body.
            BodiesTooLarge: there is none now.
        """
        self._size += size
        beyond = max(self._size - _FREE_BYTES, 0) - self._taken
        if self._taken + beyond > self._room.max_bytes:
            raise BodyTooLarge(
                f"The body has more than {self._room.max_bytes + _FREE_BYTES:,} bytes, for which this server has no"
                " room; send at most that"
            )
        if beyond:
            self._room._take(beyond)
            self._taken += beyond

    def close(self) -> None:
        """The body is gone."""
        self._room._give_back(self._taken)
        self._size = self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def read_body(
    headers: Mapping[str, str],
    receive: Receive,
    limit: int,
    media_types: Sequence[str] | None,
    share: BodyShare,
    *,
    seconds: float | None = None,
    idle_seconds: float | None = None,
) -> bytes:
    """The whole body, at most `limit` bytes, declared as one of `media_types` (None: as anything, or not at all).

    `share` grows with it.

    Raises:
        WrongContentType: it is declared as something else, or not at all.
        BodyTooLarge: it is longer than `limit`.
        BodiesTooLarge: there is no room for it among the others.
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
            return await _read(receive, limit, share, timeout, seconds, idle_seconds)
    except TimeoutError:
        raise RequestTooSlow(
            f"The body did not come in time: within {seconds} s, and no {idle_seconds} s without any of it"
        ) from None


async def _read(
    receive: Receive,
    limit: int,
    share: BodyShare,
    timeout: asyncio.Timeout,
    seconds: float | None,
    idle_seconds: float | None,
) -> bytes:
    now = asyncio.get_running_loop().time
    end = None if seconds is None else now() + seconds
    body = bytearray()  # it may come in millions of pieces
    while True:
        limits = [end, None if idle_seconds is None else now() + idle_seconds]
        timeout.reschedule(min((at for at in limits if at is not None), default=None))
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        if len(body) + len(part) > limit:
            raise BodyTooLarge(f"The body has more than {limit:,} bytes; send at most that")
        share.grow(len(part))
        body += part
        if not message.get("more_body", False):
            return bytes(body)
