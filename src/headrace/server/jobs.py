"""What runs on without a client that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Jobs:
    """Tasks of the server's own; it holds them, and ends them when it stops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._promised: set[asyncio.Task[Any]] = set()

    @property
    def has_promised(self) -> bool:
        """Whether something runs that a client counts on: a server that stops gives it time, as it does to streams."""
        return bool(self._promised)

    def start(self, job: Coroutine[Any, Any, Any], *, is_promised: bool = False) -> asyncio.Task[Any]:
        """Run `job` beside the others."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        if is_promised:
            self._promised.add(task)
        task.add_done_callback(self._forget)
        return task

    async def close(self) -> None:
        """Cancel all, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._promised.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it was told
