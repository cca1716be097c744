"""Looks for short ways to complete an output.

The search goes through a grammar over bytes. Where bytes have no alternative it follows them; where there is a choice
it takes first what closes something. `thorough` also follows each alternative of a choice to its end and keeps the
shortest. Everything is counted in steps, never in time, so that the same state gives the same ending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher

from headrace.text.grammar.vocabulary import NUM_BYTES, GrammarVocabulary

_CLOSERS = b"}])\">;\n, ='0123456789"
_OPENERS = b"{[(<"
_MOST_CHOICES = 2_000
"""Of one way"""
_MOST_STEPS = 6_000
"""Of a thorough search"""
_MOST_ALTERNATIVES = 12
_RANK = {byte: at for at, byte in enumerate(_CLOSERS)} | {byte: 1000 + at for at, byte in enumerate(_OPENERS)}
_RANK_IN_TEXT = {byte: at for at, byte in enumerate(b"\"'\n")}
_TEXT_FROM = 40
"""With so many choices it is the inside of a text"""
_SAME_CHOICE = 4
"""How often the same choice is made in the same way before the next one is tried"""


def find_ending(start: LLMatcher, vocabulary: GrammarVocabulary, *, thorough: bool = False) -> list[int] | None:
    """Few tokens that complete the output from the state of a matcher over `vocabulary.spelling`; None: none found."""
    search = _Search(vocabulary)
    matcher = start.deep_copy()
    way = search.first_way(matcher, _MOST_CHOICES)
    if thorough and way is not None:
        way = search.improve(start, way)
    return None if way is None else vocabulary.shortest(way)


class _Search:
    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        size = vocabulary.spelling.vocab_size
        self._mask = np.zeros(-(-size // 32), np.uint32)
        self._single = vocabulary.single_bytes
        self._steps = 0

    def first_way(self, matcher: LLMatcher, most: int, prefix: Sequence[int] = ()) -> list[int] | None:
        """To the end by the best-ranked choices; advances `matcher`."""
        way = list(prefix)
        seen: Counter[bytes] = Counter()
        for _ in range(most):
            self._follow(matcher, way)
            if matcher.is_accepting():
                return way
            choices = self._choices(matcher)
            if not choices:
                return None
            key = self._mask.tobytes()
            seen[key] += 1
            choice = choices[(seen[key] - 1) // _SAME_CHOICE % len(choices)]
            if matcher.try_consume_tokens([choice]) != 1:
                return None
            way.append(choice)
        return None

    def improve(self, start: LLMatcher, way: list[int]) -> list[int]:
        """At each choice along the way, the shortest of the ways that begin with its alternatives."""
        matcher = start.deep_copy()
        prefix: list[int] = []
        while self._steps < _MOST_STEPS:
            self._follow(matcher, prefix)
            if matcher.is_accepting():
                return min(prefix, way, key=len)
            choices = self._choices(matcher)
            best: tuple[int, int] | None = None
            for choice in choices[:_MOST_ALTERNATIVES]:
                other = matcher.deep_copy()
                if other.try_consume_tokens([choice]) != 1:
                    continue
                room = min(_MOST_CHOICES, max(len(way) - len(prefix), 1))
                found = self.first_way(other, room, [*prefix, choice])
                if found is not None and (best is None or len(found) < best[0]):
                    best = len(found), choice
                    if len(found) < len(way):
                        way = found
            choice = way[len(prefix)] if best is None or best[0] >= len(way) else best[1]
            if matcher.try_consume_tokens([choice]) != 1:
                return way
            prefix.append(choice)
        return way

    def _follow(self, matcher: LLMatcher, way: list[int]) -> None:
        """Take the bytes that have no alternative."""
        forced = list(matcher.compute_ff_bytes())
        if forced and matcher.try_consume_tokens(forced) == len(forced):
            way.extend(forced)

    def _choices(self, matcher: LLMatcher) -> list[int]:
        """What can follow, best first."""
        self._steps += 1
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if matcher.is_error():
            return []
        found = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little")).tolist()
        special = [each for each in found if each >= NUM_BYTES]
        single = [each for each in found if each in self._single] or [each for each in found if each < NUM_BYTES]
        rank = _RANK if len(single) < _TEXT_FROM else _RANK_IN_TEXT
        return sorted(single, key=lambda byte: (rank.get(byte, 500 if byte < 128 else 600), byte)) + special
