"""Engines that compute guesses whatever they cost: all that are found, or some of which it is known what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from toy import VOCABULARY

from headrace.engine.engine import Engine
from headrace.engine.sequence import Sequence as EngineSequence


class Free:
    """A machine on which guesses cost nothing: all are computed."""

    are_known = True

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit

    def observe(self, num_tokens: int, seconds: float) -> None:
        pass

    def cost(self, num_tokens: int) -> float:
        return 1.0

    def seconds(self, num_tokens: int) -> float:
        return self.unit

    def least_chance(self, num_plain: int) -> float:
        return 0.0

    def wants_check(self, num_tokens: int) -> bool:
        return False


def speculating(engine: Engine) -> Engine:
    engine._drafting._costs = Free()  # type: ignore[assignment]
    if engine._drafting._model is not None:
        engine._drafting._model.costs = Free(0.02)  # type: ignore[assignment]
    return engine


def guessing(
    outputs: Mapping[tuple[str, int], Sequence[int]], random: np.random.Generator
) -> Callable[[Sequence[EngineSequence]], None]:
    """In place of `Drafting.draft`: up to four tokens of the known outputs of toy sequences, then one at random."""

    def draft(sequences: Sequence[EngineSequence]) -> None:
        for s in sequences:
            room = s.request.max_tokens - s.num_output - 1
            right = list(outputs[s.request.id, s.index][s.num_output :][:room])
            s.drafts = right[: int(random.integers(0, 5))]
            if room > len(s.drafts):
                s.drafts = [*s.drafts, int(random.integers(0, VOCABULARY))]

    return draft
