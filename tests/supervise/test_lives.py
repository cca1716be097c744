"""When an engine's process is stuck, and when it is started again."""

from __future__ import annotations

import pytest

from headrace.supervise.lives import Lives, Supervision


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lives(clock: Clock) -> Lives:
    return Lives(Supervision(stall_seconds=10, backoff=(0.0, 1.0, 5.0), most_failed_starts=3), clock)


def test_work_without_steps_is_stuck_and_steps_or_idleness_are_not(lives: Lives, clock: Clock) -> None:
    lives.loaded()
    for progress in range(5):
        clock.now += 9
        lives.beat(progress, has_work=True)
        assert lives.stuck_for is None
    clock.now += 9
    lives.beat(4, has_work=False)
    clock.now += 9
    lives.beat(4, has_work=True)
    assert lives.stuck_for is None
    clock.now += 2
    lives.beat(4, has_work=True)
    assert lives.stuck_for == 11


def test_silence_is_stuck(lives: Lives, clock: Clock) -> None:
    lives.loaded()
    clock.now += 11
    assert lives.stuck_for == 11


def test_loading_may_take_long(lives: Lives, clock: Clock) -> None:
    clock.now += 1000
    assert lives.stuck_for is None


def test_lives_that_give_nothing_are_followed_by_longer_waits(lives: Lives) -> None:
    waits = []
    for _ in range(4):
        lives.loaded()
        waits.append(lives.died("x", has_work=False))
    lives.loaded()
    lives.gave()
    waits.append(lives.died("x", has_work=False))
    assert waits == [0.0, 1.0, 5.0, 5.0, 0.0]


def test_starts_that_fail_in_a_row_are_hopeless_until_one_succeeds(lives: Lives) -> None:
    for failed in range(5):
        assert lives.is_hopeless == (failed > 3)
        lives.died("x", has_work=False)
    lives.loaded()
    assert not lives.is_hopeless


def test_the_time_to_the_next_token_is_from_the_first_death_with_work(lives: Lives, clock: Clock) -> None:
    lives.loaded()
    lives.died("idle", has_work=False)
    lives.loaded()
    lives.gave()
    assert lives.restarts.seconds_to_next_token is None
    lives.died("one", has_work=True)
    clock.now += 2
    lives.died("two", has_work=True)
    clock.now += 3
    lives.loaded()
    lives.gave()
    assert (lives.restarts.count, lives.restarts.reason, lives.restarts.seconds_to_next_token) == (3, "two", 5.0)


def test_a_life_in_which_a_request_came_farther_was_not_for_nothing(lives: Lives, clock: Clock) -> None:
    lives.loaded()
    assert lives.died("x", has_work=True) == 0.0
    lives.loaded()
    clock.now += 2
    lives.moved()
    assert lives.died("x", has_work=True) == 0.0
    lives.loaded()
    clock.now += 3
    lives.gave()
    assert lives.restarts.seconds_to_next_token == 5.0  # it had given nothing before
