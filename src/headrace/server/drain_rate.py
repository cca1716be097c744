"""How fast a queue empties, and so how long one that comes too early should wait."""

from __future__ import annotations

import math

_HALF_LIFE_SECONDS = 30.0
_LONGEST_SECONDS = 600


class DrainRate:
    """Requests and tokens that leave a queue in a second, those of the last half minute counting for half."""

    def __init__(self) -> None:
        self._requests = self._tokens = self._seconds = 0.0
        self._now: float | None = None

    def begins(self, now: float) -> None:
        """The queue was empty, and is no longer: idle time says nothing."""
        self._now = now

    def left(self, now: float, tokens: int) -> None:
        """A request of so many tokens has left the queue."""
        self._pass(now)
        self._requests += 1
        self._tokens += tokens

    def seconds_until(self, now: float, requests: float, tokens: float) -> int:
        """When so many requests and tokens will have left, in whole seconds from now, from 1 to 600."""
        self._pass(now)
        if not self._seconds or not self._requests:
            return 1 if not self._seconds else max(1, min(math.ceil(self._seconds), _LONGEST_SECONDS))
        needed = max(requests / self._requests, tokens / self._tokens) * self._seconds
        return max(1, min(math.ceil(needed - 1e-6), _LONGEST_SECONDS))

    def _pass(self, now: float) -> None:
        if self._now is None or now <= self._now:
            self._now = now
            return
        fades = 0.5 ** ((now - self._now) / _HALF_LIFE_SECONDS)
        self._requests, self._tokens = self._requests * fades, self._tokens * fades
        self._seconds = self._seconds * fades + (now - self._now)
        self._now = now
