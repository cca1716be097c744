"""Chunks put together: what is sent adds up to what came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.server.pacing import Pacing
from headrace.types import Chunk, FinishReason


def chunk(index: int, at: int, *, ends: bool = False) -> Chunk:
    return Chunk(index, f"<{at}>", [at], None, FinishReason.STOP if ends else None, "x" if ends else None)


def test_the_first_and_the_last_go_out_at_once() -> None:
    pacing = Pacing(3)
    sent = [pacing.push(0, [chunk(0, at, ends=at == 8)]) for at in range(9)]
    assert [[one.text for one in each] for each in sent] == (
        [["<0>"], [], [], ["<1><2><3>"], [], [], ["<4><5><6>"], [], ["<7><8>"]]
    )
    assert (sent[-1][0].finish_reason, sent[-1][0].stop_reason) == (FinishReason.STOP, "x")


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1), st.integers(1, 5))
def test_every_completion_keeps_its_tokens_in_order(arrivals: list[tuple[int, int]], interval: int) -> None:
    pacing = Pacing(interval)
    pushed: dict[tuple[int, int], list[int]] = {}
    got: dict[tuple[int, int], list[int]] = {}
    ends = [(prompt, index) for prompt in (0, 1) for index in (0, 1)]
    for at, (prompt, index) in enumerate([*arrivals, *ends]):
        pushed.setdefault((prompt, index), []).append(at)
        for one in pacing.push(prompt, [chunk(index, at, ends=at >= len(arrivals))]):
            got.setdefault((prompt, one.index), []).extend(one.token_ids)
            assert one.text == "".join(f"<{token_id}>" for token_id in one.token_ids)
    assert got == pushed
