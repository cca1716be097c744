"""llama.cpp's GBNF, and EBNF of the same shape (`name ::= …`), as Lark.

Rules that do not come back to themselves are regular: they become terminals, which the library matches fast. Rules
whose only recursion is at their end become repetitions. Also taken, from W3C's EBNF: 'single quotes', #xN characters
and /* comments */.
"""

from __future__ import annotations

import re
import sys

from headrace.text.grammar import rules_as_lark
from headrace.text.grammar.regex import spelled
from headrace.text.grammar.rules import (
    Choice,
    Node,
    Reference,
    Repeat,
    Sequence,
    Terminal,
    literals,
    references,
    unrolled,
)


class GbnfError(Exception):
    """A grammar that cannot be used; the message says why and on which line."""


_SKIPPED = re.compile(r"(?:[ \t]|#(?!x[0-9A-Fa-f])[^\n]*|/\*.*?\*/|//[^\n]*)+", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RULE = re.compile(r"[ \t]*[A-Za-z_][A-Za-z0-9_-]*[ \t]*::=")
_COUNTS = re.compile(r"\{[ ]*([0-9]{1,6})[ ]*(?:(,)[ ]*([0-9]{1,6})?[ ]*)?\}")
_HEXADECIMAL = re.compile(r"#x([0-9A-Fa-f]{1,6})")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'", "[": "[", "]": "]", "-": "-", "^": "^"}
_MOST_DEPTH = 100
_MOST_RULES = 1_000
_MOST_COUNT = 10_000


def as_lark(text: str) -> tuple[str, list[str]]:
    """The same grammar as Lark, and its literals.

    Raises:
        GbnfError: it is malformed, has no rule "root", or uses what is not supported.
    """
    try:
        rules = _checked(_Parser(text).parse())
        return rules_as_lark.as_lark(rules), [text for rule in rules.values() for text in literals(rule)]
    except RecursionError:
        raise GbnfError("its rules lead too deep into one another; write some of them out") from None


def _checked(rules: dict[str, Node]) -> dict[str, Node]:
    """With root, all that they name, and without repetitions of many."""
    if "root" not in rules:
        raise GbnfError('there is no rule "root", which is where it begins')
    for name, rule in rules.items():
        for reference in references(rule):
            if reference.name not in rules:
                raise GbnfError(f"line {reference.line}: there is no rule {reference.name!r}")
        rules[name] = unrolled(name, rule)
    return rules


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._depth = 0

    def parse(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        while True:
            self._skip(lines=True)
            if self._at >= len(self._text):
                return rules
            name = self._match(_NAME)
            if name is None or name[0] in rules:
                raise self._error(
                    "expected the name of a rule" if name is None else f"the rule {name[0]!r} comes twice"
                )
            self._skip()
            if not self._take("::="):
                raise self._error("expected ::=")
            rules[name[0]] = self._choice()
            self._take(";")
            if len(rules) > _MOST_RULES:
                raise GbnfError(f"it has more than {_MOST_RULES:,} rules; make it smaller")

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._take_after_lines("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (part := self._repeated()) is not None:
            parts.append(part)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self) -> Node | None:
        part = self._item()
        while part is not None:
            if self._take("*"):
                part = Repeat(part, 0, None)
            elif self._take("+"):
                part = Repeat(part, 1, None)
            elif self._take("?"):
                part = Repeat(part, 0, 1)
            elif (counts := self._match(_COUNTS)) is not None:
                part = self._counted(part, counts)
            else:
                break
        return part

    def _counted(self, part: Node, counts: re.Match[str]) -> Node:
        low = int(counts[1])
        high = low if counts[2] is None else None if counts[3] is None else int(counts[3])
        if max(low, high or 0) > _MOST_COUNT or (high is not None and high < low):
            raise self._error(f"the counts {counts[0]} are out of order or above {_MOST_COUNT:,}")
        return Repeat(part, low, high)

    def _item(self) -> Node | None:
        self._skip()
        start = self._at
        self._skip(lines=True)
        if self._at > start and (
            self._depth == 0 and (self._at >= len(self._text) or _RULE.match(self._text, self._at))
        ):
            return None  # the next rule
        character = self._text[self._at : self._at + 1]
        if character in ("", "|", ")", ";"):
            return None
        if character in "\"'":
            return self._literal(character)
        if character == "[":
            return self._class()
        return self._group() if self._take("(") else self._atom()

    def _atom(self) -> Node:
        if self._take("."):
            return Terminal("(?s:.)")
        if (code := self._match(_HEXADECIMAL)) is not None:
            if int(code[1], 16) > sys.maxunicode:
                raise self._error(f"{code[0]} is no character")
            return _of_text(chr(int(code[1], 16)))
        if (name := self._match(_NAME)) is not None:
            return Reference(name[0], self._line())
        raise self._error(f"{self._text[self._at]!r} is not supported here")

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self._error(f"groups are nested more than {_MOST_DEPTH} deep")
        part = self._choice()
        self._skip(lines=True)
        if not self._take(")"):
            raise self._error("missing )")
        self._depth -= 1
        return part

    def _literal(self, quote: str) -> Node:
        self._at += 1
        found: list[str] = []
        while not self._take(quote):
            found.append(self._character())
        return _of_text("".join(found))

    def _class(self) -> Node:
        self._at += 1
        is_negated = self._take("^")
        found: list[str] = []
        while not self._take("]"):
            low = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._character()
                if high < low:
                    raise self._error("a range is out of order")
                found.append(f"{spelled(low)}-{spelled(high)}")
            else:
                found.append(spelled(low))
        if not found:
            raise self._error("a class without characters")
        return Terminal(f"[{'^' if is_negated else ''}{''.join(found)}]")

    def _character(self) -> str:
        character = self._text[self._at : self._at + 1]
        if character in ("", "\n"):
            raise self._error("a literal or class has no end")
        self._at += 1
        if character != "\\":
            return character
        letter = self._text[self._at : self._at + 1]
        self._at += 1
        length = {"x": 2, "u": 4, "U": 8}.get(letter)
        if length is None:
            if letter not in _ESCAPES:
                raise self._error(f"\\{letter} is not known")
            return _ESCAPES[letter]
        digits = self._text[self._at : self._at + length]
        self._at += length
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise self._error(f"\\{letter}{digits} is no character") from None

    def _take_after_lines(self, text: str) -> bool:
        start = self._at
        self._skip(lines=True)
        if self._take(text):
            return True
        self._at = start
        return False

    def _skip(self, *, lines: bool = False) -> None:
        while (found := _SKIPPED.match(self._text, self._at)) is not None or (
            lines and self._text.startswith("\n", self._at)
        ):
            self._at = self._at + 1 if found is None else found.end()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _error(self, what: str) -> GbnfError:
        return GbnfError(f"line {self._line()}: {what}")


def _of_text(text: str) -> Terminal:
    return Terminal(spelled(text), text)
