"""Regular expressions of JavaScript (ECMA-262 with the flag u, as JSON Schema has them) in the words of the library.

The library reads Rust's syntax, which looks the same and is not: `[a&&b]`, `.`, `\\s`, `$` and nested brackets differ.
So an expression is parsed here, and written anew with every character spelled out. What has no meaning for generating
text (look-around, back-references, word boundaries) is refused by name, and so is what expands without bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MOST_CHARACTERS = 10_000
_MOST_DEPTH = 60
_MOST_POSITIONS = 20_000
"""Characters of an expression with its repetitions written out"""
_LAST = 0x10FFFF
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_ANYTHING = r"(?s:.*)"

Ranges = tuple[tuple[int, int], ...]


class RegexError(Exception):
    """An expression that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of an expression, rewritten."""

    text: str
    positions: int
    """Characters with repetitions written out"""
    example: str = ""
    """A shortest text that it matches"""
    opens: bool = False
    """It matches at the start of the text only"""
    closes: bool = False
    """It matches at the end of the text only"""
    is_anchor: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """A whole expression in the library's syntax."""

    text: str
    example: str
    """A shortest text that it matches, or nearly: what a \\p{…} stands for is not known here"""


def whole(pattern: str) -> Expression:
    """What matches a text as a whole.

    Raises:
        RegexError: the expression is malformed, cannot be enforced or expands too far.
    """
    return _Parser(pattern).parse(is_search=False)


def search(pattern: str) -> Expression:
    """What matches a text that has a match anywhere, as a whole expression.

    Raises:
        RegexError: as for `whole`.
    """
    return _Parser(pattern).parse(is_search=True)


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > _MOST_CHARACTERS:
            raise RegexError(f"it has {len(pattern):,} characters, more than {_MOST_CHARACTERS:,}")
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self, *, is_search: bool) -> Expression:
        branches = self._branches()
        if self._at < len(self._pattern):
            raise self._error("unmatched )")
        _check_size(sum(branch.positions for branch in branches))
        text = "|".join(self._finish(branch, is_search=is_search) for branch in branches)
        return Expression(text, min((branch.example for branch in branches), key=len))

    @staticmethod
    def _finish(branch: _Part, *, is_search: bool) -> str:
        before = "" if branch.opens or not is_search else _ANYTHING
        after = "" if branch.closes or not is_search else _ANYTHING
        return f"(?:{before}{branch.text}{after})"

    def _branches(self) -> list[_Part]:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated())
        matters = [part for part in parts if not part.is_anchor]
        leading = next((at for at, part in enumerate(parts) if not part.is_anchor), len(parts))
        trailing = len(parts) - next((at for at, part in enumerate(parts[::-1]) if not part.is_anchor), len(parts))
        for at, part in enumerate(parts):
            if (part.opens and at > leading) or (part.closes and at < trailing - 1):
                raise self._error("^ or $ in the middle of a text, where nothing can match")
            if part.is_anchor and ((part.opens and at >= leading) or (part.closes and at < trailing)) and matters:
                raise self._error("^ or $ in the middle of a text, where nothing can match")
        return _Part(
            "".join(part.text for part in parts),
            sum(part.positions for part in parts),
            "".join(part.example for part in parts),
            opens=any(part.opens for part in parts),
            closes=any(part.closes for part in parts),
            is_anchor=bool(parts) and not matters,
        )

    def _repeated(self) -> _Part:
        part = self._atom()
        counts = self._counts()
        if counts is None:
            return part
        if part.opens or part.closes:
            raise self._error("^ or $ is repeated")
        if self._take("?") and not self._is_quantifier():
            pass  # lazy: which match is found first makes no difference to what matches
        if self._is_quantifier():
            raise self._error("a quantifier follows another")
        low, high = counts
        times = max(low, 1) if high is None else high
        positions = part.positions * times
        _check_size(positions)
        quantifier = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get(counts)
        if quantifier is None:
            quantifier = f"{{{low},{'' if high is None else high}}}"
        return _Part(f"(?:{part.text}){quantifier}", positions, part.example * low)

    def _is_quantifier(self) -> bool:
        return self._at < len(self._pattern) and self._pattern[self._at] in "*+?"

    def _counts(self) -> tuple[int, int | None] | None:
        for mark, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(mark):
                return counts
        if not self._pattern.startswith("{", self._at):
            return None
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not _is_number(low) or not (high == "" or _is_number(high)):
            raise self._error("{ without a count; write \\{ for the character")
        self._at = end + 1
        least = int(low)
        most = None if comma and not high else int(high) if comma else least
        if most is not None and most < least:
            raise self._error("a count is out of order")
        _check_size(max(least, most or 0))
        return least, most

    def _atom(self) -> _Part:
        character = self._next()
        if character in "^$":
            return _Part("", 0, opens=character == "^", closes=character == "$", is_anchor=True)
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == ".":
            return _of_class(_complement(_LINE_ENDS))
        if character == "\\":
            return self._escape()
        if character in "*+?":
            raise self._error(f"nothing before {character} to repeat")
        if character in "{}]":
            raise self._error(f"{character} stands alone; write \\{character} for the character")
        return _Part(_literal(ord(character)), 1, character)

    def _group(self) -> _Part:
        for mark, name in (("?=", "look-ahead"), ("?!", "look-ahead"), ("?<=", "look-behind"), ("?<!", "look-behind")):
            if self._pattern.startswith(mark, self._at):
                raise self._error(f"{name} ({mark}…) cannot be enforced")
        named = self._take("?<") or self._take("?P<")
        if named:
            end = self._pattern.find(">", self._at)
            if end < 0 or not self._pattern[self._at : end].isidentifier():
                raise self._error("a group's name is malformed")
            self._at = end + 1
        elif not self._take("?:") and self._pattern.startswith("?", self._at):
            raise self._error("this kind of group (?…) is not supported")
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise RegexError(f"groups are nested more than {_MOST_DEPTH} deep")
        branches = self._branches()
        self._depth -= 1
        if not self._take(")"):
            raise self._error("missing )")
        if len({(branch.opens, branch.closes) for branch in branches}) > 1:
            raise self._error("^ or $ in some branches of a group and not in others cannot be enforced")
        text = "|".join(branch.text for branch in branches)
        positions = sum(branch.positions for branch in branches)
        is_anchor = all(branch.is_anchor for branch in branches)
        example = min((branch.example for branch in branches), key=len)
        return _Part(f"(?:{text})", positions, example, branches[0].opens, branches[0].closes, is_anchor)

    def _escape(self) -> _Part:
        character = self._next()
        if character in "bB":
            raise self._error(f"a word boundary (\\{character}) cannot be enforced")
        if character in "AZz":  # Python's and Rust's; no letter may be escaped in JavaScript
            return _Part("", 0, opens=character == "A", closes=character != "A", is_anchor=True)
        if character == "k" or character in "123456789":
            raise self._error(f"a back-reference (\\{character}) cannot be enforced")
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return _of_class(_complement(ranges) if character.isupper() else ranges)
        if character in "pP":
            return _Part(self._property(character), 1, "a")
        code = self._character(character)
        return _Part(_literal(code), 1, chr(code))

    def _character(self, character: str) -> int:
        """The code point of an escape that stands for one character; its letter has been read."""
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character == "x":
            return self._hexadecimal(2)
        if character == "c":
            letter = self._next()
            if not (letter.isascii() and letter.isalpha()):
                raise self._error("\\c without a letter")
            return ord(letter) % 32
        if character == "u":
            return self._unicode()
        if character.isalnum():
            raise self._error(f"\\{character} is not known")
        return ord(character)

    def _unicode(self) -> int:
        if self._take("{"):
            end = self._pattern.find("}", self._at)
            digits = self._pattern[self._at : end] if end > 0 else ""
            self._at = end + 1
            if not 1 <= len(digits) <= 6 or not _is_hexadecimal(digits) or int(digits, 16) > _LAST:
                raise self._error("\\u{…} is no character")
            return int(digits, 16)
        code = self._hexadecimal(4)
        if 0xD800 <= code < 0xDC00 and self._take("\\u"):
            low = self._hexadecimal(4)
            if not 0xDC00 <= low < 0xE000:
                raise self._error("half of a character (a lone surrogate)")
            return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        if 0xD800 <= code < 0xE000:
            raise self._error("half of a character (a lone surrogate)")
        return code

    def _hexadecimal(self, count: int) -> int:
        digits = self._pattern[self._at : self._at + count]
        if len(digits) != count or not _is_hexadecimal(digits):
            raise self._error(f"expected {count} hexadecimal digits")
        self._at += count
        return int(digits, 16)

    def _property(self, letter: str) -> str:
        end = self._pattern.find("}", self._at)
        name = self._pattern[self._at + 1 : end] if self._pattern.startswith("{", self._at) and end > 0 else ""
        if not name or not name.replace("_", "").replace("=", "").isalnum():
            raise self._error(f"\\{letter} without {{a property}}")
        self._at = end + 1
        return f"\\{letter}{{{name}}}"

    def _class(self) -> _Part:
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        properties: list[str] = []
        while not self._take("]"):
            low = self._class_item(properties)
            is_range = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
            if not isinstance(low, int) or not is_range:
                ranges.extend([(low, low)] if isinstance(low, int) else low)
                continue
            self._at += 1
            high = self._class_item(properties)
            if not isinstance(high, int):  # [a-\\d]: three things, as without the flag u
                ranges.extend([(low, low), (ord("-"), ord("-")), *high])
            elif high < low:
                raise self._error("a range is out of order")
            else:
                ranges.append((low, high))
        if not properties:
            return _of_class(_complement(tuple(ranges)) if is_negated else tuple(ranges))
        inside = "".join(properties) + "".join(_range(low, high) for low, high in ranges)
        return _Part(f"[{'^' if is_negated else ''}{inside}]", 1, "a")

    def _class_item(self, properties: list[str]) -> int | Ranges:
        character = self._next("missing ]")
        if character != "\\":
            return ord(character)
        character = self._next()
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return _complement(ranges) if character.isupper() else ranges
        if character in "pP":
            properties.append(self._property(character))
            return ()
        return 0x08 if character == "b" else self._character(character)

    def _next(self, expected: str = "it ends too early") -> str:
        if self._at >= len(self._pattern):
            raise self._error(expected)
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _error(self, what: str) -> RegexError:
        return RegexError(f"{what} (at character {self._at})")


def spelled(text: str) -> str:
    """An expression of a text, every character spelled out."""
    return "".join(map(_literal, map(ord, text)))


def _check_size(positions: int) -> None:
    if positions > _MOST_POSITIONS:
        raise RegexError(f"it stands for more than {_MOST_POSITIONS:,} characters when its counts are written out")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _is_hexadecimal(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)


def _complement(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    start = 0
    for low, high in (*sorted(ranges), (_LAST + 1, _LAST + 1)):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return tuple(found)


def _of_class(ranges: Ranges) -> _Part:
    if not ranges:
        raise RegexError("a class without characters matches nothing")
    plain = (code for code in (0x61, 0x30, 0x41, 0x20) if any(low <= code <= high for low, high in ranges))
    example = chr(next(plain, max(ranges[0][0], min(0x21, ranges[0][1]))))
    return _Part(f"[{''.join(_range(low, high) for low, high in ranges)}]", 1, example)


def _range(low: int, high: int) -> str:
    return _literal(low) if low == high else f"{_literal(low)}-{_literal(high)}"


_literal: Callable[[int], str] = "\\x{{{:X}}}".format
"""A character in the library's syntax"""
