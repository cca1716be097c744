"""Work that may take long, beside the event loop: while it runs, other streams go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from headrace.errors import TemplateOutOfTime
from headrace.text.template_environment import within

_SLOW_SECONDS = 0.02
"""CPU time of small work that streams would notice"""
_NUM_QUICK = 100
"""Small works in a row, each quick, until the event loop does them itself (again)"""

T = TypeVar("T")


class Beside:
    """Two places: one thread for large bodies, one after the other, and asyncio's own threads for texts.

    Small texts are the event loop's own work, which is a tenth of a millisecond less for each, as long as they turn out
    to be quick. A chat template that is not is stopped after a fiftieth of a second, and begins again in a thread.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "headrace-bodies")
        self._turn = asyncio.Lock()
        self._num_quick = 0

    async def body(self, call: Callable[[], T]) -> T:
        """What `call` returns, of large bodies one at a time: what is made of them is many times their size."""
        async with self._turn:
            doing = asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, call)
            try:
                return await asyncio.shield(doing)
            except asyncio.CancelledError:
                await asyncio.wait([doing])  # a thread cannot be stopped, and the body is still in memory
                raise
            finally:
                del doing  # an error's traceback holds this frame, and would hold itself and the body with it

    async def text(self, call: Callable[[], T], *, is_small: bool) -> T:
        """What `call` returns: texts put together and made into token ids."""
        if not is_small:
            return await asyncio.to_thread(call)
        if self._num_quick >= _NUM_QUICK:
            with contextlib.suppress(TemplateOutOfTime), within(_SLOW_SECONDS):
                return self._measured(call)
        return await asyncio.to_thread(self._measured, call)

    def _measured(self, call: Callable[[], T]) -> T:
        before = time.thread_time()
        try:
            return call()
        finally:
            is_quick = time.thread_time() - before < _SLOW_SECONDS
            self._num_quick = self._num_quick + 1 if is_quick else 0
