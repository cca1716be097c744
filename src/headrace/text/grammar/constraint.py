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
        self._grammar = grammar
        self._vocabulary = grammar.vocabulary
        self._eos_ids = grammar.vocabulary.eos_token_ids
        self._tokens: LLMatcher = grammar.tokens.deep_copy()
        self._spelling: LLMatcher = grammar.spelling.deep_copy()
        self._ending: Sequence[int] = grammar.ending
        self._finder = EndingFinder(grammar.vocabulary, grammar.hints)
        self._taken: list[int] = []
        self._pushed: list[tuple[int, LLMatcher]] = []
        """Drafts, and `_tokens` behind each. These are copies: behind the library's own roll back another way of the
        same length may get the mask of the one that was taken back (llguidance 1.9.1)"""
        self._forced: list[list[int] | None] = [None]
        """What has no alternative, here and behind each push; None where it has not been worked out"""
        self._num_masked = 0
        """Tokens, pushed ones included, that a mask was computed for"""
        self._fails_at: int | None = None
        """Before the token of this number the library gave up; may be behind drafts that turn out wrong"""
        self._has_failed = False
        """It gave up: what remains is the ending"""
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
        at = len(self._taken) + len(self._pushed)
        self._num_masked = at + 1
        if not self._pushed:
            self._fails_at = None
        forced = [] if self._has_failed else self._known_forced()
        if not forced and not self._has_failed:
            if self._compute_mask():
                mask[:] = self._scratch[: len(mask)]
                if not self._eos_ids and (size := self._vocabulary.vocab_size) < 32 * len(mask):
                    mask[size // 32] &= np.uint32(~(1 << size % 32) & 0xFFFFFFFF)
                return True
            self._fails_at = at
        mask[:] = 0
        for token_id in forced[:1] or self._only():
            mask[token_id // 32] |= np.uint32(1 << token_id % 32)
        return True

    def push(self, token_id: int) -> bool:
        """Go on with a draft. The end of the output is no draft: nothing comes behind it."""
        if self._has_failed or self._fails_at is not None or token_id in self._eos_ids:
            return False
        forced = self._known_forced()
        if forced and token_id != forced[0]:
            return False
        if not self._push(token_id) and not (self._renew_if_spent() and self._push(token_id)):
            return False
        self._forced.append(forced[1:] or None)
        return True

    def pop(self, count: int) -> None:
        """Take back pushes."""
        if count:
            del self._forced[-count:]
            del self._pushed[-count:]

    def take(self, token_id: int, remaining: int) -> int:
        """The token, or the first one of the known ending where no ending is known behind it that fits."""
        if self._num_masked <= len(self._taken):  # replayed after a restart: what was done before it was drawn
            self.fill(np.empty(-(-self._vocabulary.vocab_size // 32), np.uint32))
        self._has_failed = self._has_failed or self._fails_at == len(self._taken)
        forced = [] if self._has_failed else self._known_forced()
        if not self._goes_on(token_id, remaining - 1) and not (
            self._renew_if_spent() and self._goes_on(token_id, remaining - 1)
        ):
            return self._begin_ending()
        self._forced = [forced[1:] or None if forced[:1] == [token_id] else None]
        return token_id

    def forced(self, most: int) -> list[int]:
        """Tokens without a choice."""
        return [] if self._has_failed else self._known_forced()[:most]

    def _known_forced(self) -> list[int]:
        forced = self._forced[-1]
        if forced is None:
            forced = self._forced[-1] = [] if self._spelling.is_stopped() else self._front.compute_ff_tokens()
        return forced

    def _compute_mask(self) -> bool:
        """Into `_scratch`; False where the library gives up."""
        return self._computes_mask() or (self._renew_if_spent() and self._computes_mask())

    def _computes_mask(self) -> bool:
        self._front.unsafe_compute_mask_ptr(self._scratch.ctypes.data, self._scratch.nbytes)
        return not self._front.is_error()

    @property
    def _front(self) -> LLMatcher:
        """`_tokens` behind all pushes."""
        return self._pushed[-1][1] if self._pushed else self._tokens

    def _push(self, token_id: int) -> bool:
        behind = self._front.deep_copy()
        if behind.try_consume_tokens([token_id]) != 1:
            return False
        self._pushed.append((token_id, behind))
        return True

    def _renew_if_spent(self) -> bool:
        """After a failure: begin anew if the grammar computes nothing for anybody any more; whether it was so."""
        if self._has_failed or not self._grammar.is_spent:
            return False
        self._renew()
        return True

    def _renew(self) -> None:
        """Come to the same place with an empty cache.

        All outputs under a grammar share the library's, which is limited, and fails for all once it is full: what
        others have filled it with must not end this one.
        """
        self._grammar = self._grammar.anew(self._grammar)
        self._tokens, self._spelling = self._grammar.tokens.deep_copy(), self._grammar.spelling.deep_copy()
        for token_id in self._taken:
            self._tokens.try_consume_tokens([token_id])
            self._spelling.try_consume_tokens(self._vocabulary.spell(token_id))
        pushed, self._pushed = self._pushed, []
        for token_id, _ in pushed:
            self._pushed.append((token_id, self._front.deep_copy()))
            self._front.try_consume_tokens([token_id])

    def _goes_on(self, token_id: int, room: int) -> bool:
        """Take the token, if an ending of at most `room` tokens is known behind it."""
        if token_id in self._eos_ids and self.is_complete:
            self._saw_eos = True
            return True
        ending = None if self._has_failed else self._ending_behind(token_id, room)
        if ending is None or self._tokens.try_consume_tokens([token_id]) != 1:
            return False
        self._spelling.try_consume_tokens(self._vocabulary.spell(token_id))
        self._taken.append(token_id)
        self._ending = ending
        return True

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
        self._taken.append(token_id)
        spelled = self._vocabulary.spell(token_id)
        if not self._has_failed:
            self._has_failed = self._tokens.try_consume_tokens([token_id]) != 1 or self._spelling.try_consume_tokens(
                spelled
            ) != len(spelled)
        self._forced = [None]
        return token_id
