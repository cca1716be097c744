"""A client for load: one thread, one selector, and no parsing before an answer is whole, as it may share the machine
with the server."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from headrace.errors import ConfigError

_END = b"\r\n0\r\n\r\n"  # ends a chunked body; no header line is "0", and events have no such lines
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_DECIMAL = re.compile(rb"[0-9]{1,18}")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{1,15}")
_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class Job:
    """One request to send, `at` seconds after the start."""

    at: float
    body: bytes
    is_shortened: bool = False
    """A trace had it longer"""


@dataclass(slots=True)
class Answer:
    """What came back. Times are of time.perf_counter(), in seconds."""

    job: Job
    sent: float
    times: list[float] = field(default_factory=list)
    """Of each event that said something; events of one read have the same"""
    ended: float = 0.0
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    """By the server's own usage: several may come in one event"""
    parts: list[tuple[bytes, float]] = field(default_factory=list)
    """What was read and when, until the end"""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.sent

    @property
    def per_token(self) -> float:
        """Mean seconds of a token after the first."""
        return (self.times[-1] - self.times[0]) / max(self.tokens - 1, 1)

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return self.times[-1] - self.sent

    def finish(self, broken: str | None) -> None:
        """Read what came, and give up the bytes. `broken` says why there is no more of it."""
        self.ended = time.perf_counter()
        parts, self.parts = self.parts, []
        self.error = broken
        body = b"".join(data for data, _ in parts)
        if not body.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) and body:
            self.error = _said(body)[:_LONGEST_ERROR]
        if self.error is not None:
            return
        try:
            self._read(parts)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            self.error = f"the answer cannot be read ({error}): {body[-300:]!r}"
        if self.error is None and (not self.tokens or not self.times):
            self.error = f"the answer has no usage, or no tokens: {body[-300:]!r}"

    def _read(self, parts: list[tuple[bytes, float]]) -> None:
        rest = b""
        for data, when in _payload(parts):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    self._take(_event.decode(line[5:]), when)

    def _take(self, event: _Event, when: float) -> None:
        if event.error is not None:
            self.error = _message_in(event.error)[:_LONGEST_ERROR]
        if any(choice.says_something() for choice in event.choices):
            self.times.append(when)
        if event.usage is not None:
            self.prompt_tokens, self.tokens = event.usage.prompt_tokens, event.usage.completion_tokens
            self.cached_tokens = (event.usage.prompt_tokens_details or {}).get("cached_tokens") or 0


def _said(answer: bytes) -> str:
    """The status and the message of an answer that is an error."""
    head, _, body = answer.partition(_HEAD_END)
    status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
    try:
        said = _message_in(msgspec.json.decode(body))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        said = body.decode("utf-8", "replace").strip()
    return f"{status}: {said}" if said else status


def _message_in(error: Any) -> str:
    """The words in an error of any API: {"error": {"message"}}, {"message"}, {"error"}, {"detail"}."""
    while isinstance(error, dict):
        found = next((error[name] for name in ("error", "message", "detail") if error.get(name)), None)
        if found is None:
            break
        error = found
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None

    def says_something(self) -> bool:
        """Whether it comes with tokens: a role alone does not."""
        delta = self.delta or {}
        shown = any(value for key, value in delta.items() if key != "role")
        return bool(self.text or shown or self.token_ids or self.finish_reason)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


def _payload(parts: list[tuple[bytes, float]]) -> Iterator[tuple[bytes, float]]:
    """The body without its head and chunk sizes, in pieces, with the time at which each was whole.

    Raises:
        ValueError: it has no head, or its chunks are not as their sizes say.
    """
    data = b"".join(each for each, _ in parts)
    at = data.index(_HEAD_END) + len(_HEAD_END)
    is_chunked = _CHUNKED.search(data, 0, at) is not None
    reads = iter(parts)
    read_end, when = 0, 0.0
    while at < len(data):
        size = len(data) - at
        if is_chunked:
            line_end = data.index(b"\r\n", at)
            said = data[at:line_end].partition(b";")[0].strip()
            at = line_end + 2
            size = int(said, 16) if _HEXADECIMAL.fullmatch(said) else len(data)
            if at + size > len(data):
                raise ValueError(f"a chunk of {said[:40]!r} bytes")
            if not size:
                return
        while read_end < at + size:
            read, when = next(reads)
            read_end += len(read)
        yield data[at : at + size], when
        at += size + 2 * is_chunked


class Client:
    """Sends requests and collects answers. `on_done` is called with each finished answer.

    Args:
        url: Where the server is, without the path: "http://127.0.0.1:8000".
        path: Of the requests.
        on_done: Called in `poll`.
        key: Sent as a bearer token.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str, path: str, on_done: Callable[[Answer], None], key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no address; write it as http://HOST:PORT")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._head = (
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}"
            "Content-Type: application/json\r\n"
        )
        self._on_done = on_done
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[int, socket.socket] = {}
        self._answers: dict[int, Answer] = {}
        self._idle: list[int] = []
        self._used: set[int] = set()
        """Connections that have brought an answer: the server may close those at any time"""

    @property
    def num_open(self) -> int:
        """Requests that have not been answered."""
        return len(self._answers)

    def send(self, job: Job) -> None:
        """Send a request on an idle connection, or on a new one."""
        self._send(Answer(job, time.perf_counter()))

    def _send(self, answer: Answer) -> None:
        if self._idle:
            number = self._idle.pop()
        else:
            try:
                number = self._connect()
            except OSError as error:
                answer.finish(f"cannot connect: {error}")
                self._on_done(answer)
                return
        self._answers[number] = answer
        head = f"{self._head}Content-Length: {len(answer.job.body)}\r\n\r\n"
        with contextlib.suppress(
            ConnectionError, ssl.SSLError
        ):  # the server has closed an idle connection; the next read says so
            self._sockets[number].sendall(head.encode() + answer.job.body)

    def poll(self, seconds: float) -> None:
        """Take what has come, waiting at most so long for it."""
        for key, _ in self._selector.select(max(seconds, 0)):
            self._take(key.fd)

    def close(self) -> None:
        """Close all connections; what is open is given up."""
        for number in list(self._sockets):
            self._close(number)
        self._selector.close()

    def _take(self, number: int) -> None:
        data = self._receive(number)
        if data is None:
            return
        now = time.perf_counter()
        answer = self._answers.get(number)
        if answer is None:  # an idle connection that the server has closed
            self._close(number)
            self._idle.remove(number)
            return
        if not data and not answer.parts and number in self._used:  # it closed while the request was on its way
            self._close(number)
            del self._answers[number]
            self._send(answer)
            return
        answer.parts.append((data, now))
        try:
            if not data:
                self._finish(number, answer, _cut_short(answer.parts))
            elif _is_whole(answer.parts):
                self._finish(number, answer, None)
        except _Malformed as error:
            self._finish(number, answer, str(error))

    def _receive(self, number: int) -> bytes | None:
        """What has come; None where that is nothing of an answer, but TLS's own: waiting for more would stop all."""
        connection = self._sockets[number]
        connection.setblocking(False)
        try:
            data = connection.recv(1 << 18)
            while isinstance(connection, ssl.SSLSocket) and connection.pending():
                data += connection.recv(1 << 18)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except (ConnectionError, ssl.SSLError):
            return b""
        finally:
            connection.setblocking(True)
        return data

    def _finish(self, number: int, answer: Answer, broken: str | None) -> None:
        del self._answers[number]
        is_closed = broken is not None or not answer.parts[-1][0]
        if is_closed:
            self._close(number)
        else:
            self._idle.append(number)
            self._used.add(number)
        answer.finish(broken)
        self._on_done(answer)

    def _connect(self) -> int:
        connection = socket.create_connection(self._address, timeout=60)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_hostname=self._host)
        self._sockets[connection.fileno()] = connection
        self._selector.register(connection, selectors.EVENT_READ)
        return connection.fileno()

    def _close(self, number: int) -> None:
        self._used.discard(number)
        connection = self._sockets.pop(number)
        self._selector.unregister(connection)
        connection.close()


class _Malformed(Exception):
    """An answer of which nobody can say where it ends."""


def _length(head: bytes) -> int | None:
    """What a head says of its body's length; None where that is nothing.

    Raises:
        _Malformed: it is no number.
    """
    found = _LENGTH.search(head)
    if found is None:
        return None
    said = found[1].strip()
    if not _DECIMAL.fullmatch(said):
        raise _Malformed(f"the answer's Content-Length is {said[:40].decode('latin-1')!r}, expected a number of bytes")
    return int(said)


def _is_whole(parts: list[tuple[bytes, float]]) -> bool:
    """Whether an answer has ended; the end of a chunked one may come in pieces.

    Raises:
        _Malformed: it does not say where.
    """
    last = parts[-1][0]
    if last.endswith(_END) or (len(last) < len(_END) and b"".join(p for p, _ in parts[-7:]).endswith(_END)):
        return True
    if not parts[0][0].startswith(b"HTTP/1.") or len(parts) > 64:
        return False
    data = b"".join(each for each, _ in parts)
    head, found, body = data.partition(_HEAD_END)
    length = _length(head) if found else None
    return length is not None and len(body) >= length


def _cut_short(parts: list[tuple[bytes, float]]) -> str | None:
    """What is missing of an answer whose connection was closed; None if that is how it ends, as no length is said."""
    head = b"".join(each for each, _ in parts).partition(_HEAD_END)[0]
    if not head:
        return "the server closed the connection without an answer"
    has_length = _CHUNKED.search(head) or _LENGTH.search(head)
    return "the server closed it in the middle of an answer" if has_length else None
