"""How much of a predicted text comes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

_RUN = 3
"""Tokens in a row that are found again behind a place where the output went its own way"""


class PredictedText:
    """Token ids that outputs are likely to repeat, and where in them each run of tokens ends."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = token_ids

    @cached_property
    def ends(self) -> dict[tuple[int, ...], list[int]]:
        """Positions behind each run, ascending."""
        ends: dict[tuple[int, ...], list[int]] = {}
        for end in range(_RUN, len(self.token_ids) + 1):
            ends.setdefault(tuple(self.token_ids[end - _RUN : end]), []).append(end)
        return ends


class PredictionCount:
    """Counts the predicted tokens that an output has, in their order, as it comes; each at most once.

    It depends on these two texts alone, not on which guesses were computed. The completions of a request share the
    predicted one.
    """

    def __init__(self, predicted: PredictedText) -> None:
        self._predicted = predicted
        self._at = 0
        """The predicted token that is expected next"""
        self._last: tuple[int, ...] = ()
        self.num_accepted = 0

    @property
    def num_rejected(self) -> int:
        """Predicted tokens that have not come."""
        return len(self._predicted.token_ids) - self.num_accepted

    def push(self, token_ids: Sequence[int]) -> None:
        """Go on with the output."""
        predicted = self._predicted.token_ids
        for token_id in token_ids:
            self._last = (*self._last, token_id)[-_RUN:]
            if self._at < len(predicted) and predicted[self._at] == token_id:
                self._at += 1
                self.num_accepted += 1
                continue
            ends = self._predicted.ends.get(self._last, ())
            nearest = bisect_left(ends, self._at + 1)
            if nearest < len(ends):
                self.num_accepted += min(_RUN, ends[nearest] - self._at)
                self._at = ends[nearest]
