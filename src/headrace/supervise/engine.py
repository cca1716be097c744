"""An engine in a process of its own, which is started again when it dies, and then goes on where it was.

Everything that the new process needs to go on is here: the requests and what each has given. Determinism does the rest:
what follows is what would have followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headrace.config import EngineConfig
from headrace.engine.stats import EngineStats, counting_on
from headrace.engine_port import EngineListener
from headrace.errors import EngineError, HeadraceError
from headrace.hub.files import ModelFiles
from headrace.loaded_engine import EngineFacts
from headrace.pooled import PoolingRequest
from headrace.supervise.ledger import Ledger
from headrace.supervise.lives import Lives, Restarts, Supervision
from headrace.supervise.process import EngineProcess
from headrace.supervise.wire import (
    AdapterFailed,
    AdapterLoaded,
    Beat,
    Cancel,
    CancelPooled,
    Close,
    Died,
    Dropped,
    FromEngine,
    LoadAdapter,
    Loaded,
    LoadFailed,
    Pool,
    Pooled,
    Start,
    Stepped,
    Submit,
    UnloadAdapter,
)
from headrace.types import AdapterRef, Request

logger = logging.getLogger("headrace.supervise")

_CHECK_SECONDS = 0.5


class SupervisedEngine:
    """An `EnginePort`. The process is started at once; `wait` until it has loaded the model.

    Args:
        files: The model.
        config: How the engine runs.
        adapters: Folders of adapters, by what requests call them.
        supervision: How the process is watched.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: EngineConfig,
        adapters: Mapping[AdapterRef, str | Path],
        supervision: Supervision | None = None,
    ) -> None:
        self._files = files
        self._config = config
        self._supervision = Supervision() if supervision is None else supervision
        self._adapters = {adapter: str(path) for adapter, path in adapters.items()}
        self._leaving: set[AdapterRef] = set()
        """Unloaded, and still in use"""
        self._loading: dict[AdapterRef, asyncio.Future[int]] = {}
        self._restoring: set[AdapterRef] = set()
        """What a new process has to load before it gets requests"""
        self._ledger = Ledger()
        self._listener: EngineListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None
        self._trouble: str | None = "the model is being loaded"
        self._is_gone = False
        self._stats_before: EngineStats | None = None
        self._stats: EngineStats | None = None
        self._last_words: str | None = None
        self._lives = Lives(self._supervision)
        self._process: EngineProcess | None = self._start(config, list(self._adapters.items()))

    def wait(self) -> EngineFacts:
        """Block until the model is loaded for the first time.

        Raises:
            ModelError, ConfigError: it cannot be.
            EngineError: the process died of it.
        """
        assert self._process is not None
        message = self._process.wait()
        if isinstance(message, LoadFailed):
            raise message.fault.error()
        assert isinstance(message, Loaded)
        plan = message.facts.plan
        # A later process has the same room, whatever memory is free then
        self._config = replace(self._config, kv_memory=plan.num_blocks * plan.block_bytes, max_context=plan.max_context)
        self._trouble = None
        self._lives.loaded()
        return message.facts

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop; again with the same ones does nothing."""
        if self._loop is loop:
            return
        assert self._loop is None, "an engine's process belongs to one event loop"
        self._listener, self._loop = listener, loop
        if self._process is not None:
            self._process.attach(loop, self._heard, self._died)
        self._lives.loaded()  # nobody listened until now
        self._watch = loop.create_task(self._keep_watch())

    @property
    def restarts(self) -> Restarts:
        """What has been seen of deaths and restarts."""
        return self._lives.restarts

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run requests now; None when it can."""
        return self._trouble

    def submit(self, request: Request) -> None:
        """Queue a request that has been checked; while the engine is started again it waits.

        Raises:
            EngineError: the engine is closed, or cannot be started.
        """
        self._open(request)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step; unknown ids are ignored."""
        if index is None or self._ledger.end_completion(request_id, index):
            index = None
            self._end(request_id)
        if self._process is not None:
            self._process.send(Cancel(request_id, index))
        self._admit()

    def pool(self, request: PoolingRequest) -> None:
        """Queue a pooling request that has been checked.

        Raises:
            EngineError: the engine is closed, or cannot be started.
        """
        self._open(request)

    def cancel_pooled(self, request_id: str) -> None:
        """Drop a pooling request; unknown ids are ignored."""
        self._end(request_id)
        if self._process is not None:
            self._process.send(CancelPooled(request_id))
        self._admit()

    async def load_adapter(self, adapter: AdapterRef, path: str | Path) -> int:
        """Read an adapter beside the running steps and take it into use; returns its size in bytes.

        Raises:
            ModelError: it cannot be found or read, or does not fit the model.
            EngineError: the engine is closed, or cannot be started.
        """
        self._check_lives()
        assert self._loop is not None
        loading: asyncio.Future[int] = self._loop.create_future()
        self._loading[adapter] = loading
        self._adapters[adapter] = str(Path(path).absolute())
        if self._process is not None and self._trouble is None:
            self._process.send(LoadAdapter(adapter, self._adapters[adapter]))
        try:
            return await loading
        except BaseException:
            self._adapters.pop(adapter, None)
            raise
        finally:
            self._loading.pop(adapter, None)

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; what runs with it goes on to its end."""
        self._leaving.add(adapter)
        self._forget_unused(adapter)

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters; the counters go on over restarts."""
        if self._stats is None:
            stats = self._stats_before or EngineStats.none()
            return replace(stats, num_running=0, num_waiting=len(self._ledger.works), kv_blocks_used=0)
        return counting_on(self._stats_before, self._stats)

    async def close(self) -> None:
        """Stop after the step in progress."""
        self._is_gone = True
        self._trouble = "the engine is closed; make a new one"
        if self._watch is not None:
            self._watch.cancel()
        if self._process is not None:
            process, self._process = self._process, None
            process.send(Close())
            await process.close()

    def _start(self, config: EngineConfig, adapters: list[tuple[AdapterRef, str]]) -> EngineProcess:
        files = self._files
        start = Start(
            name=files.name,
            folder=None if files.folder is None else str(files.folder.absolute()),
            gguf_path=None if files.gguf_path is None else str(files.gguf_path.absolute()),
            config=config,
            adapters=adapters,
        )
        return EngineProcess(start, self._supervision.command)

    def _check_lives(self) -> None:
        if self._is_gone or self._lives.is_hopeless:
            raise EngineError(self._trouble or "the engine is closed")

    def _open(self, request: Request | PoolingRequest) -> None:
        self._check_lives()
        self._ledger.open(request)
        self._admit()

    def _admit(self) -> None:
        """Give the engine what it may have."""
        if self._process is None or self._trouble is not None or self._restoring:
            return
        for request in self._ledger.admit():
            self._process.send(Pool(request) if isinstance(request, PoolingRequest) else Submit(request))

    def _end(self, request_id: str) -> None:
        work = self._ledger.close(request_id)
        if work is not None and work.adapter is not None:
            self._forget_unused(work.adapter)

    def _forget_unused(self, adapter: AdapterRef) -> None:
        if adapter not in self._leaving or any(work.adapter == adapter for work in self._ledger.works.values()):
            return
        self._leaving.discard(adapter)
        if self._adapters.pop(adapter, None) is not None and self._process is not None:
            self._process.send(UnloadAdapter(adapter))

    def _heard(self, message: FromEngine) -> None:
        match message:
            case Stepped() | Pooled() | Dropped():
                self._take(message)
            case Beat(progress, has_work, stats):
                self._stats = stats
                self._lives.beat(progress, has_work=has_work)
            case AdapterLoaded(adapter, nbytes):
                self._adapter_is_there(adapter, nbytes)
            case AdapterFailed(adapter, fault):
                self._adapter_is_there(adapter, fault.error())
            case Loaded():
                self._restarted()
            case LoadFailed(fault):
                self._last_words = str(fault.error())
            case Died(words):
                self._last_words = words

    def _take(self, message: Stepped | Pooled | Dropped) -> None:
        """What the engine says about requests."""
        assert self._listener is not None
        match message:
            case Stepped(outputs, stats):
                self._stats = stats
                self._lives.gave()
                for work in list(self._ledger.take(outputs)):
                    self._end(work.request.id)
                self._listener.take(outputs)
            case Pooled(vectors):
                self._lives.gave()
                for vector in vectors:
                    self._end(vector.request_id)
                self._listener.take_pooled([vector.output() for vector in vectors])
            case Dropped(request_id, fault):
                self._end(request_id)
                self._listener.drop(request_id, fault.error())
        self._admit()

    def _adapter_is_there(self, adapter: AdapterRef, found: int | HeadraceError) -> None:
        loading = self._loading.get(adapter)
        if loading is not None and not loading.done():
            loading.set_result(found) if isinstance(found, int) else loading.set_exception(found)
        elif isinstance(found, HeadraceError):
            logger.error("the adapter %r cannot be loaded again: %s", adapter.name, found)
        self._restoring.discard(adapter)
        self._admit()

    def _restarted(self) -> None:
        """A new process has loaded the model."""
        assert self._process is not None
        self._trouble = None
        self._lives.loaded()
        logger.warning("the engine runs again; %d open requests go on", len(self._ledger.works))
        self._restoring = set(self._adapters)
        for adapter, path in self._adapters.items():
            self._process.send(LoadAdapter(adapter, path))
        self._admit()

    def _died(self, end: str) -> None:
        """The process is gone."""
        assert self._loop is not None
        if self._is_gone:
            return
        reason = f"its process {end}" + (f": {self._last_words}" if self._last_words else "")
        self._process, self._last_words = None, None
        self._trouble = f"the engine is being started again: {reason}"
        self._stats_before, self._stats = counting_on(self._stats_before, self._stats), None
        self._restoring.clear()
        delay = self._lives.died(reason, has_work=bool(self._ledger.works))
        for request_id in self._ledger.died(self._supervision.most_strikes):
            self._condemn(request_id)
        if self._lives.is_hopeless:
            self._give_up(reason)
        logger.error("the engine died (%s); it is started again in %g s", reason, delay)
        self._loop.call_later(delay, self._start_again)

    def _condemn(self, request_id: str) -> None:
        assert self._listener is not None
        logger.error("the request %s is refused: the engine died of it", request_id)
        self._end(request_id)
        error = EngineError("the engine died of this request more than once; do not send it again")
        self._listener.drop(request_id, error)

    def _give_up(self, reason: str) -> None:
        """Open requests have waited for long enough; the engine is still tried."""
        assert self._listener is not None
        self._trouble = f"the engine cannot be started: {reason}"
        error = EngineError(self._trouble)
        self._ledger.works.clear()
        for loading in self._loading.values():
            if not loading.done():
                loading.set_exception(error)
        self._listener.fail(error)

    def _start_again(self) -> None:
        if self._is_gone:
            return
        assert self._loop is not None
        self._process = self._start(self._config, [])
        self._process.attach(self._loop, self._heard, self._died)

    async def _keep_watch(self) -> None:
        """Kill an engine that has work and makes no step, or that says nothing any more."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            still = self._lives.stuck_for
            if still is not None and self._process is not None:
                self._last_words = f"it had made no step for {still:.0f} s"
                self._process.kill()
