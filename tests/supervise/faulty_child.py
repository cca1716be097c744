"""An engine's process that has planted faults: prompts with these token ids do what their names say."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from headrace.engine.scheduler import Scheduler
from headrace.supervise.child import main

KILLS, RAISES, STALLS, KILLS_LATER = 500, 501, 502, 503


def _act(plan: object) -> None:
    for sequence in plan:  # type: ignore[attr-defined]
        first = sequence.request.prompt_token_ids[0]
        if first == KILLS or (first == KILLS_LATER and sequence.num_output >= 5):
            os.kill(os.getpid(), signal.SIGKILL)
        if first == RAISES:
            raise MemoryError("planted")
        if first == STALLS:
            time.sleep(3600)


def _faulty(schedule: object) -> object:
    def wrapped(self: Scheduler) -> object:
        plan = schedule(self)  # type: ignore[operator]
        _act(plan)
        return plan

    return wrapped


if __name__ == "__main__":
    Scheduler.schedule = _faulty(Scheduler.schedule)  # type: ignore[method-assign]
    main(socket.socket(fileno=int(sys.argv[1])))
