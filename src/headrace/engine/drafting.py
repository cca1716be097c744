"""Guesses of the tokens that follow, so that one pass of the model gives several.

What a sequence produces does not depend on them: see `rows`.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from headrace.engine.sequence import Sequence

_MOST_FORCED = 64
"""Tokens without a choice that are computed in one step"""


class Drafting:
    """Sets the drafts of the running sequences before each step."""

    def __init__(self, *, rope_switch: int | None) -> None:
        self._rope_switch = rope_switch

    def draft(self, sequences: SequenceOf[Sequence]) -> None:
        """Set every sequence's drafts: tokens that its constraint leaves no choice about (jump ahead)."""
        for sequence in sequences:
            if sequence.constraint is None:
                continue
            most = min(self._room(sequence), _MOST_FORCED)
            sequence.drafts = sequence.constraint.forced(most) if most > 0 else []

    def _room(self, sequence: Sequence) -> int:
        """Drafts that can be of use: the token after the last one is the last that the sequence may have."""
        if sequence.mirostat_mu is not None:
            return 0  # each draw depends on the one before it
        known = len(sequence.token_ids)
        room = sequence.request.max_tokens - sequence.num_output - 1
        if self._rope_switch is not None and known <= self._rope_switch:
            room = min(room, self._rope_switch - known)  # keys beyond are rotated otherwise
        return room
