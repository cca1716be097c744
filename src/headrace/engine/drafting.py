"""Guesses of the tokens that follow, so that one pass of the model gives several.

What a sequence produces does not depend on them: see `rows`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sized
from collections.abc import Sequence as SequenceOf

from headrace.engine.draft_model import DraftModel
from headrace.engine.gain import StepCosts, best_depth, most_gain, worth_beside_prompts
from headrace.engine.lookup import PromptLookup
from headrace.engine.sequence import Sequence

_MOST_FORCED = 64
"""Tokens without a choice that are computed in one step"""
_MOST_GUESSED = 15
"""Guesses of a sequence in one step"""
_MOST_DEPTH = 8
"""The same of a draft model, each of which takes a pass"""
_TRIAL = 32
"""Steps for which it is taken as known whether a batch is too large for guesses"""
_LOOK_SECONDS = 6e-6
"""About what it takes to look for a sequence's next guess …"""
_LOOK_SHARE = 0.01
"""… and how much of a step's time all these looks may take"""
_MOST_PATIENCE = 8
_SHORTEST_REST = 32
"""Steps without a draft model whose guesses are not worth their time …"""
_LONGEST_REST = 256
"""… doubled each time up to so many"""
_PROBES = 4
"""Steps after a rest in which it guesses in any case, to find out whether it is better by now"""
_FREE = 0.8
"""A looked up guess takes no pass: it is preferred down to so much of a draft model's chance"""


class Drafting:
    """Sets the drafts of the running sequences before each step, and learns from it what they are worth.

    Counts steps of a sequence with guesses, guesses that were computed, and those that were right. Tokens that a
    constraint forces are no guesses.
    """

    def __init__(self, *, rope_switch: int | None, lookup: bool, model: DraftModel | None = None) -> None:
        self.drafts = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._rope_switch = rope_switch
        self._looks_up = lookup
        self._model = model
        self._costs = StepCosts()
        self._num_drafted = 0
        """Drafts of the step, forced ones included"""
        self._guessing: dict[Sequence, float] = {}
        """Sequences whose drafts are guesses, and how many of them are expected to be right"""
        self._asked: list[Sequence] = []
        """Of those, the draft model's"""
        self._tried = 0
        """Sequences for which _tried_too_large holds …"""
        self._trial_steps = 0
        """… for so many steps"""
        self._tried_too_large = False
        self._num_blind = 0
        """Steps in which no sequence is looked at, since none is due"""
        self._patience = 1
        """Tokens after which a sequence whose guesses were not right lately is looked at again"""
        self._rest = 0
        """Steps of the draft model's last rest …"""
        self._resting = 0
        """… and how many are left of it, probes at its end included"""
        self._seconds_in_model = 0.0
        """Of the step"""

    def draft(self, sequences: SequenceOf[Sequence]) -> None:
        """Set every sequence's drafts: tokens that its constraint leaves no choice about (jump ahead), or guesses."""
        self._num_drafted = 0
        self._guessing = {}
        self._seconds_in_model = 0.0
        for sequence in sequences:
            if sequence.drafts:
                sequence.drafts = []
            if sequence.constraint is not None:
                most = min(self._room(sequence), _MOST_FORCED)
                sequence.drafts = sequence.constraint.forced(most) if most > 0 else []
                self._num_drafted += len(sequence.drafts)
        if not self._looks_up or not sequences or not self._costs.are_known or self._is_too_large(len(sequences)):
            return
        if self._num_blind:
            self._num_blind -= 1
        else:
            self._look_up(sequences)
        if self._model is not None:
            started = time.perf_counter()
            self._ask(self._model, sequences)
            self._seconds_in_model = time.perf_counter() - started

    def learn(self, plan: Mapping[Sequence, int], sampled: Mapping[Sequence, Sized], seconds: float) -> None:
        """A step computed `plan` in so many seconds and gave `sampled`."""
        if not self._looks_up:
            return
        num_tokens = sum(plan.values())
        if num_tokens == len(plan) + self._num_drafted:  # else there are prompts in it
            self._costs.observe(num_tokens, seconds - self._seconds_in_model)
        for sequence in self._guessing:
            num_drafts = min(len(sequence.drafts), plan.get(sequence, 1) - 1)
            if num_drafts <= 0:
                continue  # there was no room for them, or the sequence was put back and begins again
            num_right = len(sampled[sequence]) - 1
            self.drafts += 1
            self.draft_tokens += num_drafts
            self.accepted_tokens += num_right
            if self._model is not None and sequence in self._asked:
                self._model.learn(sequence, num_drafts, num_right)
            elif sequence.lookup is not None:
                sequence.lookup.credit += num_right

    def _look_up(self, sequences: SequenceOf[Sequence]) -> None:
        """Guess from the sequences' own texts, as far as it is worth the time."""
        num_decodes = 0
        soonest = _MOST_PATIENCE
        ready: list[tuple[Sequence, PromptLookup]] = []
        for sequence in sequences:
            known = len(sequence.token_ids)
            if known - sequence.num_computed != 1:
                continue  # its prompt is not computed yet
            num_decodes += 1
            if sequence.beam is not None or sequence.scoring is not None:
                continue
            lookup = sequence.lookup
            if lookup is None:
                lookup = sequence.lookup = PromptLookup(sequence.num_prompt + sequence.num_inserted)
            if known < lookup.due:
                soonest = min(soonest, lookup.due - known)
                continue
            if lookup.follow(sequence.lookup_text) and not sequence.drafts:
                ready.append((sequence, lookup))
            patience = 1 if lookup.credit > 1 else self._patience
            lookup.due = known + patience
            soonest = min(soonest, patience)
        if not ready:
            self._num_blind = soonest - 1
            return
        num_plain = num_decodes + self._num_drafted
        chances = [self._lookup_chances(sequence, lookup) for sequence, lookup in ready]
        choose = most_gain if num_decodes == len(sequences) else worth_beside_prompts
        lengths = choose(self._costs, num_plain, chances)
        for (sequence, lookup), own, length in zip(ready, chances, lengths, strict=True):
            if length:
                self._give(sequence, lookup.guess(sequence.lookup_text, length), sum(own[:length]))

    def _lookup_chances(self, sequence: Sequence, lookup: PromptLookup) -> list[float]:
        """Those of looked up guesses, if a draft model's are not better."""
        chances = lookup.chances(min(self._room(sequence), _MOST_GUESSED))
        if self._model is not None and chances and chances[0] < _FREE * self._model.chance(sequence):
            return []
        return chances

    def _ask(self, model: DraftModel, sequences: SequenceOf[Sequence]) -> None:
        """Let the draft model guess for those that have no drafts yet, as far as it is worth the time."""
        self._asked = []
        model.release_ended()
        self._resting = max(self._resting - 1, 0)
        if self._resting >= _PROBES:
            return
        able = [s for s in sequences if not s.drafts and s.num_uncomputed == 1 and s.beam is None and self._room(s) > 0]
        if not able:
            return
        most = min(_MOST_DEPTH, max(self._room(sequence) for sequence in able))
        depth = best_depth(
            self._costs,
            model.costs,
            len(sequences) + self._num_drafted,
            len(sequences) + sum(self._guessing.values()),
            [model.chance(sequence) for sequence in able],
            most,
        )
        if not depth and self._resting:
            depth = min(2, most)
        if not depth:
            self._rest = min(max(2 * self._rest, _SHORTEST_REST), _LONGEST_REST)
            self._resting = self._rest + _PROBES
            return
        if not self._resting:
            self._rest = 0
        for sequence, guesses in model.guess(model.follow(able), depth).items():
            self._asked.append(sequence)
            self._give(sequence, guesses[: self._room(sequence)], 0.0)

    def _give(self, sequence: Sequence, guesses: list[int], expected: float) -> None:
        sequence.drafts = guesses
        self._num_drafted += len(guesses)
        self._guessing[sequence] = expected

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
        if sequence.beam is not None or sequence.scoring is not None:
            return 0  # nothing is drawn
        known = len(sequence.token_ids)
        room = sequence.request.max_tokens - sequence.num_output - 1
        if self._rope_switch is not None and sequence.rope_variant == 0:
            room = max(min(room, self._rope_switch - known), 0)  # keys beyond are rotated otherwise
        return room
