"""Who goes in, who is to blame, and what a request goes on from."""

from __future__ import annotations

import pytest

from headrace.pooled import PoolingRequest
from headrace.sampling_params import SamplingParams
from headrace.supervise.ledger import Ledger
from headrace.types import Emitted, FinishReason, Request, StepOutput


def a_request(name: str, **params: object) -> Request:
    return Request(id=name, prompt_token_ids=(1, 2), params=SamplingParams(**params), seed=1, max_tokens=9)  # type: ignore[arg-type]


def admitted(ledger: Ledger) -> list[str]:
    return [request.id for request in ledger.admit()]


def give(ledger: Ledger, name: str, *token_ids: int, index: int = 0, ends: bool = False) -> list[str]:
    reason = FinishReason.STOP if ends else None
    ended = ledger.take([StepOutput(name, index, list(token_ids), finish_reason=reason)])
    return [work.request.id for work in ended]


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    for name in "abc":
        ledger.open(a_request(name))
    assert admitted(ledger) == ["a", "b", "c"]
    return ledger


def test_after_a_death_all_go_in_one_by_one_with_what_they_have_given(ledger: Ledger) -> None:
    give(ledger, "a", 5)
    give(ledger, "b", 6)
    give(ledger, "b", 7, 8)
    assert ledger.died(2) == []
    (first,) = ledger.admit()
    assert (first.id, first.resume) == ("a", (Emitted((5,)),))
    assert admitted(ledger) == []
    give(ledger, "a", 9)
    (second,) = ledger.admit()
    assert (second.id, second.resume) == ("b", (Emitted((6, 7, 8)),))
    ledger.close("b")
    assert admitted(ledger) == ["c"]


def test_who_comes_in_the_meantime_waits_until_all_have_moved(ledger: Ledger) -> None:
    ledger.died(2)
    ledger.open(a_request("d"))
    order = []
    for _ in range(4):
        (name,) = admitted(ledger)
        order.append(name)
        assert admitted(ledger) == []
        give(ledger, name, 1)
    assert order == ["a", "b", "c", "d"]
    ledger.open(a_request("e"))
    ledger.open(a_request("f"))
    assert admitted(ledger) == ["e", "f"]


def test_a_newcomer_cannot_hide_the_one_on_trial(ledger: Ledger) -> None:
    for name in "ab":
        ledger.close(name)
    ledger.died(2)
    assert admitted(ledger) == ["c"]
    ledger.open(a_request("d"))
    assert admitted(ledger) == []
    assert ledger.died(2) == ["c"]


def test_the_guilty_one_is_found_among_many(ledger: Ledger) -> None:
    """`b` kills whenever it is run."""
    condemned: list[str] = []
    for _ in range(5):
        condemned = ledger.died(2)
        if condemned:
            break
        for _ in range(3):
            names = admitted(ledger)
            if "b" in names or not names:
                break
            give(ledger, names[0], 1)
    assert condemned == ["b"]


def test_one_that_goes_on_between_deaths_is_never_condemned(ledger: Ledger) -> None:
    for name in "bc":
        ledger.close(name)
    for token_id in range(50):
        give(ledger, "a", token_id)
        assert ledger.died(2) == []
        (again,) = ledger.admit()
        assert again.resume[0].token_ids == tuple(range(token_id + 1))


def test_the_only_one_inside_is_to_blame_though_it_had_moved(ledger: Ledger) -> None:
    for name in "bc":
        ledger.close(name)
    give(ledger, "a", 1)
    assert ledger.died(2) == []
    assert admitted(ledger) == ["a"]
    assert ledger.died(2) == ["a"]


def test_deaths_with_several_suspects_are_nobodys(ledger: Ledger) -> None:
    assert ledger.died(1) == []


def test_a_completion_that_has_ended_or_was_cancelled_is_not_run_again() -> None:
    ledger = Ledger()
    ledger.open(a_request("n", n=3))
    assert admitted(ledger) == ["n"]
    assert give(ledger, "n", 4, index=1, ends=True) == []
    assert not ledger.end_completion("n", 2)
    ledger.died(2)
    (again,) = ledger.admit()
    assert again.resume == (Emitted(), Emitted((4,), has_ended=True), Emitted(has_ended=True))
    assert give(ledger, "n", 3, index=0, ends=True) == ["n"]


def test_searches_and_poolings_begin_anew() -> None:
    ledger = Ledger()
    ledger.open(a_request("beams", n=2, beam_width=2, temperature=0.0))
    ledger.open(PoolingRequest(id="p", token_ids=(1,)))
    list(ledger.admit())
    ledger.died(2)
    (beams,) = ledger.admit()
    assert beams.resume == ()
    give(ledger, "beams", 1, ends=True)
    (pooling,) = ledger.admit()
    assert pooling == PoolingRequest(id="p", token_ids=(1,))


def a_search(name: str) -> Request:
    return a_request(name, n=2, beam_width=2, temperature=0.0)


@pytest.fixture
def searches() -> Ledger:
    ledger = Ledger()
    for name in "xy":
        ledger.open(a_search(name))
    ledger.open(a_request("a"))
    assert admitted(ledger) == ["x", "y", "a"]
    return ledger


def test_what_is_computed_and_gives_nothing_holds_nobody_up(searches: Ledger) -> None:
    searches.died(2)
    assert admitted(searches) == ["x"]
    assert not searches.computed({"x": 0})
    assert admitted(searches) == []
    assert searches.computed({"x": 7})
    assert admitted(searches) == ["y"]
    assert searches.computed({"x": 9, "y": 1, "unknown": 5})
    assert admitted(searches) == ["a"]


def test_it_has_to_come_farther_than_where_the_engine_died(searches: Ledger) -> None:
    give(searches, "a", 1)
    searches.computed({"x": 100, "y": 200})
    assert searches.died(2) == []
    assert admitted(searches) == ["a"]  # who is quick to show it goes first
    give(searches, "a", 2)
    assert admitted(searches) == ["x"]
    assert not searches.computed({"x": 100})
    assert admitted(searches) == []
    assert searches.computed({"x": 101})
    assert admitted(searches) == ["y"]
    give(searches, "x", 1, ends=True)
    assert not searches.computed({"y": 200})
    give(searches, "y", 1)
    searches.open(a_request("b"))
    assert admitted(searches) == ["b"]


def test_the_one_that_kills_half_way_is_found_beside_others(searches: Ledger) -> None:
    """`y` kills when it has computed 50 tokens; others come and go."""
    condemned: list[str] = []
    num_deaths = 0
    for life in range(6):
        far = dict.fromkeys("xy", 0)
        has_died = False
        for step in range(200):
            if step % 5 == 0:
                searches.open(a_request(f"newcomer {life} {step}"))
            inside = [name for name, work in searches.works.items() if work.is_inside]
            for name in inside:
                if name not in far:
                    give(searches, name, 1)
                    searches.close(name)
                    continue
                far[name] += 3
                if name == "y" and far[name] >= 50:
                    has_died = True
            if has_died:
                break
            searches.computed({name: far[name] for name in inside if name in far})
            admitted(searches)
        if not has_died:
            break
        num_deaths += 1
        condemned = searches.died(2)
        if condemned:
            break
        admitted(searches)
    assert condemned == ["y"]
    assert num_deaths <= 3
    assert searches.works["x"].strikes == 0


def test_kills_from_outside_at_other_places_are_nobodys(searches: Ledger) -> None:
    for name in "ay":
        searches.close(name)
    for far in (50, 0, 10, 30, 5, 60, 20):
        searches.computed({"x": far})
        assert searches.died(2, by_kill=True) == []
        assert searches.works["x"].strikes == 0
        assert admitted(searches) == ["x"]
    for far, condemned in ((59, []), (60, ["x"])):  # as when memory runs out where it did before
        searches.computed({"x": far})
        assert searches.died(2, by_kill=True) == condemned
        assert admitted(searches) == ["x"]


def test_what_comes_farther_in_each_life_is_never_condemned(searches: Ledger) -> None:
    for name in "ay":
        searches.close(name)
    for life in range(20):
        searches.computed({"x": 10 * life + 5})
        assert searches.died(2) == []
        assert admitted(searches) == ["x"]
