"""Priority decides who runs first and who is preempted, and never what comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy import drain, ids, make_engine, make_request

from headrace.types import Request

PROMPTS = [list(range(start, start + 40)) for start in range(4)]


def prioritised(id_: str, index: int, priority: int, **params: object) -> Request:
    return replace(make_request(id_, PROMPTS[index], **params), priority=priority)


@pytest.mark.parametrize("priorities", [(0, 0, 0, 0), (3, 2, 1, 0), (0, 5, -1, 5)])
def test_the_lowest_number_runs_first_and_equal_ones_in_order_of_arrival(priorities: tuple[int, ...]) -> None:
    engine, _ = make_engine(max_sequences=1)
    for at, priority in enumerate(priorities):
        engine.submit(prioritised(f"r{at}", at, priority, max_tokens=3))
    first = {id_: None for id_, _ in drain(engine)}  # in the order of their first tokens
    assert list(first) == [f"r{at}" for at in sorted(range(4), key=lambda at: (priorities[at], at))]


def test_the_last_in_turn_is_preempted_and_nothing_changes() -> None:
    def run(priorities: tuple[int, ...], num_blocks: int) -> tuple[dict[str, list[int]], list[str], int]:
        engine, _ = make_engine(num_blocks=num_blocks, max_context=112)
        for at, priority in enumerate(priorities):
            engine.submit(prioritised(f"r{at}", at, priority, max_tokens=60))
        finished, outputs = [], {}
        while engine.has_work:
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
                if output.finish_reason is not None:
                    finished.append(output.request_id)
        return {id_: ids(own) for id_, own in outputs.items()}, finished, engine.stats().num_preemptions

    free, _, num_preemptions = run((0, 0, 0, 0), 64)
    assert num_preemptions == 0
    for priorities in ((0, 0, 0, 0), (3, 2, 1, 0), (1, 0, 0, 2)):
        outputs, finished, num_preemptions = run(priorities, 12)
        assert num_preemptions > 0
        assert outputs == free
        assert finished == [f"r{at}" for at in sorted(range(4), key=lambda at: (priorities[at], at))]


def test_a_late_urgent_request_does_not_wait_behind_those_that_wait() -> None:
    engine, _ = make_engine(max_sequences=1)
    for at in range(3):
        engine.submit(prioritised(f"r{at}", at, 0, max_tokens=5))
    engine.step()
    engine.submit(prioritised("urgent", 3, -1, max_tokens=5))
    assert [id_ for id_, _ in drain(engine)] == ["r0", "urgent", "r1", "r2"]
