"""A second, smaller model of the same vocabulary, which guesses the tokens that follow.

For each sequence it keeps a mirror: the same tokens in a cache of its own. A guess is drawn with the sequence's own
parameters and with the very draw that the model will make at that position, so that the two agree as often as their
distributions do, at any temperature. What the model produces does not depend on it; see `rows`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from headrace.config import EngineConfig
from headrace.engine.adapters import AdapterTable
from headrace.engine.block_cache import BlockCache
from headrace.engine.gain import StepCosts
from headrace.engine.memory import KVPlan
from headrace.engine.runner import Runner
from headrace.engine.sequence import Sequence
from headrace.model.decoder import Decoder
from headrace.ops.base import Ops
from headrace.types import Request

_FEW = 16
"""Tokens that a mirror may be behind and still guess in the same step"""
_FIRST_CHANCE = 0.6
_RATE = 0.1
"""Weight of the latest guess in a sequence's chance …"""
_USUAL_RATE = 0.01
"""… and in that of all"""


class DraftModel:
    """Keeps mirrors of sequences and guesses for them.

    `plan` is the engine's: the draft's cache has as many blocks. A sequence for which there is no room, or whose ids or
    length are beyond the draft model's, gets no guesses.
    """

    def __init__(self, decoder: Decoder, ops: Ops, config: EngineConfig, plan: KVPlan, vocab_size: int) -> None:
        self.costs = StepCosts()
        """Of its passes with a row of logits for each sequence"""
        self._vocab_size = min(vocab_size, decoder.spec.vocab_size)
        switch = decoder.spec.rope_switch
        self._longest = min(decoder.spec.max_context if switch is None else switch, plan.max_context)
        self._max_batch_tokens = config.max_batch_tokens
        self._blocks = BlockCache(plan.num_blocks, plan.block_size, share_prefixes=config.prefix_cache)
        self._runner = Runner(
            decoder,
            ops,
            decoder.new_cache(plan.num_blocks, plan.block_size, plan.dtype),
            AdapterTable(decoder),
            max_sequences=config.max_sequences,
            max_blocks=self._blocks.blocks_for(plan.max_context),
        )
        self._free_rows = list(range(config.max_sequences))
        self._mirrors: dict[Sequence, Sequence] = {}
        self._chances: dict[Sequence, float] = {}
        self._usual_chance = _FIRST_CHANCE
        """Of all sequences so far; what a new one begins with"""

    def release_ended(self) -> None:
        """Forget the mirrors of sequences that do not run any more."""
        for sequence in [sequence for sequence in self._mirrors if sequence.row < 0]:
            mirror = self._mirrors.pop(sequence)
            self._chances.pop(sequence, None)
            self._blocks.release(mirror)
            self._free_rows.append(mirror.row)

    def follow(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Those of running sequences that can get guesses now; the others' mirrors come nearer, by one pass at most."""
        behind: dict[Sequence, int] = {}
        ready: list[Sequence] = []
        budget = self._max_batch_tokens
        for sequence in sequences:
            mirror = self._mirror(sequence)
            if mirror is None:
                continue
            if mirror.num_uncomputed <= _FEW:
                ready.append(sequence)
            elif budget > 0:
                num_tokens = min(mirror.num_uncomputed - 1, budget)  # the last one is left to the guess
                if self._blocks.grow(mirror, mirror.num_computed + num_tokens):
                    behind[mirror] = num_tokens
                    budget -= num_tokens
        if behind:
            self._runner.run(behind)
            for mirror, num_tokens in behind.items():
                mirror.num_computed += num_tokens
        return ready

    def guess(self, sequences: Iterable[Sequence], count: int) -> dict[Sequence, list[int]]:
        """Up to `count` guesses for sequences that are `follow`ed: each as far as it can be."""
        mirrors = {self._mirrors[sequence]: sequence for sequence in sequences}
        active = list(mirrors)
        for at in range(count):
            started = time.perf_counter()
            plan: dict[Sequence, int] = {}
            for mirror in active:
                known = len(mirror.token_ids) + at
                if known < self._longest and self._blocks.grow(mirror, known):
                    plan[mirror] = known - mirror.num_computed
            if not plan:
                break
            sampled = self._runner.run(plan)
            active = []
            for mirror, num_tokens in plan.items():
                mirror.num_computed += num_tokens
                token_id = sampled[mirror][0].token_id
                if token_id < self._vocab_size:
                    mirror.drafts.append(token_id)
                    active.append(mirror)
            self.costs.observe(sum(plan.values()), time.perf_counter() - started)
        return {sequence: list(mirror.drafts) for mirror, sequence in mirrors.items() if mirror.drafts}

    def _mirror(self, sequence: Sequence) -> Sequence | None:
        """The sequence's mirror, with all its tokens; None if it cannot have one."""
        mirror = self._mirrors.get(sequence)
        if mirror is None:
            if not self._free_rows or not self._knows(sequence.request):
                return None
            mirror = self._mirrors[sequence] = sequence.copy(sequence.index)
            mirror.constraint, mirror.row = None, self._free_rows.pop()
            mirror.rope_variant = 0
            mirror.request = _for_guesses(sequence.request)
            self._blocks.adopt_prefix(mirror)
        known = len(mirror.token_ids)
        news = sequence.token_ids[known:]
        num_right = 0
        while num_right < min(len(news), len(mirror.drafts)) and news[num_right] == mirror.drafts[num_right]:
            num_right += 1
        mirror.token_ids += news
        mirror.drafts = []
        mirror.num_computed = min(mirror.num_computed, known + num_right, len(mirror.token_ids) - 1)
        self._blocks.commit(mirror)
        if len(mirror.token_ids) >= self._longest or any(token_id >= self._vocab_size for token_id in news):
            return None
        return mirror

    def chance(self, sequence: Sequence) -> float:
        """How often a guess for the sequence is right, if the one before it was."""
        return self._chances.get(sequence, self._usual_chance)

    def learn(self, sequence: Sequence, num_guesses: int, num_right: int) -> None:
        """So many guesses were computed, and so many of them, from the first on, were right."""
        chance = self.chance(sequence)
        for is_right in (*[True] * num_right, *[False] * (num_right < num_guesses)):
            chance += _RATE * (is_right - chance)
            self._usual_chance += _USUAL_RATE * (is_right - self._usual_chance)
        self._chances[sequence] = chance

    def _knows(self, request: Request) -> bool:
        params = request.params
        ids = (*request.prompt_token_ids, *(params.logit_bias or ()), *(params.stop_token_ids or ()))
        highest: int = max(*ids, *(params.allowed_token_ids or ()), *request.eos_token_ids)
        return highest < self._vocab_size


def _for_guesses(request: Request) -> Request:
    """The request without what changes no draw, and without the adapter, which the draft model does not have."""
    return replace(request, adapter=None, params=replace(request.params, logprobs=None, prompt_logprobs=None))
