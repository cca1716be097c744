"""An engine's process that has planted faults: prompts with these token ids do what their names say.

A grammar with `SLOW` in it takes a second to compile, an adapter's folder with `deadly` in its name kills.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

from headrace.engine.scheduler import Scheduler
from headrace.loaded_engine import LoadedEngine
from headrace.supervise.child import main
from headrace.text.restrictions import Restrictions

KILLS, RAISES, STALLS, KILLS_LATER, EATS = 500, 501, 502, 503, 504
SLOW = "slow"


def _act(plan: object) -> None:
    for sequence in plan:  # type: ignore[attr-defined]
        first = sequence.request.prompt_token_ids[0]
        if first == KILLS or (first == KILLS_LATER and sequence.num_output >= 5):
            os.kill(os.getpid(), signal.SIGKILL)
        if first == RAISES:
            raise MemoryError("planted")
        if first == STALLS:
            time.sleep(3600)
        if first == EATS:
            pages = Path("/proc/self/statm").read_text().split()[0]
            size = int(pages) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))
            np.ones(2**40, np.int8)


def _faulty(schedule: object) -> object:
    def wrapped(self: Scheduler) -> object:
        plan = schedule(self)  # type: ignore[operator]
        _act(plan)
        return plan

    return wrapped


def _slow(new_constraint: object) -> object:
    def wrapped(self: Restrictions, request: object) -> object:
        if SLOW in (request.grammar or ""):  # type: ignore[attr-defined]
            time.sleep(1)
        return new_constraint(self, request)  # type: ignore[operator]

    return wrapped


def _deadly(read_adapter: object) -> object:
    def wrapped(self: LoadedEngine, path: str) -> object:
        if "deadly" in path:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_adapter(self, path)  # type: ignore[operator]

    return wrapped


if __name__ == "__main__":
    Scheduler.schedule = _faulty(Scheduler.schedule)  # type: ignore[method-assign]
    Restrictions.new_constraint = _slow(Restrictions.new_constraint)  # type: ignore[method-assign]
    LoadedEngine.read_adapter = _deadly(LoadedEngine.read_adapter)  # type: ignore[method-assign]
    main(socket.socket(fileno=int(sys.argv[1])))
