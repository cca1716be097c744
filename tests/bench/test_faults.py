"""The short form of bench/faults.py: a real server whose engine is killed under streams of all dialects."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
import faults


def test_what_clients_get_while_the_engine_is_killed() -> None:
    with faults.serving() as server:
        figures = asyncio.run(
            asyncio.wait_for(faults.measure(server, faults.ASKS, num_streams=16, num_kills=3, seed=0), 600)
        )
    assert figures["wrong"] == []
    assert figures["kills"] == 3
    assert sum(figures["right"].values()) >= 16
    assert set(figures["health_after_a_kill"]) <= {"live 200, ready 503", "live 200, ready 200"}


def test_an_answer_is_the_same_however_it_is_cut() -> None:
    def chunk(content: str, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
        return b"data: " + json.dumps({"id": content, "choices": [choice]}).encode() + b"\n\n"

    one, other = chunk("ab", "stop"), chunk("a") + chunk("b", "stop")
    assert faults.said(one) == faults.said(other + b"data: [DONE]\n\n")
    assert faults.said(one) != faults.said(chunk("a") + chunk("b", "stop") + chunk("b"))
    assert faults.said(one) != faults.said(chunk("a") + chunk("b"))
