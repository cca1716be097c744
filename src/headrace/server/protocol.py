"""uvicorn's HTTP connection with limits on what a client may send, and on how slowly it may send and read.

uvicorn waits for ever for a request's head and body, keeps head lines of any size and number, and holds what a client
does not read for as long as its connection stands. Body limits are in `body`, where errors have a dialect's shape.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from headrace.server.settings import ServerSettings

BODY_WRITER = "headrace.body_writer"
"""Where a scope's extensions have a `BodyWriter`"""
_AFTER_ANSWER_SECONDS = 5.0
"""For the rest of a body that has been answered already"""


class _Reading(Enum):
    """What of a request is expected."""

    HEAD = auto()
    BODY = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    message: str


class BodyWriter:
    """Writes parts of a streamed body at once: without the way through `send`, and before the event loop's next turn.

    `send` may be used between two writes.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def is_ready(self) -> bool:
        """Whether the body has begun and its client keeps up; else `send` has to be used, which waits."""
        cycle = self._cycle
        has_begun = cycle.chunked_encoding and not cycle.response_complete
        return bool(has_begun) and not (cycle.flow.write_paused or cycle.disconnected)

    def write(self, data: bytes) -> None:
        """Write a part, which is not empty."""
        with suppress(RuntimeError):  # "the handler is closed": a reset connection, of which it is told in a moment
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class BoundedProtocol(HttpToolsProtocol):
    """One connection; see `bounded`."""

    settings: ServerSettings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come: it is given some time to say what it wants."""
        self._reading = _Reading.HEAD
        self._num_headers = self._head_bytes = self._raw_head_bytes = 0
        self._refusal: _Refusal | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unwritten = 0
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(_Refusal(503, "The server has too many connections; try again later"))
        else:
            self._expect(_Reading.HEAD, self.settings.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._read_timer = self._write_timer = None
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request. A line of its head may come in many pieces, of which the parser says nothing."""
        was_head = self._reading is _Reading.HEAD
        super().data_received(data)
        if was_head and self._reading is _Reading.HEAD and not self.transport.is_closing():
            self._raw_head_bytes += len(data)
            if self._raw_head_bytes > self.settings.max_head_bytes:
                self._refuse(self._head_too_large())

    def send_400_response(self, msg: str) -> None:
        """What the parser cannot read, or a head that is too large."""
        self._refuse(self._refusal or _Refusal(400, msg))

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._num_headers = self._head_bytes = self._raw_head_bytes = 0
        self._expect(_Reading.HEAD, self.settings.head_seconds)

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of its head."""
        super().on_header(name, value)
        self._num_headers += 1
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Its head is there, its body comes. `body` has the time limit that clients are told of."""
        self._expect(_Reading.BODY, self.settings.body_seconds + _AFTER_ANSWER_SECONDS)
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["extensions"] = {BODY_WRITER: BodyWriter(self.cycle)}  # type: ignore[dict-item]

    def on_message_complete(self) -> None:
        """It is there."""
        self._expect(_Reading.NOTHING, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; the client may not have read all of that yet, or not have sent all of its body."""
        super().on_response_complete()
        if self._reading is _Reading.BODY:
            self._expect(_Reading.BODY, _AFTER_ANSWER_SECONDS)
        if self.transport.get_write_buffer_size():
            self._watch_writing()

    # The transport's

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to: from now on it has to get on."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _expect(self, what: _Reading, seconds: float | None) -> None:
        self._reading = what
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, self._read_too_slowly)

    def _read_too_slowly(self) -> None:
        self._read_timer = None
        if self._reading is _Reading.HEAD:
            self._refuse(_Refusal(408, "The request's head did not come in time"))
        else:
            self.transport.abort()

    def _watch_writing(self) -> None:
        if self._write_timer is None:
            self._unwritten = self.transport.get_write_buffer_size()
            self._write_timer = self.loop.call_later(self.settings.write_seconds, self._check_writing)

    def _check_writing(self) -> None:
        """Nothing is written while the transport's buffer is full, so that what is left in it only shrinks."""
        self._write_timer = None
        left = self.transport.get_write_buffer_size()
        if left and left >= self._unwritten:
            self.transport.abort()
        elif left:
            self._watch_writing()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.settings.max_head_bytes or self._num_headers > self.settings.max_headers:
            self._refusal = self._head_too_large()
            raise ValueError(self._refusal.message)  # the parser stops, and says so to `data_received`

    def _head_too_large(self) -> _Refusal:
        limits = f"{self.settings.max_head_bytes:,} bytes and {self.settings.max_headers} headers"
        return _Refusal(431, f"The request's head is too large; at most {limits} are allowed")

    def _refuse(self, refusal: _Refusal) -> None:
        """Say why, if nothing else is being said, and hang up."""
        self._expect(_Reading.NOTHING, None)
        if self.cycle is None or self.cycle.response_complete:
            body = refusal.message.encode()
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
            retry = b"retry-after: 1\r\n" if refusal.status == 503 else b""
            self.transport.write(STATUS_LINE[refusal.status] + head + retry + b"\r\n" + body)
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_writing()


def bounded(settings: ServerSettings) -> type[BoundedProtocol]:
    """The connections of a server with these limits."""
    return type("BoundedProtocol", (BoundedProtocol,), {"settings": settings})
