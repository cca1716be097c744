"""Chunks put together: what is sent adds up to what came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.server.pacing import Pacing
from headrace.types import Chunk, FinishReason, Logprob, ToolCallDelta


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


def test_all_that_chunks_carry_is_put_together_in_order() -> None:
    def rich(at: int) -> Chunk:
        return Chunk(
            0, f"{at}", [at], [{at: Logprob(-float(at), 1)}], reasoning=f"<{at}>", num_reasoning_tokens=at,
            tool_calls=[ToolCallDelta(at)],
        )  # fmt: skip

    pacing = Pacing(3)
    assert pacing.push(0, [rich(1)]) == [rich(1)]
    assert pacing.push(0, [rich(2), rich(3)]) == []
    [joined] = pacing.push(0, [rich(4)])
    assert joined.logprobs == [{at: Logprob(-float(at), 1)} for at in (2, 3, 4)]
    assert (joined.text, joined.token_ids, joined.reasoning) == ("234", [2, 3, 4], "<2><3><4>")
    assert joined.num_reasoning_tokens == 9
    assert [delta.index for delta in joined.tool_calls] == [2, 3, 4]
