"""How long a request may take: what its client gives it (x-request-timeout: seconds), at most what the server does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from headrace.errors import DeadlineExceeded, RequestError

HEADER = "x-request-timeout"


class Deadline:
    """The moment at which a request is given up, `seconds` from now; None is never."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._at = None if seconds is None else asyncio.get_running_loop().time() + seconds

    def within(self) -> AbstractAsyncContextManager[None]:
        """What is in it is cancelled at the deadline.

        Raises:
            DeadlineExceeded: it was.
        """
        return nullcontext() if self._at is None else self._limited(self._at)

    @asynccontextmanager
    async def _limited(self, at: float) -> AsyncIterator[None]:
        limit = asyncio.timeout_at(at)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"The answer was not there within {self._seconds:g} s, and was given up; ask for less, or give it more"
                f" time ({HEADER}, up to what the server allows)"
            ) from error


def deadline_of(headers: Mapping[str, str], limit: float | None) -> Deadline:
    """The deadline of a request that has just come; `limit` is the server's own, in seconds.

    Raises:
        RequestError: the header is not a number of seconds.
    """
    given = headers.get(HEADER)
    if given is None:
        return Deadline(limit)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(f"{HEADER} is {given[:50]!r}, expected seconds above 0", param=HEADER)
    return Deadline(seconds if limit is None else min(seconds, limit))
