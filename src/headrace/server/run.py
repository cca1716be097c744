"""Serve until told to stop: uvicorn on a socket of our own, graceful on the first signal, at once on the second."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from headrace.errors import ConfigError
from headrace.server.access import check_keys
from headrace.server.app import App, create_app
from headrace.server.heaps import bound_heaps
from headrace.server.protocol import bounded
from headrace.server.settings import ServerSettings
from headrace.server.stored.folder import Folder
from headrace.server.traces import traces_to

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

logger = logging.getLogger("headrace.server")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_CLOSING_SECONDS = 2
"""For the last bytes of answers, once all requests have ended"""
_LOOK_SECONDS = 0.05
_OTHER_FILES = 256
"""That are open besides connections"""
_YOUNG_OBJECTS = 10_000
"""That may be made before the garbage collector looks for cycles among them"""
_KEEP_ALIVE_SECONDS = 65  # longer than the minute that clients and proxies keep idle connections


def run_server(
    llm: AsyncLLM,
    host: str,
    port: int,
    served_name: str,
    settings: ServerSettings | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve `llm` until SIGINT or SIGTERM, then close it. Blocks; call it in the main thread.

    The first signal makes /health/ready 503; requests are served for `settings.drain_seconds` more, then none is taken
    and open ones may finish, for at most `settings.shutdown_seconds`. A second signal ends the process at once (exit
    status 128 + signal, as a shell reports it).

    Args:
        llm: The engine; closed at the end.
        host: Address or name to listen on; "0.0.0.0" and "::" are every interface.
        port: 0 picks a free one.
        served_name: The model's name in requests and answers.
        settings: What the server allows.
        announce: Gets one line with the address once the server listens; None writes it to standard output.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    bound_heaps()
    with listen(host, port) as listener:
        address = url(listener)
        if settings is not None and settings.tls_certificate is not None:
            address = address.replace("http://", "https://", 1)
        line = f"headrace serves {served_name} at {address}"
        server = make_server(llm, served_name, settings)
        _allow_connections((settings or ServerSettings()).max_connections)
        server.on_started = lambda: (announce or _write_line)(line)
        _spare_the_collector()
        server.run(sockets=[listener])


def check_settings(host: str, port: int, settings: ServerSettings) -> None:
    """Find what would keep a server from starting before its model is loaded, which may take a while.

    Raises:
        ConfigError: there is such a thing.
    """
    listen(host, port).close()
    check_keys((*settings.api_keys, *settings.admin_keys), settings.api_key_file)
    _check_tls(settings)
    if settings.otlp_endpoint is not None:
        traces_to(settings.otlp_endpoint).close()
    if settings.store_folder is not None and not settings.store_is_optional:
        Folder(settings.store_folder).close()


def _check_tls(settings: ServerSettings) -> None:
    if settings.tls_certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the certificate {settings.tls_certificate} or its key cannot be used ({error}); give PEM files that are"
            " a pair"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the name is unknown, or the port is taken or not allowed.
    """
    where = f"{host} port {port}"
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}, expected from 0 to 65535; choose another with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"{where} is not an address to listen on ({error}); choose another with --host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {where}: {reason}; choose another with --port or --host") from None
    return listener


def url(listener: socket.socket) -> str:
    """The address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(llm: AsyncLLM, served_name: str, settings: ServerSettings | None = None) -> Server:
    """A uvicorn server for `llm`, not yet running: `server.run(sockets=[listener])`, or `serve` in a loop."""
    settings = ServerSettings() if settings is None else settings
    app = create_app(llm, served_name, settings)
    config = uvicorn.Config(
        _for_browsers(app, settings.cors_origins),
        loop="auto",
        http=bounded(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    _check_tls(settings)
    config.load()
    return Server(config, app, settings)


def _for_browsers(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins ask; without any, no page may."""
    if not origins:
        return app
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["x-request-id"]
    )


class Server(uvicorn.Server):
    """uvicorn with our signals: after them `run` returns, instead of dying of the signal in the middle of cleaning up.

    Attributes:
        on_started: Called once the server listens.
    """

    def __init__(self, config: uvicorn.Config, app: App, settings: ServerSettings) -> None:
        super().__init__(config)
        self._app = app
        self._draining = app.draining
        self._settings = settings
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets=list(sockets or ()))
        if self.started:
            self.on_started()

    async def main_loop(self) -> None:
        """Serve until told to stop; then, still listening, let what is open come to its end, and end the rest."""
        await super().main_loop()
        self._draining.begin()
        settings = self._settings
        if settings.drain_seconds:
            _say_stopping(f"not ready any more; requests are served for {settings.drain_seconds:g} s")
        await self._keep_serving(settings.drain_seconds, until_idle=False)
        self._draining.close()
        if count := len(self.server_state.tasks):
            seconds = settings.shutdown_seconds
            _say_stopping(f"{_requests(count)} open, with {seconds:g} s to finish; a second signal ends all at once")
        await self._keep_serving(settings.shutdown_seconds, until_idle=True)
        late = list(self.server_state.tasks)
        for task in late:
            task.cancel()
        if late:
            _say_stopping(f"{_requests(len(late))} still open, and given an error", logging.WARNING)
            await asyncio.wait(late, timeout=_CLOSING_SECONDS)

    async def _keep_serving(self, seconds: float, *, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end and not (until_idle and self._is_idle):
            await self.on_tick(0)  # the date in answers' headers
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def _is_idle(self) -> bool:
        return not self.server_state.tasks and not self._app.has_promised

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while the server runs; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """The first signal stops gracefully, the second at once."""
        if self.should_exit:
            os._exit(128 + sig)  # nothing is waited for, not even the engine's step
        self._draining.begin()
        self.should_exit = True


def _say_stopping(line: str, level: int = logging.INFO) -> None:
    logger.log(level, "stopping: %s", line, extra={"facts": {"event": "stopping"}})


def _requests(count: int) -> str:
    return "1 request is" if count == 1 else f"{count} requests are"


def _allow_connections(number: int) -> None:
    """Every connection takes a file descriptor, of which a process often may have 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(number + _OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _spare_the_collector() -> None:
    """The model's tokenizer and all code are there to stay: the garbage collector need not look through them again and
    again, which takes tens of milliseconds, for all streams. What requests leave behind is hardly ever a cycle, and
    what is young is mostly theirs that run: it need not look at that every few requests either."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
