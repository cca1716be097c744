"""How late the event loop is: what no request's own times show, and every stream feels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from headrace.server.histograms import Histogram

_PAUSE_SECONDS = 0.25


async def measure_lag(lag: Histogram, beside: Sequence[Callable[[], None]] = (), pause: float = _PAUSE_SECONDS) -> None:
    """Observe, until cancelled, by how much a short sleep is longer than it should be; `beside` is called as often."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(pause)
        lag.observe(max(time.perf_counter() - before - pause, 0.0))
        for call in beside:
            call()
