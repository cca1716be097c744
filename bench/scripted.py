"""What engines by script have in common: an `EnginePort` that keeps open requests and steps in the event loop."""

from __future__ import annotations

import asyncio

from headrace.engine.stats import EngineStats
from headrace.engine_port import EngineListener
from headrace.types import Request


class ScriptedPort:
    """Requests by id, each with the number of its tokens so far; what a turn of the loop gives them says `_step`."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._open: dict[str, tuple[Request, int]] = {}
        self._listener: EngineListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stepping = False

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop."""
        self._listener, self._loop = listener, loop

    def submit(self, request: Request) -> None:
        """Queue a request."""
        assert self._loop is not None
        self._open[request.id] = (request, 0)
        if not self._is_stepping:
            self._is_stepping = True
            self._loop.call_soon(self._step)

    def cancel(self, request_id: str, index: int | None = None) -> None:  # noqa: ARG002
        """Drop a request."""
        self._open.pop(request_id, None)

    def stats(self) -> EngineStats:
        """Nothing."""
        return EngineStats.none()

    async def close(self) -> None:
        """Nothing to close."""

    def _step(self) -> None:
        raise NotImplementedError
