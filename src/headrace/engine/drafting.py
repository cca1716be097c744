"""Guesses of the tokens that follow, so that one pass of the model gives several.

What a sequence produces does not depend on them: see `rows`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from collections.abc import Sequence as SequenceOf

from headrace.engine.gain import StepCosts, most_gain, worth_beside_prompts
from headrace.engine.lookup import PromptLookup
from headrace.engine.sequence import Sequence

_MOST_FORCED = 64
"""Tokens without a choice that are computed in one step"""
_MOST_GUESSED = 15
"""Guesses of a sequence in one step"""
_TRIAL = 32
"""Steps for which it is taken as known whether a batch is too large for guesses"""

_LOOK_SECONDS = 2.5e-6
"""About what it takes to look for a sequence's next guess …"""
_LOOK_SHARE = 0.01
"""… and how much of a step's time all these looks may take"""
_MOST_PATIENCE = 8


class Drafting:
    """Sets the drafts of the running sequences before each step, and learns from it what they are worth.

    Counts steps of a sequence with guesses, guesses that were computed, and those that were right. Tokens that a
    constraint forces are no guesses.
    """

    def __init__(self, *, rope_switch: int | None, lookup: bool) -> None:
        self.drafts = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._rope_switch = rope_switch
        self._looks_up = lookup
        self._costs = StepCosts()
        self._num_drafted = 0
        """Drafts of the step, forced ones included"""
        self._guessing: list[Sequence] = []
        """Sequences whose drafts are guesses"""
        self._tried = 0
        """Sequences for which _tried_too_large holds …"""
        self._trial_steps = 0
        """… for so many steps"""
        self._tried_too_large = False
        self._patience = 1
        """Tokens after which a sequence whose guesses were not right lately is looked at again"""

    def draft(self, sequences: SequenceOf[Sequence]) -> None:
        """Set every sequence's drafts: tokens that its constraint leaves no choice about (jump ahead), or guesses."""
        self._num_drafted = 0
        self._guessing = []
        for sequence in sequences:
            if sequence.drafts:
                sequence.drafts = []
            if sequence.constraint is not None:
                most = min(self._room(sequence), _MOST_FORCED)
                sequence.drafts = sequence.constraint.forced(most) if most > 0 else []
                self._num_drafted += len(sequence.drafts)
        if self._looks_up and sequences and self._costs.are_known:
            self._look_up(sequences)

    def learn(self, plan: Mapping[Sequence, int], sampled: Mapping[Sequence, Sized], seconds: float) -> None:
        """A step computed `plan` in so many seconds and gave `sampled`."""
        if not self._looks_up:
            return
        num_tokens = sum(plan.values())
        if num_tokens == len(plan) + self._num_drafted:  # else there are prompts in it
            self._costs.observe(num_tokens, seconds)
        for sequence in self._guessing:
            num_drafts = plan.get(sequence, 1) - 1
            if num_drafts > 0:
                self.drafts += 1
                self.draft_tokens += num_drafts
                num_right = len(sampled[sequence]) - 1
                self.accepted_tokens += num_right
                if sequence.lookup is not None:
                    sequence.lookup.credit += num_right

    def _look_up(self, sequences: SequenceOf[Sequence]) -> None:
        """Guess from the sequences' own texts, as far as it is worth the time."""
        if self._is_too_large(len(sequences)):
            return
        num_decodes = 0
        ready: list[tuple[Sequence, PromptLookup]] = []
        for sequence in sequences:
            known = len(sequence.token_ids)
            if known - sequence.num_computed != 1:
                continue  # its prompt is not computed yet
            num_decodes += 1
            if sequence.beam is not None:
                continue
            lookup = sequence.lookup
            if lookup is None:
                lookup = sequence.lookup = PromptLookup(sequence.num_prompt)
            if known < lookup.due:
                continue
            if lookup.follow(sequence.token_ids) and not sequence.drafts:
                ready.append((sequence, lookup))
            lookup.due = known + (1 if lookup.credit > 1 else self._patience)
        if not ready:
            return
        num_plain = num_decodes + self._num_drafted
        rooms = [min(self._room(sequence), _MOST_GUESSED) for sequence, _ in ready]
        chances = [lookup.chances(room) for (_, lookup), room in zip(ready, rooms, strict=True)]
        choose = most_gain if num_decodes == len(sequences) else worth_beside_prompts
        for (sequence, lookup), length in zip(ready, choose(self._costs, num_plain, chances), strict=True):
            if length:
                sequence.drafts = lookup.guess(sequence.token_ids, length)
                self._num_drafted += length
                self._guessing.append(sequence)

    def _is_too_large(self, num_sequences: int) -> bool:
        """Whether there are so many sequences that even good guesses are not worth their time; asked now and then."""
        self._trial_steps -= 1
        if num_sequences != self._tried or self._trial_steps <= 0:
            self._tried, self._trial_steps = num_sequences, _TRIAL
            good = [[0.95]] * (_MOST_GUESSED + 1)
            seconds = self._costs.seconds(num_sequences)
            self._patience = min(math.ceil(num_sequences * _LOOK_SECONDS / (_LOOK_SHARE * seconds)), _MOST_PATIENCE)
            self._tried_too_large = num_sequences > 1 and not any(most_gain(self._costs, num_sequences, good))
        return self._tried_too_large

    def _room(self, sequence: Sequence) -> int:
        """Drafts that can be of use: the token after the last one is the last that the sequence may have."""
        if sequence.mirostat_mu is not None:
            return 0  # each draw depends on the one before it
        known = len(sequence.token_ids)
        room = sequence.request.max_tokens - sequence.num_output - 1
        if self._rope_switch is not None and known <= self._rope_switch:
            room = min(room, self._rope_switch - known)  # keys beyond are rotated otherwise
        return room
