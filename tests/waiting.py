"""Waiting for what will happen; with an end that is far away, for a machine that has much other work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 60.0


def wait_until(happened: Callable[[], object]) -> None:
    """In a thread."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


async def until(happened: Callable[[], object]) -> None:
    """In an event loop, which goes on."""
    async with asyncio.timeout(SECONDS):
        while not happened():
            await asyncio.sleep(0.002)
