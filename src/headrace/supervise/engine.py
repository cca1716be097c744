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
from headrace.errors import DeadlyRequest, EngineError, HeadraceError, RequestError
from headrace.hub.files import ModelFiles
from headrace.loaded_engine import EngineFacts
from headrace.pooled import PoolingRequest
from headrace.supervise.adapters import HeldAdapters
from headrace.supervise.fingerprint import changed, of_model
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
    EncodeFailed,
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
_MOST_SHOWN = 32
"""Requests that a log line names"""


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
        self._model_files = of_model(files)
        self._adapters = HeldAdapters(adapters)
        self._ledger = Ledger()
        self._listener: EngineListener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None
        self._trouble: str | None = "the model is being loaded"
        self._is_gone = False
        """Closed, or lost for good"""
        self._is_loaded = False
        """The process has the model"""
        self._stats_before: EngineStats | None = None
        self._stats: EngineStats | None = None
        self._last_words: str | None = None
        self._lives = Lives(self._supervision)
        self._process: EngineProcess | None = self._start(config, self._adapters.folders)

    def wait(self) -> EngineFacts:
        """Block until the model is loaded for the first time.

        Raises:
            ModelError, ConfigError: it cannot be.
            EngineError: the process died of it.
        """
        assert self._process is not None
        try:
            message = self._process.wait()
            if isinstance(message, LoadFailed):
                raise message.fault.error()
            if not isinstance(message, Loaded):
                raise EngineError(
                    message.message if isinstance(message, Died) else "the engine's process says nonsense"
                )
        except BaseException:
            self._is_gone = True
            self._process.abandon()
            raise
        plan = message.facts.plan
        # A later process has the same room, whatever memory is free then
        self._config = replace(self._config, kv_memory=plan.num_blocks * plan.block_bytes, max_context=plan.max_context)
        self._trouble, self._is_loaded = None, True
        self._lives.loaded()
        return message.facts

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop; again with the same ones does nothing.

        Raises:
            EngineError: it is another loop.
        """
        if self._loop is loop:
            return
        if self._loop is not None:
            raise EngineError("an engine's process belongs to the event loop that used it first; make a new AsyncLLM")
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
        if self._is_loaded and self._process is not None:
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
        if self._is_loaded and self._process is not None:
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
        self._adapters.add(adapter, path, loading)
        self._load_adapters()
        try:
            return await loading
        except asyncio.CancelledError:
            self._forget(adapter)
            raise

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; what runs with it goes on to its end."""
        self._adapters.leave(adapter)
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
        self._adapters.give_up(EngineError(self._trouble))
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
            logs=self._supervision.logs,
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
        if self._process is None or self._trouble is not None:
            return
        assert self._listener is not None
        for request in self._ledger.admit():
            try:
                self._send(self._process, request)
            except HeadraceError as error:
                self._end(request.id)
                self._listener.drop(request.id, error)

    def _send(self, process: EngineProcess, request: Request | PoolingRequest) -> None:
        """Give the engine a request; raises HeadraceError if it cannot be."""
        try:
            if isinstance(request, PoolingRequest):
                process.send(Pool(request))
            else:
                self._adapters.check(request.adapter)
                process.send(Submit(request))
        except EncodeFailed as error:
            raise RequestError(f"the request has what cannot be sent to the engine's process ({error})") from error

    def _end(self, request_id: str) -> None:
        work = self._ledger.close(request_id)
        if work is not None and work.adapter is not None:
            self._forget_unused(work.adapter)

    def _forget_unused(self, adapter: AdapterRef) -> None:
        is_used = any(work.adapter == adapter for work in self._ledger.works.values())
        if self._adapters.is_leaving(adapter) and not is_used:
            self._forget(adapter)

    def _forget(self, adapter: AdapterRef) -> None:
        if self._adapters.forget(adapter) and self._process is not None:
            self._process.send(UnloadAdapter(adapter))

    def _load_adapters(self) -> None:
        if self._is_loaded and self._process is not None:
            for adapter, folder in self._adapters.to_load():
                self._process.send(LoadAdapter(adapter, folder))

    def _heard(self, message: FromEngine) -> None:
        match message:
            case Stepped() | Pooled() | Dropped():
                self._take(message)
            case Beat(progress, has_work, stats, num_computed):
                self._stats = stats
                self._lives.beat(progress, has_work=has_work)
                if self._ledger.computed(num_computed):
                    self._lives.moved()
                    self._admit()
            case AdapterLoaded(adapter, nbytes):
                self._adapter_is_there(adapter, nbytes)
            case AdapterFailed(adapter, fault):
                self._adapter_is_there(adapter, fault.error())
            case Loaded():
                self._is_loaded = True
                self._load_adapters()
                self._go_on()
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
        assert self._process is not None
        if self._adapters.arrived(adapter, found):
            self._process.send(UnloadAdapter(adapter))
        self._go_on()

    def _go_on(self) -> None:
        """A new process has loaded the model; once it has the adapters too it gets requests."""
        if self._adapters.is_restoring:
            return
        if self._trouble is not None:
            self._trouble = None
            self._lives.loaded()
            num_open = len(self._ledger.works)
            facts = {"event": "engine_restarted", "open_requests": num_open, "restarts": self.restarts.count}
            logger.warning("the engine runs again; %d open requests go on", num_open, extra={"facts": facts})
        self._admit()

    def _died(self, end: str) -> None:
        """The process is gone."""
        assert self._loop is not None
        if self._is_gone:
            return
        reason = f"its process {end}" + (f": {self._last_words}" if self._last_words else "")
        is_killed = self._process is not None and self._process.is_killed_from_outside
        most = self._supervision.most_kills if is_killed else self._supervision.most_strikes
        self._process, self._last_words, self._is_loaded = None, None, False
        self._trouble = f"the engine is being started again: {reason}"
        self._stats_before, self._stats = counting_on(self._stats_before, self._stats), None
        delay = self._lives.died(reason, has_work=bool(self._ledger.works))
        requests = list(self._ledger.works)
        of_requests = not self._adapters.is_loading
        self._adapters.died(self._supervision.most_strikes)
        for request_id in self._ledger.died(most, of_requests=of_requests, by_kill=is_killed):
            self._condemn(request_id)
        when = f"in {delay:g} s" if delay else "now"
        consequence = f"it is started again {when}"
        if self._lives.is_hopeless:
            self._give_up(f"the engine cannot be started: {reason}")
            consequence = f"requests get an error until it can be started, which is tried again {when}"
        facts = {"event": "engine_died", "reason": reason, "seconds_to_restart": delay}
        facts |= {"open_requests": len(requests), "engine_request_ids": requests[:_MOST_SHOWN]}
        logger.error("the engine died (%s); %s", reason, consequence, extra={"facts": facts})
        self._loop.call_later(delay, self._start_again)

    def _condemn(self, request_id: str) -> None:
        assert self._listener is not None
        facts = {"event": "request_condemned", "engine_request_id": request_id}
        logger.error("the request %s is refused: the engine died of it", request_id, extra={"facts": facts})
        self._end(request_id)
        error = DeadlyRequest("the engine died of this request more than once; do not send it again")
        self._listener.drop(request_id, error)

    def _give_up(self, reason: str) -> None:
        """Open requests have waited for long enough."""
        assert self._listener is not None
        self._trouble = reason
        error = EngineError(reason)
        for request_id in list(self._ledger.works):
            self._end(request_id)
        self._adapters.give_up(error)
        self._listener.fail(error)

    def _start_again(self) -> None:
        if self._is_gone:
            return
        assert self._loop is not None
        try:
            what = changed(self._model_files, of_model(self._files))
            if what is not None:
                self._lose(what)
                return
            process = self._start(self._config, [])
        except OSError as error:
            self._died(f"could not be started ({error})")
            return
        self._process = process
        process.attach(self._loop, self._heard, self._died)

    def _lose(self, what: str) -> None:
        """With other weights streams would not go on as they began: this is for whoever changed them to decide."""
        self._is_gone = True
        logger.error("the engine is not started again: %s has changed since it was loaded", what)
        self._give_up(f"the engine died, and {what} has changed since it was loaded; start the server again")

    async def _keep_watch(self) -> None:
        """Kill an engine that has work and makes no step, or that says nothing any more."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            still = self._lives.stuck_for
            if still is not None and self._process is not None:
                self._last_words = f"it had made no step for {still:.0f} s"
                self._process.kill()
