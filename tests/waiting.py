"""Waiting for what will happen; with an end that is far away, for a machine that has much other work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Asked = TypeVar("Asked")
SECONDS = 60.0


def asked_until(ask: Callable[[], Asked], holds: Callable[[Asked], object], seconds: float = SECONDS) -> Asked:
    """What `ask` gives, again and again, once that holds of it."""
    end = time.monotonic() + seconds
    while not holds(answer := ask()):
        assert time.monotonic() < end, f"it is still {answer}"
        time.sleep(0.002)
    return answer


def wait_until(happened: Callable[[], object]) -> None:
    """In a thread."""
    asked_until(happened, bool)


async def until(happened: Callable[[], object]) -> None:
    """In an event loop, which goes on."""
    async with asyncio.timeout(SECONDS):
        while not happened():
            await asyncio.sleep(0.002)
