"""A child process with an engine in it, seen from the event loop of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import MsgspecError

from headrace.errors import EngineError
from headrace.supervise.wire import Frames, FromEngine, Start, ToEngine, decode_from_engine, encode

logger = logging.getLogger("headrace.supervise")

_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from headrace.supervise.child import run; run()"
COMMAND = (sys.executable, "-c", _CODE, str(Path(__file__).parents[2]))
"""What starts an engine's process, with the very package that this is; it gets the number of its socket as last
argument"""

_CHUNK = 1 << 20
_EXIT_SECONDS = 5
_NO_MESSAGE = "sent what is no message"


class EngineProcess:
    """One life of an engine. Starts at once; `start` says what it loads.

    Until `attach` messages are read one by one with `wait`; after it they go to `heard`, and `died` is called once,
    with the reason, when the process is gone.

    The process gets no file of this one but its socket, and is in a process group of its own: a signal to this one's
    group, as by Ctrl-C, is not for it.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, start: Start, command: Sequence[str] = COMMAND) -> None:
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno() if _has_stderr() else subprocess.DEVNULL,
                    process_group=0,
                )
        except BaseException:
            self._connection.close()
            raise
        self._frames = Frames()
        self._waiting: list[bytes] = []
        self._unsent = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: Callable[[FromEngine], None] = lambda _: None
        self._died: Callable[[str], None] = lambda _: None
        with contextlib.suppress(OSError):  # `wait` or `_read` hears that it is gone
            self._connection.sendall(encode(start))
        self.pid = self._process.pid
        self._is_killed_here = False
        self.is_killed_from_outside = False
        """Once it is gone: by SIGKILL, which an operator sends, or the system when memory is short"""

    def wait(self) -> FromEngine:
        """Block until the next message.

        Raises:
            EngineError: the process is gone.
        """
        while not self._waiting:
            try:
                data = self._connection.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                raise EngineError(f"the engine's process ended while it loaded the model: it {self._end()}")
            self._waiting.extend(self._frames.feed(data))
        try:
            return decode_from_engine(self._waiting.pop(0))
        except MsgspecError as error:
            raise EngineError(f"the engine's process {_NO_MESSAGE} ({error})") from error

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[FromEngine], None],
        died: Callable[[str], None],
    ) -> None:
        """Hear of the process in an event loop."""
        self._loop, self._heard, self._died = loop, heard, died
        self._connection.setblocking(False)
        loop.add_reader(self._connection, self._read)
        waiting, self._waiting = self._waiting, []
        self._deliver(waiting)

    def send(self, message: ToEngine) -> None:
        """Send a message; to a process that is gone it goes nowhere, and `died` will be called.

        Raises:
            EncodeFailed: nothing has been sent.
        """
        self._unsent += encode(message)
        self._write()

    def kill(self) -> None:
        """End the process at once."""
        self._is_killed_here = True
        self._process.kill()

    def abandon(self) -> None:
        """End the process and forget it, before `attach`."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    async def close(self) -> None:
        """Forget the process: it gets a moment to end by itself, as it does when the socket is closed."""
        self._detach()
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _read(self) -> None:
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._deliver(self._frames.feed(data))
        else:
            self._detach()
            self._died(self._end())

    def _deliver(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            try:
                message = decode_from_engine(payload)
            except MsgspecError as error:
                logger.error("the engine's process %s: %s", _NO_MESSAGE, error)
                self._detach()
                self.kill()
                self._died(f"{_NO_MESSAGE} and {self._end()}")
                return
            self._heard(message)

    def _write(self) -> None:
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._unsent)  # `_read` hears of the end
        del self._unsent[:sent]
        if self._loop is None or self._connection.fileno() < 0:
            return
        if self._unsent:
            self._loop.add_writer(self._connection, self._write)
        else:
            self._loop.remove_writer(self._connection)

    def _detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
        self._connection.close()

    def _end(self) -> str:
        """How the process ended; it is made to if it only closed its socket."""
        try:
            status = self._process.wait(0.1)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        self.is_killed_from_outside = status == -signal.SIGKILL and not self._is_killed_here
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False
