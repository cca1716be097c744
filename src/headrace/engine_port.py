"""What an event loop needs of an engine, wherever that runs: in a thread of this process or in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from headrace.engine.stats import EngineStats
from headrace.errors import HeadraceError
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.types import AdapterRef, Request, StepOutput


class EngineListener(Protocol):
    """Who is told what an engine does; called in the event loop."""

    def take(self, outputs: Sequence[StepOutput]) -> None:
        """A step's outputs."""

    def take_pooled(self, outputs: Sequence[PoolingOutput]) -> None:
        """Pooling requests that are done."""

    def drop(self, request_id: str, error: HeadraceError) -> None:
        """A request, of either kind, that the engine gives up."""

    def fail(self, error: HeadraceError) -> None:
        """The engine is gone, and all its requests with it."""


class EnginePort(Protocol):
    """An engine seen from an event loop. Its methods return at once; outputs go to the listener, in the loop."""

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop; again with the same ones does nothing."""

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run requests now; None when it can."""

    def submit(self, request: Request) -> None:
        """Queue a request that has been checked.

        Raises:
            EngineError: the engine is gone for good.
        """

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step; unknown ids are ignored."""

    def pool(self, request: PoolingRequest) -> None:
        """Queue a pooling request that has been checked.

        Raises:
            EngineError: the engine is gone for good.
        """

    def cancel_pooled(self, request_id: str) -> None:
        """Drop a pooling request; unknown ids are ignored."""

    async def load_adapter(self, adapter: AdapterRef, path: str | Path) -> int:
        """Read an adapter beside the running steps and take it into use; returns its size in bytes.

        Raises:
            ModelError: it cannot be found or read, or does not fit the model.
        """

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; what runs with it goes on to its end."""

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters."""

    async def close(self) -> None:
        """Stop after the step in progress."""
