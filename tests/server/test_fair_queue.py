"""The queue that tenants share: nobody starves, weights hold, nothing is lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.server.fair_queue import QUANTUM, FairQueue, Ticket


def ticket(number: int, tenant: str = "a", cost: int = 100, **rest: float) -> Ticket:
    return Ticket(id=str(number), tenant=tenant, cost=cost, **rest)


def drain(queue: FairQueue[Ticket]) -> list[Ticket]:
    taken = []
    while (next_one := queue.next()) is not None:
        queue.take(next_one)
        taken.append(next_one)
    return taken


def test_one_tenant_is_served_as_it_came_by_priority() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    for number, priority in enumerate([0, 0, -1, 5, -1]):
        queue.push(ticket(number, priority=priority))
    assert [one.id for one in drain(queue)] == ["2", "4", "0", "1", "3"]


def test_a_priority_is_worth_nothing_against_another_tenant() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(40):
        queue.push(ticket(number, "loud", cost=QUANTUM, priority=-1000))
        queue.push(ticket(100 + number, "quiet", cost=QUANTUM))
    first = Counter(one.tenant for one in drain(queue)[:20])
    assert first == {"loud": 10, "quiet": 10}


def test_a_lower_level_goes_first_whoevers_it_is() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(10):
        queue.push(ticket(number, "a", level=7))
    queue.push(ticket(10, "b"))
    assert [one.id for one in drain(queue)] == ["10", *(str(number) for number in range(10))]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_thousand_requests_do_not_starve_one(many_cost: int, one_cost: int, many: float, one: float) -> None:
    """Before the one runs, the many get at most what their weight gives them while it saves up, and a turn more."""
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(1000):
        queue.push(ticket(number, "many", many_cost, weight=many))
    for _ in range(10):
        first = queue.next()
        assert first is not None
        queue.take(first)
    queue.push(ticket(1000, "one", one_cost, weight=one))
    before = 0
    while (taken := queue.next()) is not None and taken.tenant == "many":
        queue.take(taken)
        before += taken.cost
    assert taken is not None
    assert before <= many / one * (one_cost + QUANTUM * one) + many_cost + 2 * QUANTUM * many


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.floats(0.5, 4), min_size=2, max_size=4),
    st.data(),
)
def test_weights_hold_in_the_long_run(weights: list[float], data: st.DataObject) -> None:
    costs = [data.draw(st.integers(200, 2000)) for _ in weights]
    queue: FairQueue[Ticket] = FairQueue()
    number = 0
    for tenant, (cost, weight) in enumerate(zip(costs, weights, strict=True)):
        queue.push(ticket(number, str(tenant), cost, weight=weight))
        number += 1
    had: Counter[str] = Counter()
    while had.total() < 200_000:
        taken = queue.next()
        assert taken is not None
        number += 1  # everybody always has something waiting
        tenant = int(taken.tenant)
        queue.push(ticket(number, taken.tenant, costs[tenant], weight=weights[tenant]))
        queue.take(taken)
        had[taken.tenant] += taken.cost
    for tenant, weight in enumerate(weights):
        fair = 200_000 * weight / sum(weights)
        assert abs(had[str(tenant)] - fair) <= 0.05 * fair + 2 * max(costs) + 2 * QUANTUM * max(weights)


def test_what_was_charged_too_much_is_given_back() -> None:
    """One says 2,000 tokens and uses 500, the other says and uses 500: both get as much."""
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(2000):
        queue.push(ticket(number, "boaster", 2000))
        queue.push(ticket(5000 + number, "honest", 500))
    had: Counter[str] = Counter()
    for _ in range(1000):
        taken = queue.next()
        assert taken is not None
        queue.take(taken)
        queue.correct(taken, 500)
        had[taken.tenant] += 500
    assert 0.9 < had["boaster"] / had["honest"] < 1.1


def test_a_debt_is_remembered_while_others_wait() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    queue.push(ticket(0, "debtor", 1))
    for number in range(1, 50):
        queue.push(ticket(number, "other", QUANTUM))
    first = queue.next()
    assert first is not None
    assert first.tenant == "debtor"
    queue.take(first)
    queue.correct(first, 10 * QUANTUM)
    queue.push(ticket(50, "debtor", 1))
    assert [one.tenant for one in drain(queue)].index("debtor") >= 9


def test_nobody_saves_up_credit_while_he_waits_for_nothing() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    queue.push(ticket(0, "saver", 2000))
    for number in range(1, 50):
        queue.push(ticket(number, "other", QUANTUM))
    for _ in range(10):
        taken = queue.next()
        assert taken is not None
        queue.take(taken)
        queue.correct(taken, 0 if taken.tenant == "saver" else taken.cost)
    for number in range(100, 120):
        queue.push(ticket(number, "saver", QUANTUM))
    assert Counter(one.tenant for one in drain(queue)[:10])["saver"] <= 6


def test_a_small_weight_and_a_large_cost_take_no_time() -> None:
    queue: FairQueue[Ticket] = FairQueue()
    queue.push(ticket(0, "a", 10**12, weight=0.001))
    queue.push(ticket(1, "b", 10**12, weight=0.001))
    assert len(drain(queue)) == 2


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("push"),
                st.sampled_from("abc"),
                st.integers(1, 4000),
                st.integers(-2, 2),
                st.integers(0, 2),
            ),
            st.tuples(st.just("take")),
            st.tuples(st.just("drop"), st.integers(0, 100)),
        ),
        max_size=100,
    )
)
def test_nothing_is_lost_and_nothing_comes_twice(deeds: list[tuple]) -> None:
    queue: FairQueue[Ticket] = FairQueue()
    waiting: dict[str, Ticket] = {}
    for number, deed in enumerate(deeds):
        if deed[0] == "push":
            one = ticket(number, deed[1], deed[2], priority=deed[3], level=deed[4])
            queue.push(one)
            waiting[one.id] = one
        elif deed[0] == "drop":
            assert queue.drop(str(deed[1])) is waiting.pop(str(deed[1]), None)
        else:
            taken = queue.next()
            assert queue.next() is taken
            assert (taken is None) == (not waiting)
            if taken is not None:
                assert taken.level == min(one.level for one in waiting.values())
                queue.take(taken)
                assert waiting.pop(taken.id) is taken
        assert len(queue) == len(waiting)
    assert {one.id for one in drain(queue)} == set(waiting)
