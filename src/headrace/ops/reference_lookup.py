"""Prompt lookup: what follows is guessed to be what followed when the last few tokens stood earlier in the sequence.

Summaries, edits, code and JSON repeat their input, and lists repeat themselves. A sequence keeps the latest position
after each pair of its tokens; a match found there is followed token by token for as long as it is right, so that the
longer it has held, the surer it is; one that held long and then failed is looked for again close by, since an edit
goes on behind the word that it changed. How often matches of each length were right is counted on every token, whether
it was computed as a draft or not. (Prompt lookup decoding: A. Saxena, 2023; with counted chances as in lookahead
caches such as llama.cpp's.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_LONGEST = 18
"""Tokens of a match that are told apart"""
_KIND = (6, 6, 0, 1, 2, 2, *(3,) * 4, *(4,) * 8, 5)
"""[length]: the kind of match whose chances are counted together; 6 is one that was found close by"""
_FIRST_CHANCES = (0.15, 0.25, 0.4, 0.6, 0.75, 0.85, 0.4)
"""Of each kind, before anything was counted"""
_RATE = 0.1
"""Weight of the latest token in a chance"""
_MOST_CHANCE = 0.97
"""No guess is surer: many in a row would seem to be"""
_LEAST_CHANCE = 0.08
"""Guesses that are less sure are never worth their time"""
_LONG_MATCH = 4
"""Tokens from which on a match that fails is looked for again close by …"""
_CLOSE = 6
"""… within so many tokens …"""
_SEARCHES = 4
"""… at so many of the tokens that follow"""


class ReferenceLookup:
    """`headrace.ops.base.PromptLookup` in plain Python, slow and obvious."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = list(token_ids)
        self._after: dict[tuple[int, ...], int] = {pair: at + 2 for at, pair in enumerate(pairwise(token_ids))}
        """Pair of token ids → the position after its latest occurrence"""
        self._source = 0
        """The position of the token that is expected next; 0 for none"""
        self._length = 0
        """Tokens before it that are the same as the sequence's last ones, up to _LONGEST"""
        self._lost = 0
        """Where a long match failed …"""
        self._searches = 0
        """… and how often it is still looked for"""
        self._chances = list(_FIRST_CHANCES)

    def follow(self, token_ids: Sequence[int]) -> float:
        """Take in what is new in the sequence: the chance that the next guess is right, 0 without one."""
        if len(token_ids) < len(self._token_ids):
            raise ValueError("a text is shorter than it was")
        for token_id in token_ids[len(self._token_ids) :]:
            self._add(token_id)
        return self._chances[_KIND[self._length]] if self._source else 0.0

    def guess(self, count: int) -> list[int]:
        if not self._source:
            return []
        guessed = self._token_ids[self._source : self._source + count]
        while len(guessed) < count:  # the match runs into the end: it repeats what it has guessed
            guessed.append(guessed[self._source - len(self._token_ids)])
        return guessed

    def chances(self, most: int) -> list[float]:
        chance, length, found = 1.0, self._length, list[float]()
        while self._source and len(found) < most:
            chance *= self._chances[_KIND[length]]
            if chance < _LEAST_CHANCE:
                break
            found.append(chance)
            length = min(length + 1, _LONGEST)
        return found

    def _add(self, token_id: int) -> None:
        self._token_ids.append(token_id)
        if self._source:
            self._check(self._token_ids[self._source] == token_id)
        pair = tuple(self._token_ids[-2:])
        candidate = self._after.get(pair, 0)
        if not self._source and (candidate or self._searches):
            self._find(candidate)
        if len(pair) == 2:
            self._after[pair] = len(self._token_ids)

    def _check(self, is_right: bool) -> None:
        """Count whether the expected token came."""
        kind = _KIND[self._length]
        if is_right:
            self._chances[kind] += _RATE * (_MOST_CHANCE - self._chances[kind])
            self._source += 1
            self._length = min(max(self._length, 1) + 1, _LONGEST)
        else:
            self._chances[kind] -= _RATE * self._chances[kind]
            if self._length >= _LONG_MATCH or kind == _KIND[0]:
                self._lost, self._searches = self._source, _SEARCHES
            self._source = 0

    def _find(self, candidate: int) -> None:
        """A new source for the next token: the candidate, or one close to where a match was lost."""
        known, length = self._token_ids, 0
        while length < min(_LONGEST, candidate) and known[candidate - 1 - length] == known[-1 - length]:
            length += 1
        if length < 2:  # one token alone says little, but for those behind a failed match
            candidate = self._find_close()
            length = 1 if candidate else 0
        if candidate:
            self._searches = 0
        self._source, self._length = candidate, length

    def _find_close(self) -> int:
        """The position after the last token close to where a long match failed; 0 if it is not there."""
        if not self._searches:
            return 0
        self._searches -= 1
        last = min(self._lost + _CLOSE, len(self._token_ids) - 1)
        close = self._token_ids[self._lost : last]
        return self._lost + close.index(self._token_ids[-1]) + 1 if self._token_ids[-1] in close else 0
