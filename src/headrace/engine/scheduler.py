"""Which sequences run in a step, and how many tokens of each: `{sequence: num_tokens}` within a token budget.

There is no prefill phase and no decode phase. Decodes come first, prompt chunks share what is left; when blocks run
out, the sequence whose turn is last (by priority, then arrival) is put back to wait and is recomputed later, mostly
from the prefix cache. None of this can change what a sequence produces.
"""

from __future__ import annotations

import time
from collections import deque

from headrace.engine.block_cache import BlockCache
from headrace.engine.sequence import Sequence

PROMPT_LOGPROBS_CHUNK = 64
"""Most prompt tokens of a step that need logits; bounds the memory of [tokens, vocabulary]."""


class Scheduler:
    """Owns the waiting and the running sequences. `schedule` and the verbs mutate; the rest answers."""

    def __init__(
        self, cache: BlockCache, *, max_batch_tokens: int, max_sequences: int, rope_switch: int | None = None
    ) -> None:
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        """In order of turn, as the running ones"""
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._max_batch_tokens = max_batch_tokens
        self._rope_switch = rope_switch
        self._free_rows = list(range(max_sequences - 1, -1, -1))

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn."""
        self._wait(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a finished or cancelled sequence out and release its blocks. Does nothing if it is not here."""
        if sequence.row >= 0:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def schedule(self) -> dict[Sequence, int]:
        """Choose this step's tokens and allocate their blocks. Empty only when there is nothing to do."""
        self._switch_rope()
        plan: dict[Sequence, int] = {}
        budget = self._max_batch_tokens
        num_preemptions = self.num_preemptions
        # Prompts that do not fit in a step come after the decodes; both in order of turn.
        for sequence in sorted(self.running, key=lambda s: s.num_uncomputed > 1):
            if budget == 0:
                break
            if sequence.row < 0 or sequence.num_uncomputed == 0:  # preempted for one before it; a beam that waits
                continue
            num_tokens = self._chunk(sequence, budget)
            while not self.cache.grow(sequence, sequence.num_computed + num_tokens):
                if sequence.drafts:  # guesses are not worth another sequence's blocks
                    sequence.drafts = []
                    num_tokens = self._chunk(sequence, budget)
                    continue
                budget += self._preempt(self.running[-1], plan)
                if sequence.row < 0:
                    break
            else:
                plan[sequence] = num_tokens
                budget -= num_tokens
        if self.num_preemptions == num_preemptions:
            self._admit(plan, budget)
        while not plan and self.waiting and self.running:  # beams hold what others of their search are in need of
            self._preempt(self.running[-1], plan)
            self._admit(plan, budget)
        return plan

    def fork(self, parent: Sequence, child: Sequence) -> tuple[int, int] | None:
        """Let a sequence run beside another whose computed tokens it begins with, on the same blocks.

        Returns the blocks (from, to) that are to be copied before the next step, if any. Where there is no room the
        child waits for its turn.
        """
        if parent.row < 0 or not self._free_rows:
            self._wait(child)
            return None
        copied = self.cache.fork(parent, child)
        child.row = self._free_rows.pop()
        self._enter(child)
        return copied

    def _admit(self, plan: dict[Sequence, int], budget: int) -> None:
        held_back: list[Sequence] = []
        while self.waiting and budget > 0 and self._free_rows:
            sequence = self.waiting.popleft()
            if self._waits_for_sibling(sequence) and sequence.beam is None:
                held_back.append(sequence)
                continue
            if self._waits_for_sibling(sequence) or self._is_too_wide(sequence):
                self.waiting.appendleft(sequence)
                break
            self._set_rope_variant(sequence)
            self.cache.adopt_prefix(sequence)
            if sequence.num_cached is None:
                sequence.num_cached = sequence.num_computed
                sequence.seconds_waited = time.perf_counter() - sequence.submitted_at
            missing = self.cache.blocks_for(len(sequence.token_ids)) - len(sequence.block_ids)
            if missing > self.cache.num_available:
                assert self.running, "a sequence that fits alone does not fit into an empty cache"
                self.cache.release(sequence)
                self.waiting.appendleft(sequence)
                break
            num_tokens = self._chunk(sequence, budget)
            self.cache.grow(sequence, sequence.num_computed + num_tokens)
            sequence.row = self._free_rows.pop()
            self._enter(sequence)
            plan[sequence] = num_tokens
            budget -= num_tokens
        self.waiting.extendleft(reversed(held_back))

    def _enter(self, sequence: Sequence) -> None:
        at = len(self.running)
        while at > 0 and self.running[at - 1].turn > sequence.turn:
            at -= 1
        self.running.insert(at, sequence)

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        has_many_rows = sequence.wants_prompt_logprobs or (sequence.scoring is not None and sequence.num_output > 0)
        limit = PROMPT_LOGPROBS_CHUNK if has_many_rows else budget
        return min(sequence.num_uncomputed + len(sequence.drafts), budget, limit)

    def _waits_for_sibling(self, sequence: Sequence) -> bool:
        """Sequences of one request do not compute the same blocks at the same time: one does, the others share them."""
        if sequence.request.params.n == 1 and sequence.beam is None and sequence.scoring is None:
            return False
        size = self.cache.block_size
        return any(
            other.num_computed < _common_prefix(other, sequence) // size * size
            for other in self.running
            if other.request is sequence.request
        )

    def _is_too_wide(self, sequence: Sequence) -> bool:
        """Whether a search that was put back has no room for all its beams: one alone would only hold its blocks."""
        if sequence.beam is None or any(member.row >= 0 for member in sequence.beam.search.members):
            return False
        members, shared = sequence.beam.search.members, sequence.num_prompt // self.cache.block_size
        needed = shared + sum(self.cache.blocks_for(len(member.token_ids)) - shared for member in members)
        is_too_wide = needed > self.cache.num_available or len(members) > len(self._free_rows)
        assert self.running or not is_too_wide, "a search that fits alone does not fit into an empty cache"
        return is_too_wide

    def _switch_rope(self) -> None:
        """Sequences that have outgrown the short rope factors start again with the long ones."""
        if self._rope_switch is None:
            return
        for sequence in list(self.running):
            if sequence.rope_variant == 0 and len(sequence.token_ids) > self._rope_switch:
                self._put_back(sequence)

    def _set_rope_variant(self, sequence: Sequence) -> None:
        is_long = self._rope_switch is not None and len(sequence.token_ids) > self._rope_switch
        sequence.rope_variant = int(is_long)

    def _preempt(self, victim: Sequence, plan: dict[Sequence, int]) -> int:
        """Put a sequence back, with the others of a beam search, which could only wait for it.

        Returns the tokens of the plan that it does not compute now.
        """
        search = None if victim.beam is None else victim.beam.search
        given_back = 0
        for sequence in [s for s in self.running if s is victim or (s.beam is not None and s.beam.search is search)]:
            self.num_preemptions += 1
            given_back += plan.pop(sequence, 0)
            self._put_back(sequence)
        return given_back

    def _put_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self._wait(sequence)

    def _wait(self, sequence: Sequence) -> None:
        sequence.drafts = []
        at = len(self.waiting)
        while at > 0 and self.waiting[at - 1].turn > sequence.turn:
            at -= 1
        self.waiting.insert(at, sequence)

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence)
        self._free_rows.append(sequence.row)
        sequence.row = -1


def _common_prefix(one: Sequence, other: Sequence) -> int:
    """Tokens that two sequences of a request have in common from the beginning."""
    start = one.num_prompt
    pairs = zip(one.token_ids[start:], other.token_ids[start:], strict=False)
    return start + next(
        (at for at, (mine, theirs) in enumerate(pairs) if mine != theirs), min(one.num_output, other.num_output)
    )
