"""Guesses of the tokens that follow, so that one pass of the model gives several.

What a sequence produces does not depend on them: see `rows`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sized
from collections.abc import Sequence as SequenceOf

from headrace.engine.draft_model import DraftModel
from headrace.engine.gain import StepCosts, best_depth, least_beside_prompts, most_gain, worth_beside_prompts
from headrace.engine.sequence import Sequence
from headrace.ops.base import Ops, PromptLookup

_MOST_FORCED = 64
"""Tokens without a choice that are computed in one step"""
_MOST_GUESSED = 15
"""Guesses of a sequence in one step"""
_MOST_DEPTH = 8
"""The same of a draft model, each of which takes a pass"""
_GOOD = 0.95
"""Where guesses must be surer than that to be worth their time, none are looked for"""
_LOOK_SHARE = 0.005
"""How much of the steps' time it may take to look for guesses, on average …"""
_MOST_BLIND = 7
"""… though it is not put off for more steps than these"""
_CREDIT_KEPT = 0.9
"""Of the guesses that were right lately, in each step: while there are any it looks in every step"""
_OBSERVED = 8
"""Of so many steps without guesses in a row one is measured, since that takes time too"""
_LOSS_SHARE = 0.015
"""How much of the time a draft model may lose that is not worth its passes"""
_PROBES = 4
"""Steps after a rest in which it guesses in any case, to find out whether it is better by now …"""
_PROBE_DEPTH = 2
"""… so many in a row"""
_FREE = 0.8
"""A looked up guess takes no pass: it is preferred down to so much of a draft model's chance"""


class Drafting:
    """Sets the drafts of the running sequences before each step, and learns from it what they are worth.

    Counts steps of a sequence with guesses, guesses that were computed, and those that were right. Tokens that a
    constraint forces are no guesses. `guesses` is False to have none.
    """

    def __init__(self, ops: Ops, *, rope_switch: int | None, guesses: bool, model: DraftModel | None = None) -> None:
        self.drafts = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self.accepted_by_position = [0] * _MOST_GUESSED
        self._ops = ops
        self._rope_switch = rope_switch
        self._guesses = guesses
        self._model = model
        self._costs = StepCosts()
        self._num_drafted = 0
        """Drafts of the step, forced ones included"""
        self._guessing: dict[Sequence, float] = {}
        """Sequences whose drafts are guesses, and how many of them are expected to be right"""
        self._asked: set[Sequence] = set()
        """Of those, the draft model's"""
        self._look_seconds = 0.0
        """What it takes to look for guesses"""
        self._blind = 0
        """Steps in which it is not done"""
        self._credit = 0.0
        """Looked up guesses that were right lately"""
        self._unobserved = 0
        """Steps without guesses since the last one that was measured"""
        self._debt = 0.0
        """Seconds that the draft model has lost and that are not made up for"""
        self._rests = False
        """Whether it does not guess before they are"""
        self._probes = 0
        """Steps in which it still guesses in any case"""
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
        if not self._guesses or not sequences or not self._costs.are_known:
            return
        if self._costs.least_chance(len(sequences) + self._num_drafted) > _GOOD:
            return
        if self._blind:
            self._blind -= 1
        else:
            started = time.perf_counter()
            self._look_up(sequences)
            self._put_off(len(sequences), time.perf_counter() - started)
        if self._model is not None and not self._rests:
            started = time.perf_counter()
            self._ask(self._model, sequences)
            self._seconds_in_model = time.perf_counter() - started

    def learn(self, plan: Mapping[Sequence, int], sampled: Mapping[Sequence, Sized], seconds: float) -> None:
        """A step computed `plan` in so many seconds and gave `sampled`."""
        if not self._guesses:
            return
        if self._rests:
            self._debt -= _LOSS_SHARE * seconds
            if self._debt <= 0:
                self._rests, self._debt, self._probes = False, 0.0, _PROBES
        self._credit *= _CREDIT_KEPT
        if self._guessing or self._seconds_in_model or not self._costs.are_known:
            self._unobserved = _OBSERVED - 1
        else:
            self._unobserved = (self._unobserved + 1) % _OBSERVED
            if self._unobserved:
                return
        num_tokens = sum(plan.values())
        if num_tokens == len(plan) + self._num_drafted:  # else there are prompts in it
            self._costs.observe(num_tokens, seconds - self._seconds_in_model)
        num_asked = num_asked_right = 0
        for sequence in self._guessing:
            num_drafts = min(len(sequence.drafts), plan.get(sequence, 1) - 1)
            if num_drafts <= 0:
                continue  # there was no room for them, or the sequence was put back and begins again
            num_right = len(sampled[sequence]) - 1
            self.drafts += 1
            self.draft_tokens += num_drafts
            self._count_right(num_right)
            if self._model is not None and sequence in self._asked:
                self._model.learn(sequence, num_drafts, num_right)
                num_asked += num_drafts
                num_asked_right += num_right
            else:
                self._credit += num_right
        if self._seconds_in_model:
            lost = self._lost(num_tokens - num_asked, num_asked, num_asked_right)
            self._debt = max(self._debt - _LOSS_SHARE * seconds + lost, 0.0)

    def _count_right(self, num_right: int) -> None:
        self.accepted_tokens += num_right
        for position in range(num_right):
            self.accepted_by_position[position] += 1

    def _lost(self, num_others: int, num_asked: int, num_right: int) -> float:
        """Seconds that the draft model has taken from the step, less those that its right guesses were worth."""
        seconds = self._costs.seconds(num_others)
        taken = self._seconds_in_model + self._costs.seconds(num_others + num_asked) - seconds
        return taken - num_right * seconds / num_others

    def _look_up(self, sequences: SequenceOf[Sequence]) -> None:
        """Guess from the sequences' own texts, as far as it is worth the time."""
        able: list[Sequence] = []
        lookups: list[PromptLookup] = []
        texts: list[list[int]] = []
        num_decodes = 0
        for sequence in sequences:
            text = sequence.token_ids
            if len(text) - sequence.num_computed == 1:  # else its prompt is not computed yet
                num_decodes += 1
                if sequence.beam is None and sequence.scoring is None:
                    able.append(sequence)
                    lookups.append(sequence.lookup or self._new_lookup(sequence))
                    texts.append(sequence.lookup_text)
        if not able:
            return
        num_plain = num_decodes + self._num_drafted
        is_alone = num_decodes == len(sequences)
        least = self._costs.least_chance(num_plain) if is_alone else least_beside_prompts(self._costs, num_plain)
        ready = [(able[at], lookups[at]) for at in self._ops.follow(lookups, texts, least) if not able[at].drafts]
        if not ready:
            return
        chances = [self._lookup_chances(sequence, lookup) for sequence, lookup in ready]
        lengths = (most_gain if is_alone else worth_beside_prompts)(self._costs, num_plain, chances)
        for (sequence, lookup), own, length in zip(ready, chances, lengths, strict=True):
            if length:
                self._give(sequence, lookup.guess(length), sum(own[:length]))

    def _put_off(self, num_sequences: int, seconds: float) -> None:
        """It took so long to look for guesses: in how many steps it is not done."""
        self._look_seconds += 0.1 * (seconds - self._look_seconds)
        steps = self._look_seconds / (_LOOK_SHARE * self._costs.seconds(num_sequences))
        self._blind = 0 if self._credit > 1 else min(int(steps), _MOST_BLIND)

    def _new_lookup(self, sequence: Sequence) -> PromptLookup:
        """Knows the prompt but its last token, with which a match may begin."""
        sequence.lookup = self._ops.new_lookup(sequence.lookup_text[: sequence.num_prompt + sequence.num_inserted - 1])
        return sequence.lookup

    def _lookup_chances(self, sequence: Sequence, lookup: PromptLookup) -> list[float]:
        """Those of looked up guesses, if a draft model's are not better."""
        chances = lookup.chances(max(min(self._room(sequence), _MOST_GUESSED), 0))
        if self._model is not None and chances and chances[0] < _FREE * self._model.chance(sequence):
            return []
        return chances

    def _ask(self, model: DraftModel, sequences: SequenceOf[Sequence]) -> None:
        """Let the draft model guess for those that have no drafts yet, as far as it is worth the time."""
        self._asked = set()
        model.release_ended()
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
        if not depth and self._probes:
            self._probes -= 1
            depth = min(_PROBE_DEPTH, most)
        if not depth:
            self._rests = True
            return
        for sequence, guesses in model.guess(model.follow(able), depth).items():
            self._asked.add(sequence)
            self._give(sequence, guesses[: self._room(sequence)], 0.0)

    def _give(self, sequence: Sequence, guesses: list[int], expected: float) -> None:
        sequence.drafts = guesses
        self._num_drafted += len(guesses)
        self._guessing[sequence] = expected

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
