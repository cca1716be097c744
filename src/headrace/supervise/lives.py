"""The lives of an engine's process: when it is stuck, when it is started again, and what has been seen of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.logs import LogSettings
from headrace.supervise.process import COMMAND


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How an engine's process is watched."""

    stall_seconds: float = 60.0
    """With work pending and no step for so long the engine is stuck, and killed"""
    backoff: Sequence[float] = (0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Seconds before a restart, by how many lives before gave nothing; the last one for all that follow"""
    most_failed_starts: int = 10
    """After more in a row open requests are given up, and no more are taken until a start succeeds"""
    most_strikes: int = 2
    """Deaths for which only one request can be to blame, until it is refused"""
    most_kills: int = 4
    """The same of deaths by SIGKILL, which mostly comes from outside and says less"""
    command: Sequence[str] = COMMAND
    """What starts the process; see `EngineProcess`"""
    logs: LogSettings = field(default_factory=LogSettings)
    """How the process writes its log, on the same stderr"""


@dataclass(slots=True)
class Restarts:
    """What has been seen of deaths and restarts."""

    count: int = 0
    reason: str | None = None
    """Why the last one died"""
    seconds_to_next_token: float | None = None
    """From the last death with open requests to the next output; None before the first"""
    died_at: int = 0
    """When the last one died, in nanoseconds since 1970"""
    gave_at: int = 0
    """When the first one since then gave something to a request, likewise; before `died_at` as long as none has"""


class Lives:
    """One life after the other: `loaded`, `gave` or `moved` …, `died`. `clock` gives seconds."""

    def __init__(self, supervision: Supervision, clock: Callable[[], float] = time.monotonic) -> None:
        self._supervision = supervision
        self._clock = clock
        self._is_loaded = False
        self._moved_at = 0.0
        self._progress = -1
        self._num_futile = 0
        """Lives in a row that gave nothing"""
        self._num_failed_starts = 0
        self._died_at: float | None = None
        self.restarts = Restarts()

    @property
    def is_hopeless(self) -> bool:
        """It cannot be started."""
        return self._num_failed_starts > self._supervision.most_failed_starts

    @property
    def stuck_for(self) -> float | None:
        """Seconds without a sign of progress, once they are too many."""
        still = self._clock() - self._moved_at
        return still if self._is_loaded and still > self._supervision.stall_seconds else None

    def loaded(self) -> None:
        """The process takes requests."""
        self._is_loaded, self._num_failed_starts = True, 0
        self._progress, self._moved_at = -1, self._clock()

    def gave(self) -> None:
        """It gave something for a request."""
        self._moved_at, self._num_futile = self._clock(), 0
        if self._died_at is not None:
            self.restarts.seconds_to_next_token = self._clock() - self._died_at
            self.restarts.gave_at = time.time_ns()
            self._died_at = None

    def moved(self) -> None:
        """A request that has given nothing came farther than before: the life was not for nothing."""
        self._num_futile = 0

    def beat(self, progress: int, *, has_work: bool) -> None:
        """It says how far it is; without work there is nothing to be seen."""
        if progress != self._progress or not has_work:
            self._progress, self._moved_at = progress, self._clock()

    def died(self, reason: str, *, has_work: bool) -> float:
        """It is gone; returns after how many seconds to start it again."""
        self.restarts.count += 1
        self.restarts.reason = reason
        self.restarts.died_at = time.time_ns()
        if has_work and self._died_at is None:
            self._died_at = self._clock()
        self._num_failed_starts = 0 if self._is_loaded else self._num_failed_starts + 1
        self._is_loaded = False
        backoff = self._supervision.backoff
        delay = backoff[min(self._num_futile, len(backoff) - 1)]
        self._num_futile += 1
        return delay
