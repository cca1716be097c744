"""How many guesses are worth computing in a step: as many as make the most tokens in a second.

A step over more tokens takes longer, and how much longer depends on the machine and the model: nothing while memory is
the limit, in proportion once arithmetic is, with stairs where the kernels' tiles end. So it is measured, in every step.
None of this can change a result; see `rows`.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections.abc import Sequence as SequenceOf

_MOST = 64
"""Tokens of a step up to which its time is measured; guesses never make it larger"""
_EACH = 16
"""Up to so many each number is measured by itself, beyond it in fours"""
_MEASURED = tuple(n if n <= _EACH else -(-n // 4) * 4 for n in range(_MOST + 1))
"""[tokens]: the number under which steps of so many are measured"""
_FIRST_STEPS = 8
_CHECK = 32
"""Steps after which one without guesses is measured again, while these seem to be worth no more than …"""
_CLEARLY = 1.5
"""… so many times as much as none"""
_USUAL_SLOPE = 0.2
"""What a token is thought to cost beside the first one, before it was measured"""
_WORTH = 1.05
"""A step with guesses must be expected to be better than one without by this much, since chances are estimates"""
_RATE = 1 / 16
_SCALE_RATE = 1 / 8
_WIDEST = 0.5
"""Most that one step's time may differ from what was expected, as a logarithm: others use the machine too"""
_HOPE = 0.05
"""At most so much cheaper a number of tokens is thought to be that was never measured, or not for long"""
_WIDE = 4
"""Tokens from the next measured number from which on that much is hoped for; stairs are about so wide"""
_FAR = 16
"""Tokens over which stairs are evened out"""
_OLD = 5000
"""Steps after which a measurement is old"""
_TRIAL_DEPTH = 2
"""Guesses in a row while it is not known what a draft model's pass takes"""
_REFRESH = 64
"""Steps for which costs are taken from a table"""


class StepCosts:
    """The time of a step by its number of tokens, relative to one another.

    A common factor follows the latest steps quickly, since contexts grow and other processes come and go.
    """

    def __init__(self) -> None:
        self._scale = 0.0
        self._costs = [0.0] * (_MOST + 1)
        """Logarithms, beside the scale"""
        self._counts = [0] * (_MOST + 1)
        self._last = [0] * (_MOST + 1)
        """The step that last had so many tokens"""
        self._num_steps = 0
        self._known: list[int] = []
        """The numbers of tokens that were measured, ascending"""
        self._table: list[float] = []
        """`cost`, as it was at some step not long ago"""
        self._least: dict[int, float] = {}
        """`least_chance`, likewise"""

    @property
    def are_known(self) -> bool:
        """Whether enough was measured to think of guesses."""
        return self._num_steps >= _FIRST_STEPS

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step of `num_tokens` tokens, each with its row of logits, took so long."""
        if num_tokens > _MOST:
            return
        measured = _MEASURED[num_tokens]
        time = math.log(seconds * measured / num_tokens)
        num_tokens = measured
        self._num_steps += 1
        self._last[num_tokens] = self._num_steps
        count = self._counts[num_tokens] + 1
        if count == 1:
            self._costs[num_tokens] = math.log(self._unmeasured(num_tokens)) if self._known else time
            insort(self._known, num_tokens)
        error = min(max(time - self._scale - self._costs[num_tokens], -_WIDEST), _WIDEST)
        self._costs[num_tokens] += max(1 / (count + 1), _RATE) * error
        if count > 4:
            self._scale += _SCALE_RATE * error
        self._counts[num_tokens] = count
        if count < 4 or self._num_steps % _REFRESH == 0:
            self._table.clear()
            self._least.clear()

    def wants_check(self, num_tokens: int) -> bool:
        """Whether a step of so many tokens was not measured for a while."""
        return self._num_steps - self._last[_MEASURED[min(num_tokens, _MOST)]] >= _CHECK

    def seconds(self, num_tokens: int) -> float:
        """About the time of a step of so many tokens."""
        return math.exp(self._scale) * self.cost(num_tokens)

    def cost(self, num_tokens: int) -> float:
        """The time of a step of so many tokens, in a unit of its own. Something must have been measured."""
        if num_tokens > _MOST:
            return self._unmeasured(num_tokens)
        if not self._table:
            self._table = [0.0, *(self._cost(each) for each in range(1, _MOST + 1))]
        return self._table[num_tokens]

    def least_chance(self, num_plain: int) -> float:
        """A step of so many tokens is not better with guesses (`most_gain`) that are all less sure than this."""
        least = self._least.get(num_plain)
        if least is None:
            needed = _WORTH * num_plain / self.cost(num_plain)
            counts = range(1, _MOST - num_plain + 1)
            least = min(((needed * self.cost(num_plain + n) - num_plain) / n for n in counts), default=math.inf)
            self._least[num_plain] = least
        return least

    def _cost(self, num_tokens: int) -> float:
        measured = _MEASURED[num_tokens]
        if not self._counts[measured]:
            return self._unmeasured(num_tokens)
        age = min((self._num_steps - self._last[measured]) / _OLD, 1.0)
        return math.exp(self._costs[measured]) * (1 - _HOPE * age) * num_tokens / measured

    def _unmeasured(self, num_tokens: int) -> float:
        """On the line between measured numbers, or on one beyond them.

        A bit below, the further it is from them: so those that may be good are tried.
        """
        known = self._known
        at = bisect(known, num_tokens)
        near = known[max(at - 1, 0)]
        cost, distance = math.exp(self._costs[near]), num_tokens - near
        if 0 < at < len(known):
            slope = (math.exp(self._costs[known[at]]) - cost) / (known[at] - near)
            distance = min(distance, known[at] - num_tokens)
        else:
            slope = self._slope_at_the_end(near, cost) if at else cost * _USUAL_SLOPE / _usual(near)
        line = cost + slope * (num_tokens - near)
        return line * (1 - _HOPE * min(abs(distance) / _WIDE, 1.0))

    def _slope_at_the_end(self, last: int, cost: float) -> float:
        """What each token beyond the last measured number costs: at most as much as one before it on average."""
        usual = cost * _USUAL_SLOPE / _usual(last)
        far = next((each for each in reversed(self._known) if each <= last - _WIDE), 0)
        if not far:
            return usual
        return min(max((cost - math.exp(self._costs[far])) / (last - far), usual / 4), cost / last)


def _usual(num_tokens: int) -> float:
    return 1 + _USUAL_SLOPE * (num_tokens - 1)


def most_gain(costs: StepCosts, num_plain: int, chances: SequenceOf[SequenceOf[float]]) -> list[int]:
    """How many guesses of each sequence to compute, in a step that has `num_plain` tokens without them.

    `chances[s][j]` is the probability that the first j + 1 guesses of sequence s are right; it falls with j.
    """
    ranked = sorted(((each, at) for at, own in enumerate(chances) for each in own), reverse=True)
    least = _WORTH * num_plain / costs.cost(num_plain)
    most_tokens = least
    best, expected = 0, float(num_plain)
    for count, (chance, _) in enumerate(ranked[: max(_MOST - num_plain, 0)], 1):
        expected += chance
        tokens = expected / costs.cost(num_plain + count)
        if tokens > most_tokens:
            best, most_tokens = count, tokens
    if most_tokens < _CLEARLY * least and costs.wants_check(num_plain):
        best = 0
    lengths = [0] * len(chances)
    for _, at in ranked[:best]:
        lengths[at] += 1
    return lengths


def worth_beside_prompts(costs: StepCosts, num_plain: int, chances: SequenceOf[SequenceOf[float]]) -> list[int]:
    """The same in a step that also computes prompts, whose many tokens make each further one cost the same.

    `num_plain` are the step's tokens without guesses and prompts.
    """
    least = least_beside_prompts(costs, num_plain)
    return [sum(chance > least for chance in own) for own in chances]


def least_beside_prompts(costs: StepCosts, num_plain: int) -> float:
    """The chance from which on a guess gives more in a second than the tokens that are no guesses."""
    each = (costs.cost(num_plain + _FAR) - costs.cost(num_plain)) / _FAR
    return _WORTH * each * num_plain / costs.cost(num_plain)


def best_depth(
    costs: StepCosts,
    draft_costs: StepCosts,
    num_plain: int,
    expected: float,
    chances: SequenceOf[float],
    most: int,
) -> int:
    """How many guesses in a row a draft model should make for each of some sequences.

    None at times, so that the time of a step without any stays known. Without them the step has `num_plain` tokens and
    is expected to give `expected`. `chances` are those that a guess is right if the one before it was; each row of
    guesses takes a pass of the draft model.
    """
    batch, best, passes = len(chances), 0, 0.0
    least = most_tokens = _WORTH * expected / costs.seconds(num_plain)
    for depth in range(1, min(most, (_MOST - num_plain) // max(batch, 1)) + 1):
        expected += sum(chance**depth for chance in chances)
        passes += draft_costs.seconds(batch) if draft_costs.are_known else 0.0
        tokens = expected / (costs.seconds(num_plain + batch * depth) + passes)
        if tokens > most_tokens:
            best, most_tokens = depth, tokens
    if most_tokens < _CLEARLY * least and costs.wants_check(num_plain):
        return 0
    return best if draft_costs.are_known else min(best, _TRIAL_DEPTH)
