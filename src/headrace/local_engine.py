"""An engine in this process, each of its two halves in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from headrace.engine.stats import EngineStats
from headrace.engine.thread import EngineThread
from headrace.engine_port import EngineListener
from headrace.errors import EngineError, HeadraceError
from headrace.loaded_engine import LoadedEngine
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.types import AdapterRef, Request, StepOutput


class LocalEngine:
    """A `LoadedEngine` as an `EnginePort`."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._listener: EngineListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = EngineThread(loaded.engine, self._deliver, self._drop, self._fail)
        self._pooling_thread: EngineThread[PoolingRequest, PoolingOutput] | None = None

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop."""
        self._listener, self._loop = listener, loop

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run requests now; None when it can."""
        threads = (self._thread, self._pooling_thread)
        return next((thread.trouble for thread in threads if thread is not None and thread.trouble), None)

    def submit(self, request: Request) -> None:
        """Queue a request that has been checked.

        Raises:
            EngineError: the engine has died or is closed.
        """
        self._thread.submit(request)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step."""
        self._thread.cancel(request_id, index)

    def pool(self, request: PoolingRequest) -> None:
        """Queue a pooling request that has been checked.

        Raises:
            EngineError: the engine has died or is closed.
        """
        if self._pooling_thread is None:
            self._pooling_thread = EngineThread(
                self._loaded.pooling_engine, self._deliver_pooled, self._drop, self._fail
            )
        self._pooling_thread.submit(request)

    def cancel_pooled(self, request_id: str) -> None:
        """Drop a pooling request."""
        if self._pooling_thread is not None:
            self._pooling_thread.cancel(request_id)

    async def load_adapter(self, adapter: AdapterRef, path: str | Path) -> int:
        """Read an adapter in a thread; the engine takes it over between two steps.

        Raises:
            ModelError: it cannot be found or read, or does not fit the model.
        """
        packed = await asyncio.to_thread(self._loaded.read_adapter, path)
        self._thread.send(lambda: self._loaded.engine.load_adapter(adapter, packed))
        return packed.nbytes

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; what runs with it goes on to its end."""
        self._thread.send(lambda: self._loaded.engine.unload_adapter(adapter))

    def stats(self) -> EngineStats:
        """A snapshot, taken without waiting for a step in progress."""
        return self._loaded.stats()

    async def close(self) -> None:
        """Stop after the step in progress and wait for it."""
        await asyncio.to_thread(self._thread.close)
        if self._pooling_thread is not None:
            await asyncio.to_thread(self._pooling_thread.close)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        self._tell(lambda listener: listener.take(outputs))

    def _deliver_pooled(self, outputs: list[PoolingOutput]) -> None:
        self._tell(lambda listener: listener.take_pooled(outputs))

    def _drop(self, request_id: str, error: HeadraceError) -> None:
        self._tell(lambda listener: listener.drop(request_id, error))

    def _fail(self, error: EngineError) -> None:
        self._tell(lambda listener: listener.fail(error))

    def _tell(self, news: Callable[[EngineListener], None]) -> None:
        """Called in an engine's thread; a loop that is gone has nobody left to tell."""
        if self._loop is not None and self._listener is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(news, self._listener)
