"""The gain model on simulated machines: it learns what steps cost, and never loses much by that."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from headrace.engine.gain import StepCosts, best_depth, most_gain, worth_beside_prompts

Machine = Callable[[int], float]

MACHINES: dict[str, Machine] = {
    "memory": lambda tokens: 1 + 0.01 * tokens,
    "arithmetic": lambda tokens: 0.1 + tokens,
    "both": lambda tokens: max(1.0, tokens / 6),
    "stairs": lambda tokens: 0.4 + 0.8 * -(-tokens // 4),
    "an expensive third": lambda tokens: {1: 1.0, 2: 1.0, 3: 1.5, 4: 1.2}.get(tokens, 0.25 * tokens + 0.4),
}


def learned(machine: Machine, most: int, noise: float = 0.0, seed: int = 0) -> StepCosts:
    costs, random = StepCosts(), np.random.default_rng(seed)
    for _ in range(40):
        for tokens in range(1, most + 1):
            costs.observe(tokens, machine(tokens) * float(np.exp(noise * random.standard_normal())))
    return costs


@pytest.mark.parametrize("name", MACHINES)
def test_relative_costs_are_learned(name: str) -> None:
    costs, machine = learned(MACHINES[name], 12, noise=0.05), MACHINES[name]
    for tokens in range(2, 13):
        assert costs.cost(tokens) / costs.cost(1) == pytest.approx(machine(tokens) / machine(1), rel=0.15)


def test_what_was_not_measured_lies_between_its_neighbours() -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.observe(2, 1.0)
        costs.observe(10, 2.0)
    assert 0.9 < costs.cost(6) / costs.cost(2) < 1.5
    assert costs.cost(100) > costs.cost(64) > costs.cost(10)
    assert 0.5 < costs.cost(1) / costs.cost(2) < 1


def test_a_slower_machine_leaves_the_ratios() -> None:
    costs = learned(MACHINES["stairs"], 8)
    before = costs.cost(4) / costs.cost(1)
    for _ in range(200):
        costs.observe(1, 3 * MACHINES["stairs"](1))
    assert costs.seconds(1) == pytest.approx(3 * MACHINES["stairs"](1), rel=0.1)
    assert 0.5 * before < costs.cost(4) / costs.cost(1) < before


def test_one_late_step_changes_little() -> None:
    costs = learned(MACHINES["both"], 8)
    before = costs.cost(5) / costs.cost(1)
    costs.observe(5, 100.0)
    assert costs.cost(5) / costs.cost(1) < 1.1 * before


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_lengths_are_found(name: str, seed: int) -> None:
    costs, random = learned(MACHINES[name], 16), np.random.default_rng(seed)
    chances = [np.cumprod(random.uniform(0.3, 1, 4)).tolist() for _ in range(3)]
    num_plain = 3 + seed

    def rate(lengths: tuple[int, ...]) -> float:
        expected = num_plain + sum(sum(own[:length]) for own, length in zip(chances, lengths, strict=True))
        return expected / costs.cost(num_plain + sum(lengths))

    best = max(product(range(5), repeat=3), key=rate)
    found = tuple(most_gain(costs, num_plain, chances))
    if rate(best) > 1.05 * rate((0, 0, 0)):
        assert rate(found) == pytest.approx(rate(best))
    else:
        assert found == (0, 0, 0)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_depth_of_a_draft_model_is_found(name: str, seed: int) -> None:
    costs, drafts = learned(MACHINES[name], 30), learned(lambda tokens: 0.03 + 0.01 * tokens, 4)
    chances = np.random.default_rng(seed).uniform(0.4, 0.97, 1 + seed % 3).tolist()
    num_plain = len(chances) + seed

    def rate(depth: int) -> float:
        expected = num_plain + sum(chance**at for chance in chances for at in range(1, depth + 1))
        seconds = costs.seconds(num_plain + depth * len(chances)) + depth * drafts.seconds(len(chances))
        return expected / seconds

    best = max(range(9), key=rate)
    found = best_depth(costs, drafts, num_plain, float(num_plain), chances, 8)
    assert found == (best if rate(best) > 1.05 * rate(0) else 0)
    assert best_depth(costs, StepCosts(), num_plain, float(num_plain), chances, 8) <= 2


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("num_plain", [1, 3, 8, 30, 64])
def test_less_sure_guesses_than_the_least_chance_are_never_worth_it(name: str, num_plain: int) -> None:
    costs, random = learned(MACHINES[name], 40), np.random.default_rng(num_plain)
    least = costs.least_chance(num_plain)
    for _ in range(100):
        believed = random.uniform(0, min(max(1.2 * least, 0.1), 1.0))
        chances = [[believed ** (1 + j / 4) for j in range(15)] for _ in range(num_plain)]
        if believed < least:
            assert not any(most_gain(costs, num_plain, chances))


def test_a_guess_that_may_be_worth_it_is_above_the_least_chance() -> None:
    costs = learned(MACHINES["both"], 12)
    assert costs.least_chance(1) < 0.2
    assert any(most_gain(costs, 1, [[0.4]]))
    assert learned(MACHINES["arithmetic"], 12).least_chance(8) > 0.9


def test_steps_without_guesses_are_measured_at_times() -> None:
    costs = learned(MACHINES["both"], 12)
    hardly, clearly = [[0.35]], [[1.0, 1.0, 1.0, 1.0]]
    costs.observe(1, MACHINES["both"](1))
    assert any(most_gain(costs, 1, hardly))
    for _ in range(100):
        costs.observe(2, MACHINES["both"](2))
    assert not any(most_gain(costs, 1, hardly)), "it is time for one"
    assert any(most_gain(costs, 1, clearly)), "but not where that would cost much"
    costs.observe(1, MACHINES["both"](1))
    assert any(most_gain(costs, 1, hardly))


def test_beside_prompts_a_guess_must_give_as_much_as_its_time_gives_otherwise() -> None:
    costs = learned(MACHINES["both"], 30)
    assert worth_beside_prompts(costs, 1, [[0.9, 0.5, 0.1, 0.05]]) == [2]
    assert worth_beside_prompts(learned(MACHINES["arithmetic"], 30), 20, [[0.9, 0.5]]) == [0]


def simulate(machine: Machine, right: float, believed: float, batch: int, seed: int) -> float:
    """How many times as fast as without guesses, once the costs of 500 steps were measured.

    Guesses are right with chance `right`; what is believed follows what was seen, from `believed` on.
    """
    random, costs = np.random.default_rng(seed), StepCosts()
    chance, seconds, tokens = believed, 0.0, 0
    for step in range(1500):
        if step == 500:
            seconds, tokens = 0.0, 0
        lengths = [0] * batch
        if costs.are_known:
            lengths = most_gain(costs, batch, [[chance**j for j in range(1, 16)]] * batch)
        time = machine(batch + sum(lengths)) * float(np.exp(0.1 * random.standard_normal()))
        costs.observe(batch + sum(lengths), time)
        seconds += time
        for length in lengths:
            tokens += 1
            for at in range(max(length, 1)):  # the first guess is checked in any case
                is_right = random.random() < right
                chance += 0.1 * (0.97 * is_right - chance)
                if not is_right:
                    break
                tokens += at < length
    return tokens / batch * machine(batch) / seconds


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("batch", [1, 2, 8, 24])
def test_it_is_never_slower_than_without(name: str, batch: int) -> None:
    for right, believed in product((0.0, 0.3, 0.7, 0.95), (0.1, 0.9)):
        assert simulate(MACHINES[name], right, believed, batch, seed=1) > 0.97, (right, believed)


@pytest.mark.parametrize("name", ["memory", "both", "stairs", "an expensive third"])
def test_what_repeats_is_faster_by_far(name: str) -> None:
    assert simulate(MACHINES[name], 0.95, 0.2, batch=1, seed=2) > 2
