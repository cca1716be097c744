"""A grammar as what restricts a sequence's tokens; it always knows a way to end in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from headrace.text.grammar.compiler import Grammar
from headrace.text.grammar.ending import EndingFinder

Mask = NDArray[np.uint32]


class GrammarConstraint:
    """One sequence's place in a grammar. It is a `Constraint` of the engine.

    At any time it holds an ending: tokens with which the output would be complete. A token stands only if an ending
    that fits the budget is known behind it; else the known ending is begun. So an output ends complete, however the
    model draws, and also where the grammar becomes too much work half-way.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._vocabulary = grammar.vocabulary
        self._eos_ids = grammar.vocabulary.eos_token_ids
        self._tokens: LLMatcher = grammar.tokens.deep_copy()
        self._spelling: LLMatcher = grammar.spelling.deep_copy()
        self._ending: Sequence[int] = grammar.ending
        self._finder = EndingFinder(grammar.vocabulary, grammar.hints)
        self._forced: list[list[int] | None] = [None]
        """What has no alternative, here and behind each push; None where it has not been worked out"""
        self._has_failed = False
        """The library gave up: what remains is the ending"""
        self._saw_eos = False
        self._scratch: Mask = np.zeros(-(-grammar.vocabulary.tokens.vocab_size // 32), np.uint32)

    @property
    def is_complete(self) -> bool:
        """Whether the output satisfies the grammar as it is."""
        return not self._ending or self._saw_eos or self._spelling.is_accepting()

    @property
    def is_closed(self) -> bool:
        """Whether the output is complete and nothing can follow; without an end-of-sequence token, whether complete."""
        if self._saw_eos:
            return True
        if self._has_failed or not self._eos_ids:
            return self.is_complete if not self._has_failed else not self._ending
        return self._spelling.is_stopped() and not self._spelling.is_error()

    def fill(self, mask: Mask) -> bool:
        """Allow what can follow."""
        if not self._has_failed and not (forced := self._known_forced()):
            self._tokens.unsafe_compute_mask_ptr(self._scratch.ctypes.data, self._scratch.nbytes)
            if not self._tokens.is_error():
                mask[:] = self._scratch[: len(mask)]
                if not self._eos_ids and (size := self._vocabulary.vocab_size) < 32 * len(mask):
                    mask[size // 32] &= np.uint32(~(1 << size % 32) & 0xFFFFFFFF)
                return True
            self._has_failed = True
        mask[:] = 0
        for token_id in self._only() if self._has_failed else forced[:1]:
            mask[token_id // 32] |= np.uint32(1 << token_id % 32)
        return True

    def push(self, token_id: int) -> bool:
        """Go on with a draft. The end of the output is no draft: nothing comes behind it."""
        if self._has_failed or token_id in self._eos_ids:
            return False
        forced = self._known_forced()
        if forced and token_id != forced[0]:
            return False
        if self._tokens.try_consume_tokens([token_id]) != 1:
            self._has_failed = self._tokens.is_error()
            return False
        self._forced.append(forced[1:] or None)
        return True

    def pop(self, count: int) -> None:
        """Take back pushes."""
        if count:
            del self._forced[-count:]
            if not self._has_failed:
                self._tokens.rollback(count)

    def take(self, token_id: int, remaining: int) -> int:
        """The token, or the first one of the known ending where no ending is known behind it that fits."""
        forced = [] if self._has_failed else self._known_forced()
        if token_id in self._eos_ids and self.is_complete:
            self._saw_eos = True
            return token_id
        ending = None if self._has_failed else self._ending_behind(token_id, remaining - 1)
        if ending is None or self._tokens.try_consume_tokens([token_id]) != 1:
            return self._begin_ending()
        self._spelling.try_consume_tokens(self._vocabulary.spell(token_id))
        self._ending = ending
        self._forced = [forced[1:] or None if forced[:1] == [token_id] else None]
        return token_id

    def forced(self, most: int) -> list[int]:
        """Tokens without a choice."""
        return [] if self._has_failed else self._known_forced()[:most]

    def _known_forced(self) -> list[int]:
        forced = self._forced[-1]
        if forced is None:
            forced = self._forced[-1] = [] if self._spelling.is_stopped() else self._tokens.compute_ff_tokens()
        return forced

    def _only(self) -> Sequence[int]:
        """What a failed constraint allows."""
        return self._ending[:1] or sorted(self._eos_ids)[:1] or [0]

    def _ending_behind(self, token_id: int, room: int) -> Sequence[int] | None:
        """A known ending after `token_id`, of at most `room` tokens."""
        if self._ending[:1] and self._ending[0] == token_id:
            return self._ending[1:]
        behind = self._spelling.deep_copy()
        spelled = self._vocabulary.spell(token_id)
        if not spelled or behind.try_consume_tokens(spelled) != len(spelled):
            return None
        if len(self._ending) <= room and self._completes(behind, self._ending):
            return self._ending
        ending = self._finder.find(behind)
        if ending is not None and len(ending) > room:
            ending = self._finder.find(behind, thorough=True)
        return ending if ending is not None and len(ending) <= room else None

    def _completes(self, matcher: LLMatcher, ending: Sequence[int]) -> bool:
        spelled = [each for token_id in ending for each in self._vocabulary.spell(token_id)]
        if matcher.validate_tokens(spelled) != len(spelled):
            return False
        after = matcher.deep_copy()
        return after.try_consume_tokens(spelled) == len(spelled) and after.is_accepting()

    def _begin_ending(self) -> int:
        if not self._ending:  # complete, and open: end it
            self._saw_eos = True
            return min(self._eos_ids)
        token_id, self._ending = self._ending[0], self._ending[1:]
        spelled = self._vocabulary.spell(token_id)
        if not self._has_failed:
            self._has_failed = self._tokens.try_consume_tokens([token_id]) != 1 or self._spelling.try_consume_tokens(
                spelled
            ) != len(spelled)
        self._forced = [None]
        return token_id
