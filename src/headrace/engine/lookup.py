"""Prompt lookup: what follows is guessed to be what followed when the last few tokens stood earlier in the sequence.

Summaries, edits, code and JSON repeat their input, and lists repeat themselves. A sequence keeps the latest position
after each pair of its tokens; a match found there is followed token by token for as long as it is right, so that the
longer it has held, the surer it is; one that held long and then failed is looked for again close by, since an edit
goes on behind the word that it changed. How often matches of each length were right is counted on every token, whether
it was computed as a draft or not. (Prompt lookup decoding: A. Saxena, 2023; with counted chances as in lookahead
caches such as llama.cpp's.)
"""

from __future__ import annotations

import numpy as np

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
_CREDIT_KEPT = 0.9
_LEAST_CHANCE = 0.08
"""Guesses that are less sure are never worth their time"""
_PROMPT_SLICE = 4096
"""Prompt tokens that are entered at once; 0.15 µs each"""
_LONG_MATCH = 4
"""Tokens from which on a match that fails is looked for again close by …"""
_CLOSE = 6
"""… within so many tokens …"""
_SEARCHES = 4
"""… at so many of the tokens that follow"""


class PromptLookup:
    """What one sequence knows of its own tokens. `follow` first, then `guess` and `chances`."""

    __slots__ = (
        "_after",
        "_chances",
        "_length",
        "_lost",
        "_num_bulk",
        "_searches",
        "_seen",
        "_source",
        "credit",
        "due",
    )

    def __init__(self, num_prompt: int) -> None:
        self.due = 0
        """Known tokens from which on the caller wants to look again; kept here for it"""
        self.credit = 0.0
        """Guesses that were right lately, each call of `follow` counting less what was before; added by the caller"""
        self._num_bulk = num_prompt - 1
        self._after: dict[int, int] = {}
        """Pair of token ids → the position after its latest occurrence"""
        self._seen = 0
        self._source = 0
        """The position of the token that is expected next; 0 for none"""
        self._length = 0
        """Tokens before it that are the same as the sequence's last ones, up to _LONGEST"""
        self._lost = 0
        """Where a long match failed …"""
        self._searches = 0
        """… and how often it is still looked for"""
        self._chances = list(_FIRST_CHANCES)

    def follow(self, token_ids: list[int]) -> bool:
        """Take in the tokens that are new since the last call; True if there is a guess."""
        seen = self._seen
        self.credit *= _CREDIT_KEPT
        if seen < self._num_bulk:
            seen = self._enter_prompt(token_ids)
            if seen < self._num_bulk:
                return False
        after, source = self._after, self._source
        last = token_ids[seen - 1] if seen else 0
        for token_id in token_ids[seen:]:
            seen += 1
            if source:
                source = self._check(token_ids[source] == token_id)
            pair = last << 20 | token_id
            if not source and (source := after.get(pair, 0) or self._searches):
                source = self._find(token_ids, seen, after.get(pair, 0))
            after[pair] = seen
            last = token_id
        self._seen = seen
        return source > 0

    def guess(self, token_ids: list[int], count: int) -> list[int]:
        """The `count` tokens that are expected next."""
        source = self._source
        guessed = token_ids[source : source + count]
        while len(guessed) < count:  # the match runs into the end: it repeats what it has guessed
            guessed.append(guessed[len(guessed) - (len(token_ids) - source)])
        return guessed

    def chances(self, most: int) -> list[float]:
        """The probability that the first 1, 2 … guessed tokens are all right, `most` of them at most."""
        chances, length = self._chances, self._length
        chance, found = 1.0, []
        for _ in range(most):
            chance *= chances[_KIND[length]]
            if chance < _LEAST_CHANCE:
                break
            found.append(chance)
            if length < _LONGEST:
                length += 1
        return found

    def _check(self, is_right: bool) -> int:
        """Count whether the expected token came; the next source."""
        chances, kind = self._chances, _KIND[self._length]
        if is_right:
            chances[kind] += _RATE * (_MOST_CHANCE - chances[kind])
            self._source += 1
            self._length = min(max(self._length, 1) + 1, _LONGEST)
        else:
            chances[kind] -= _RATE * chances[kind]
            if self._length >= _LONG_MATCH or kind == _KIND[0]:
                self._lost, self._searches = self._source, _SEARCHES
            self._source = 0
        return self._source

    def _find(self, token_ids: list[int], seen: int, candidate: int) -> int:
        """A new source for the token after the first `seen` ones: the candidate, or one close to where it was lost."""
        length = 0
        while length < min(_LONGEST, candidate) and token_ids[candidate - 1 - length] == token_ids[seen - 1 - length]:
            length += 1
        if length < 2:  # one token alone says little, but for those behind a failed match
            candidate = length = 0
            close = token_ids[self._lost : min(self._lost + _CLOSE, seen - 1)] if self._searches else []
            self._searches = max(self._searches - 1, 0)
            if token_ids[seen - 1] in close:
                candidate, length = self._lost + close.index(token_ids[seen - 1]) + 1, 1
        if candidate:
            self._searches = 0
        self._source, self._length = candidate, length
        return candidate

    def _enter_prompt(self, token_ids: list[int]) -> int:
        """Enter the next slice of the prompt. Its last token is left to `follow`, which looks for a match."""
        start = max(self._seen, 1)
        end = min(self._num_bulk, start + _PROMPT_SLICE)
        ids = np.array(token_ids[start - 1 : end], np.int64)
        self._after.update(zip((ids[:-1] << 20 | ids[1:]).tolist(), range(start + 1, end + 1), strict=True))
        self._seen = max(end, start)
        return self._seen
