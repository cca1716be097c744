"""`headrace top`: a live terminal dashboard of a server, from its /metrics only: vLLM's servers have them too."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from headrace.cli.options import debug_option
from headrace.cli.values import Number, ServerUrl
from headrace.config import api_key

if TYPE_CHECKING:
    from headrace.cli.scrape import Scrape

_WINDOW_SECONDS = 30.0
"""Rates and percentiles are those of so long"""
_KEYS = "q quit   p pause"


@click.command(short_help="Watch a running server in the terminal.")
@click.argument("url", type=ServerUrl(), default="http://127.0.0.1:8000")
@click.option(
    "--interval",
    type=Number(0.01, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame, after two looks, and end.")
@click.option("--api-key", "key", metavar="KEY", help="The server's key (also HEADRACE_API_KEY).")
@debug_option
def top(url: str, *, interval: float, once: bool, key: str | None) -> None:
    """Watch the server at URL: requests, tokens per second, latencies, KV cache, prefix hits and what each key takes.

    It reads URL/metrics and nothing else, so vLLM's servers can be watched too. Keys: q quits, p pauses.
    """
    from rich.console import Console

    from headrace.cli.scrape import fetch
    from headrace.cli.top_frame import frame

    address = f"{url}/metrics"
    key = key or api_key()
    history: deque[Scrape] = deque([fetch(address, key)], maxlen=max(int(_WINDOW_SECONDS / interval), 2))
    console = Console()
    if once or not console.is_terminal:
        time.sleep(interval)
        history.append(fetch(address, key))
        console.print(frame(history, url))
        return
    _watch(console, address, key, url, interval, history)


def _watch(console: object, address: str, key: str | None, title: str, interval: float, history: deque[Scrape]) -> None:
    from rich.console import Console
    from rich.live import Live

    from headrace.cli.scrape import fetch
    from headrace.cli.top_frame import frame

    assert isinstance(console, Console)
    is_paused, trouble = False, ""
    with (
        _keys_one_by_one(),
        Live(frame(history, title, _KEYS), console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            pressed = _pressed(interval)
            if pressed in ("q", "Q", "\x03", "\x04"):
                return
            if pressed in ("p", "P"):
                is_paused = not is_paused
            elif not is_paused:
                try:
                    history.append(fetch(address, key))
                    trouble = ""
                except click.ClickException as error:
                    trouble = error.format_message()
            note = _KEYS + ("   paused" if is_paused else "")
            live.update(frame(history, title, note, trouble), refresh=True)


@contextlib.contextmanager
def _keys_one_by_one() -> Iterator[None]:
    """Keys come without Enter, and are not shown; nothing changes where there is no terminal to read from."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin.fileno())
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    try:
        tty.setcbreak(sys.stdin.fileno())
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


def _pressed(seconds: float) -> str:
    """The key that is pressed within so long; empty without one."""
    try:
        is_ready = bool(select.select([sys.stdin], [], [], seconds)[0])
        return os.read(sys.stdin.fileno(), 1).decode("latin-1") or "q" if is_ready else ""
    except (OSError, ValueError):
        time.sleep(seconds)
        return ""
