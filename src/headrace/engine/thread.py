"""An engine that steps in a thread of its own, so that an event loop can talk to it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headrace.errors import EngineError, HeadraceError


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
OutputT = TypeVar("OutputT")
RequestT = TypeVar("RequestT", bound=_HasId)


class Stepping(Protocol[RequestT_contra, OutputT]):
    """What steps in a thread: `Engine`, or `PoolingEngine`."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""

    def submit(self, request: RequestT_contra, /) -> None:
        """Queue a request; raises HeadraceError if it cannot run."""

    def cancel(self, request_id: str, index: int | None = None, /) -> None:
        """Drop a request, or one of its sequences; unknown ids are ignored."""

    def step(self) -> list[OutputT]:
        """Advance; empty when there is nothing to tell."""


class EngineThread(Generic[RequestT, OutputT]):
    """Takes requests and cancellations from other threads and applies them between steps.

    In the engine's thread `deliver` is called with each step's outputs, `drop` with the id of a request that the engine
    refuses and the error, and `fail` once, with the error, if the engine dies. After that nothing more is delivered.
    """

    def __init__(
        self,
        engine: Stepping[RequestT, OutputT],
        deliver: Callable[[list[OutputT]], None],
        drop: Callable[[str, HeadraceError], None],
        fail: Callable[[EngineError], None],
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._drop = drop
        self._fail = fail
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self.error: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="headrace-engine", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why the engine takes no more requests; None when it does."""
        if self.error is not None:
            return str(self.error)
        return "the engine is closed; make a new one" if self._closing else None

    def submit(self, request: RequestT) -> None:
        """Queue a request that has been checked.

        Raises:
            EngineError: the engine has died or is closed.
        """
        if (trouble := self.trouble) is not None:
            raise self.error or EngineError(trouble)
        self.send(lambda: self._submit(request))

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step."""
        self.send(lambda: self._engine.cancel(request_id, index))

    def close(self) -> None:
        """Stop after the step in progress and wait for the thread."""
        self._closing = True
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def send(self, command: Callable[[], None]) -> None:
        """Have something done to the engine in its thread, before the next step."""
        self._commands.append(command)
        self._wake.set()

    def _submit(self, request: RequestT) -> None:
        try:
            self._engine.submit(request)
        except HeadraceError as error:
            self._drop(request.id, error)

    def _run(self) -> None:
        try:
            while not self._closing:
                if not self._engine.has_work:
                    self._wake.wait()
                self._wake.clear()
                while self._commands:
                    self._commands.popleft()()
                if outputs := self._engine.step():
                    self._deliver(outputs)
        except Exception as error:  # noqa: BLE001  the outermost handler: every open request gets the error
            self.error = EngineError(f"the engine failed ({type(error).__name__}: {error}); restart it and report this")
            self.error.__cause__ = error
            self._fail(self.error)
