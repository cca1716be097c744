"""Looks for short ways to complete an output.

The search goes through a grammar over bytes. Where bytes have no alternative it follows them; where there is a choice
it takes first what closes something, and texts that are known to matter (hints: what satisfies a pattern). `thorough`
also follows the alternatives of each choice to their ends and keeps the shortest. Everything is counted in steps,
never in time, so that the same state gives the same ending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from llguidance import LLMatcher

from headrace.text.grammar.vocabulary import NUM_BYTES, GrammarVocabulary

_CLOSERS = b"}])\">;\n, ='0123456789"
_OPENERS = b"{[(<"
_BRACKETS = frozenset(b"}])")
_RANK = {byte: at for at, byte in enumerate(_CLOSERS)} | {byte: 1000 + at for at, byte in enumerate(_OPENERS)}
_RANK_IN_TEXT = {byte: at for at, byte in enumerate(b"\"'\na")}
_TEXT_FROM = 40
"""With so many choices it is the inside of a text"""
_MOST_BYTES = 20_000
"""Of one way"""
_MOST_STEPS = {False: 1_000, True: 10_000}
"""Of a search, by whether there is time"""
_MOST_ALTERNATIVES = 12
_SAME_CHOICE = 4
"""How often the same choice is made in the same way before the next one is tried, where it is not …"""
_SAME_CLOSER = 256
"""… to close something"""
_MOST_SUFFIXES = 256


class EndingFinder:
    """Finds endings in one vocabulary. Not for several threads at once."""

    def __init__(self, vocabulary: GrammarVocabulary, hints: Sequence[bytes] = ()) -> None:
        self._vocabulary = vocabulary
        self._mask = np.zeros(-(-vocabulary.spelling.vocab_size // 32), np.uint32)
        self._suffixes = _suffixes(hints)
        self._ranked = lru_cache(1024)(self._rank)
        self._steps = 0
        self._most_steps = 0

    def find(self, start: LLMatcher, *, thorough: bool = False, patient: bool = False) -> list[int] | None:
        """Few tokens that complete the output from the state of a matcher over bytes; None: none was found.

        `patient` allows ten times the steps.
        """
        self._steps, self._most_steps = 0, _MOST_STEPS[patient]
        way = self._first_way(start.deep_copy(), _MOST_BYTES)
        if thorough or way is None:
            way = self._best_way(start, way)
        return None if way is None else self._vocabulary.shortest(way)

    def _first_way(self, matcher: LLMatcher, most: int, prefix: Sequence[int] = ()) -> list[int] | None:
        """To the end by the best-ranked choices; advances `matcher`. `most` bytes at most."""
        way = list(prefix)
        seen: Counter[bytes] = Counter()
        most += len(way)
        while len(way) <= most and self._steps < self._most_steps:
            self._follow(matcher, way)
            if matcher.is_accepting():
                return way if len(way) <= most else None
            choices = self._choices(matcher)
            if not choices:
                return None
            key = self._seen
            seen[key] += 1
            times = _SAME_CLOSER if choices[0] in _BRACKETS else _SAME_CHOICE
            step = self._hint(matcher, choices) or [choices[(seen[key] - 1) // times % len(choices)]]
            if matcher.try_consume_tokens(step) != len(step):
                return None
            way.extend(step)
        return None

    def _best_way(self, start: LLMatcher, way: list[int] | None) -> list[int] | None:
        """At each choice the alternative from which the first way is the shortest."""
        matcher = start.deep_copy()
        prefix: list[int] = []
        while self._steps < self._most_steps:
            self._follow(matcher, prefix)
            if matcher.is_accepting():
                return prefix if way is None or len(prefix) < len(way) else way
            if way is not None and way[: len(prefix)] != prefix:
                return way
            choices = self._choices(matcher)
            if not choices:
                return way
            for choice in choices[:_MOST_ALTERNATIVES]:
                other = matcher.deep_copy()
                if other.try_consume_tokens([choice]) != 1:
                    continue
                room = _MOST_BYTES if way is None else len(way) - len(prefix) - 2
                found = self._first_way(other, room, [*prefix, choice]) if room >= 0 else None
                if found is not None and (way is None or len(found) < len(way)):
                    way = found
            choice = choices[0] if way is None else way[len(prefix)]
            if matcher.try_consume_tokens([choice]) != 1:
                return way
            prefix.append(choice)
        return way

    def _follow(self, matcher: LLMatcher, way: list[int]) -> None:
        """Take the bytes that have no alternative."""
        found = matcher.compute_ff_bytes()
        forced = matcher.compute_ff_tokens() if b"\xff" in found else list(found)  # which marks a special token
        if forced and matcher.try_consume_tokens(forced) == len(forced):
            way.extend(forced)

    def _choices(self, matcher: LLMatcher) -> tuple[int, ...]:
        """What can follow, best first."""
        self._steps += 1
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._seen = self._mask.tobytes()
        return () if matcher.is_error() else self._ranked(self._seen)

    def _rank(self, mask: bytes) -> tuple[int, ...]:
        found = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
        special = [each for each in found if each >= NUM_BYTES]
        single = [each for each in found if each in self._vocabulary.single_bytes]
        single = single or [each for each in found if each < NUM_BYTES]
        is_text = len(single) >= _TEXT_FROM  # which a special token ends, where one can stand in it
        rank = _RANK_IN_TEXT if is_text else _RANK
        single.sort(key=lambda byte: (rank.get(byte, 500 if byte < 128 else 600), byte))
        return (*special, *single) if is_text else (*single, *special)

    def _hint(self, matcher: LLMatcher, choices: Sequence[int]) -> list[int] | None:
        """The shortest hint behind which a text may be closed, where it may not be closed here; else that ends it."""
        if len(choices) < _TEXT_FROM or not self._suffixes or self._can_close(matcher):
            return None
        way_out: list[int] | None = None
        for suffix in self._suffixes:
            if matcher.validate_tokens(suffix) != len(suffix):
                continue
            after = matcher.deep_copy()
            after.try_consume_tokens(suffix)
            if after.is_accepting() or self._can_close(after):
                return suffix
            if way_out is None and len(self._choices(after)) < _TEXT_FROM:
                way_out = suffix
        return way_out

    def _can_close(self, matcher: LLMatcher) -> bool:
        """Whether a quotation mark ends a text here."""
        after = matcher.deep_copy()
        return after.try_consume_tokens([ord('"')]) == 1 and (
            after.is_accepting() or len(self._choices(after)) < _TEXT_FROM
        )


def _suffixes(hints: Sequence[bytes]) -> list[list[int]]:
    """All ends of the hints, short ones first."""
    found = {hint[start:] for hint in hints for start in range(len(hint))}
    return [list(each) for each in sorted(found, key=lambda each: (len(each), each))[:_MOST_SUFFIXES]]
