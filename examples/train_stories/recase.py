"""Gives lower-cased stories their capitals back, by counts taken from cased stories.

A word is a capital word when it opens a sentence or a quotation, when it is a name in this story ("named lily"), or
when cased text of the same kind writes it so in the middle of a sentence. After a quotation that ends in `!`, `?` or
a comma, a speech verb decides: `"Hi!" she said` goes on, `"Hi!" She ran` begins anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

TOKEN = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*|[^A-Za-z]+")
SPEECH = frozenset([
    "said", "says", "asked", "replied", "shouted", "cried", "answered", "yelled", "called", "exclaimed", "whispered",
    "thought", "told", "screamed", "explained", "laughed", "added", "responded", "wondered", "squeaked", "barked",
    "agreed", "begged", "sighed", "smiled",
])  # fmt: skip
NAMING = frozenset(["named", "called"])


@dataclass(frozen=True)
class Word:
    """A word with what stands around it: `place` is start, quote, after_quote or middle."""

    text: str
    place: str
    is_named: bool


def places(text: str) -> list[tuple[str, Word | None]]:
    """The text's pieces in order, each with its `Word`, or None for what is no word. Joined, they are the text."""
    pieces = TOKEN.findall(text)
    found: list[tuple[str, Word | None]] = []
    gap, is_open, previous_word = "\n", False, ""
    for index, piece in enumerate(pieces):
        if not piece[0].isalpha():
            gap = piece
            is_open ^= piece.count('"') % 2 == 1
            found.append((piece, None))
            continue
        following = [later.lower() for later in pieces[index : index + 8] if later[0].isalpha()]
        place = place_after(gap, is_open, following)
        found.append((piece, Word(piece, place, gap == " " and previous_word.lower() in NAMING)))
        gap, previous_word = "", piece
    return found


def place_after(gap: str, is_open: bool, following: list[str]) -> str:
    mark = gap.rstrip(" ")
    if '"' in gap and is_open:
        return "quote"
    if "\n" in gap:
        return "start"
    if '"' in gap:
        is_speech = any(word in SPEECH for word in following[:4])
        return "after_speech" if is_speech and not mark.endswith('."') else "after_quote"
    return "start" if mark[-1:] in (".", "!", "?", ":") and mark else "middle"


@dataclass(frozen=True)
class Recaser:
    """Counts of capitals by (place, word) and by place, learned from cased text."""

    capitals: Counter[tuple[str, str]]
    totals: Counter[tuple[str, str]]

    @classmethod
    def learn(cls, stories: Iterable[str]) -> Recaser:
        capitals: Counter[tuple[str, str]] = Counter()
        totals: Counter[tuple[str, str]] = Counter()
        for story in stories:
            for _, word in places(story):
                if word is None:
                    continue
                for key in ((word.place, word.text.lower()), (word.place, "")):
                    totals[key] += 1
                    capitals[key] += word.text[0].isupper()
        return cls(capitals, totals)

    def is_capital(self, word: Word, names: set[str]) -> bool:
        text = word.text.lower()
        if text in names or re.match(r"i('|$)", text):
            return True
        in_middle = ("middle", text)
        if self.totals[in_middle] >= 3 and 2 * self.capitals[in_middle] > self.totals[in_middle]:
            return True
        if word.place == "middle":
            return False
        key = (word.place, text) if self.totals[word.place, text] >= 3 else (word.place, "")
        return 2 * self.capitals[key] > self.totals[key]

    def recase(self, story: str) -> str:
        """The story with its capitals; nothing else is changed."""
        pieces = places(story)
        named = {word.text.lower() for _, word in pieces if word is not None and word.is_named}
        names = {name for name in named if not self.is_common(name)}
        return "".join(
            piece if word is None or not self.is_capital(word, names) else piece[0].upper() + piece[1:]
            for piece, word in pieces
        )

    def is_common(self, text: str) -> bool:
        """Whether cased text mostly writes this word small, so that "called out" names nobody."""
        key = ("middle", text)
        return self.totals[key] >= 3 and 2 * self.capitals[key] <= self.totals[key]
