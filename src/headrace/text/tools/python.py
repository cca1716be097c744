"""Arguments in Python's notation, `a=1, b="x")`, as the JSON object that clients get."""

from __future__ import annotations

import json
import math
import re
from enum import Enum, auto

from headrace.text.tools.scan import skip_space

_KEY = re.compile(r"([^\s=,()\[\]{}'\"][^=,()\[\]{}'\"]{0,255}?)\s*=")
_MAY_BE_KEY = re.compile(r"[^=,()\[\]{}'\"]{0,256}")
_QUOTE = re.compile(r"([rRbBuUfF]{0,2})('''|\"\"\"|'|\")")
_MAY_BE_QUOTE = re.compile(r"[rRbBuUfF]{0,2}(?:'{0,2}|\"{0,2})")
_RUN = {quote: re.compile(rf"[^\\{quote}]+") for quote in "'\""}
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_ESCAPE_SIZES = {"x": 4, "u": 6, "U": 10} | dict.fromkeys("01234567", 4)
_ESCAPED = dict(zip("ntrbfav\n\\'\"/", ("\n", "\t", "\r", "\b", "\f", "\a", "\v", "", *"\\'\"/"), strict=True))
_ATOM = re.compile(r"[^,)\]}]+")
_KEY_ATOM = re.compile(r"[^,:)\]}]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_TO_BRACKET = re.compile(r"[^()\[\]{}]*([()\[\]{}]?)")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


class _Place(Enum):
    ELEMENT = auto()
    """An element begins, or its bracket ends"""
    VALUE = auto()
    TEXT = auto()
    """Within quotes"""
    BRACKETED_KEY = auto()
    """Within a tuple or the like that is a dict's key"""
    AFTER = auto()
    """Behind a value"""


class PythonArguments:
    """Reads named arguments up to the bracket that closes their call; JSON is given out as it becomes final.

    A value is a literal: a number, a text, True, False, None (or JSON's names of them), a list, tuple or dict of such.
    Anything else is taken as a text, and so is a tuple or the like that is a dict's key. A quote ends a text only where
    an element may end: templates write texts between quotes as they are, and models learn from them.
    """

    def __init__(self) -> None:
        self._place = _Place.ELEMENT
        self._brackets = ["("]
        """Open ones; the first is the call's"""
        self._num_elements = [0]
        """Of each open bracket"""
        self._is_key = False
        """The value is a key of a dict"""
        self._depth = 0
        """Open brackets of a key"""
        self._quote = ""
        self._is_raw = False
        self.has_ended = False

    def push(self, text: str) -> tuple[str, int]:
        """(JSON that is final, how many characters are done with); nothing is done where more has to come first."""
        pieces: list[str] = []
        at = 0
        while not self.has_ended and at < len(text):
            if self._place is _Place.TEXT:
                step = self._text(text, at)
            elif self._place is _Place.BRACKETED_KEY:
                step = self._bracketed_key(text, at)
            else:
                step = self._step(text, skip_space(text, at))
            if step is None:
                break
            piece, at = step
            pieces.append(piece)
        return "".join(pieces), at

    def skip_space(self, text: str) -> int:
        """Spaces that say nothing."""
        return 0 if self._place in (_Place.TEXT, _Place.BRACKETED_KEY) else skip_space(text, 0)

    def _step(self, text: str, at: int) -> tuple[str, int] | None:
        """The next piece of JSON and where the text goes on; None where more has to come first."""
        if at == len(text):
            return None
        if self._place is _Place.VALUE:
            return self._value(text, at)
        if text[at] in ")]}" and (len(self._brackets) > 1 or text[at] == ")"):
            return self._close(), at + 1
        if self._place is _Place.AFTER:
            return self._after(text, at)
        return ("", at + 1) if text[at] == "," else self._element(text, at)

    def _element(self, text: str, at: int) -> tuple[str, int] | None:
        comma = ", " if self._num_elements[-1] else ""
        if len(self._brackets) > 1:
            self._is_key = self._brackets[-1] == "{"
            self._count()
            return comma, at
        found = _KEY.match(text, at)
        if found is None:
            if _MAY_BE_KEY.fullmatch(text, at):
                return None
            self.has_ended = True  # no named argument: what follows belongs to no call
            return self._closing(), at
        self._is_key = False
        self._count()
        return f"{comma or '{'}{_dump(found[1])}: ", found.end()

    def _count(self) -> None:
        self._num_elements[-1] += 1
        self._place = _Place.VALUE

    def _value(self, text: str, at: int) -> tuple[str, int] | None:
        quote = _QUOTE.match(text, at)
        if _MAY_BE_QUOTE.fullmatch(text, at):
            return None
        if quote is not None:
            self._place, self._quote, self._is_raw = _Place.TEXT, quote[2], "r" in quote[1].lower()
            return '"', quote.end()
        if text[at] in "([{" and self._is_key:
            self._place = _Place.BRACKETED_KEY
            return '"', at
        if text[at] in "([{":
            self._brackets.append(text[at])
            self._num_elements.append(0)
            self._place = _Place.ELEMENT
            return "{" if text[at] == "{" else "[", at + 1
        atom = (_KEY_ATOM if self._is_key else _ATOM).match(text, at)
        end = at if atom is None else atom.end()
        if end == len(text):
            return None
        self._place = _Place.AFTER
        constant = _constant(text[at:end].strip())
        return _dump(constant) if self._is_key and not constant.startswith('"') else constant, end

    def _text(self, text: str, at: int) -> tuple[str, int] | None:
        mark = self._quote[0]
        run = _RUN[mark].match(text, at)
        if run is not None:
            return _escaped(run[0]), run.end()
        if text[at] == "\\":
            return self._escape(text, at)
        if len(self._quote) > 1:
            if mark * 3 != text[at : at + 3]:
                return None if len(text) - at < 3 and text[at:] == mark * (len(text) - at) else (_escaped(mark), at + 1)
        else:
            behind = skip_space(text, at + 1)
            if behind == len(text):
                return None
            if text[behind] not in (",", _CLOSERS[self._brackets[-1]], ":" if self._is_key else ","):
                return _escaped(mark), at + 1
        self._place = _Place.AFTER
        return '"', at + len(self._quote)

    def _bracketed_key(self, text: str, at: int) -> tuple[str, int]:
        """JSON's keys are texts: it is the one that is written, up to the bracket that closes it."""
        found = _TO_BRACKET.match(text, at)
        assert found is not None
        bracket = found[1]
        if bracket:
            self._depth += 1 if bracket in _CLOSERS else -1
        if not bracket or self._depth:
            return _escaped(found[0]), found.end()
        self._place = _Place.AFTER
        return _escaped(found[0]) + '"', found.end()

    def _escape(self, text: str, at: int) -> tuple[str, int] | None:
        kind = text[at + 1 : at + 2]
        if not kind:
            return None
        if self._is_raw or kind in _ESCAPED:
            return _escaped(text[at : at + 2] if self._is_raw else _ESCAPED[kind]), at + 2
        size = _ESCAPE_SIZES.get(kind, 2)
        found = _ESCAPE.match(text, at)
        is_short = found is None or (bool(found[1]) and found.end() == len(text))
        if is_short and len(text) - at < size:
            return None
        if found is None:
            return _escaped(text[at : at + 2]), at + 2
        code = int(found[1], 8) if found[1] else int(found[found.lastindex or 0], 16)
        if 0xD800 <= code < 0xE000:  # half of a character, as in JSON
            return f"\\u{code:04x}", found.end()
        return _escaped(chr(code) if code < 0x110000 else found[0]), found.end()

    def _after(self, text: str, at: int) -> tuple[str, int]:
        if text[at] == ":" and self._is_key:
            self._place, self._is_key = _Place.VALUE, False
            return ": ", at + 1
        if text[at] != ",":
            return "", at + 1
        self._place = _Place.ELEMENT
        return self._missing(), at + 1

    def _missing(self) -> str:
        """The value of a dict's key that has none, as in a set."""
        return ": null" if self._is_key else ""

    def _close(self) -> str:
        missing = self._missing() if self._place is _Place.AFTER else ""
        self._place, self._is_key = _Place.AFTER, False
        closing = self._closing()
        self._num_elements.pop()
        self._brackets.pop()
        self.has_ended = not self._brackets
        return missing + closing

    def _closing(self) -> str:
        if len(self._brackets) == 1:
            return "}" if self._num_elements[0] else "{}"
        return "}" if self._brackets[-1] == "{" else "]"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    """As it stands within JSON's quotes."""
    return _dump(text)[1:-1]


def _constant(atom: str) -> str:
    """The JSON of what stands without quotes."""
    if not atom:
        return "null"
    if _NUMBER.fullmatch(atom):
        return atom
    for read in (lambda: int(atom, 0), lambda: float(atom)):
        try:
            number = read()
            if math.isfinite(number):
                return _dump(number)
        except (ValueError, OverflowError):
            continue
    return _CONSTANTS.get(atom) or _dump(atom)
