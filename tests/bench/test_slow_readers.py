"""The short forms of bench/slow_readers.py and bench/silence.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
import silence
import slow_readers


def test_readers_who_read_nothing_take_little() -> None:
    figures = slow_readers.measure(readers=3, completions=2, tokens=20, logprobs=1)
    assert figures["readers"] == 3
    assert figures["growth_mib"] < 100


def test_a_silence_is_the_servers_own_but_for_the_longest_wait_for_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"front": (0.0, 0.0), "engine": (0.0, 0.0)}
    threads = {"front": silence.Thread(0, 1), "engine": silence.Thread(0, 2)}
    monkeypatch.setattr(silence.Thread, "times", lambda thread: times["front" if thread.number == 1 else "engine"])
    found = silence.Silences(threads)
    found.heard(1.0)
    times |= {"front": (0.1, 0.3), "engine": (0.2, 0.5)}
    found.heard(2.0)
    found.heard(None)
    found.heard(10.0)  # another stream's first piece
    found.heard(10.25)
    figures = found.figures()
    assert figures["pieces"] == 4
    assert figures["longest"] == 1.0
    assert figures["longest_own"] == 0.5
    assert figures["worst"][0]["engine_computed"] == 0.2
    assert figures["worst"][1] == figures["worst"][1] | {"seconds": 0.25, "own": 0.25}


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_the_busiest_thread_of_a_process_has_computed() -> None:
    assert silence.busiest(os.getpid()).times()[0] > 0
