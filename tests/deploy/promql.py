"""Enough of PromQL to see that a query means something: its grammar, and what rates and quantiles are taken of.

Source: https://prometheus.io/docs/prometheus/latest/querying/basics/ and .../operators/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"\s*(?:(?P<range>\[[^\]]*\])|(?P<number>\d+(?:\.\d+)?(?![a-z_]))|(?P<string>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|==|!=|>=|<=|[-+*/^%<>=(){},]))"
)
_RANGE = re.compile(r"\[(?:\d+[smhd]|\$__rate_interval)\]")
_AGGREGATIONS = ("sum", "max", "min", "avg", "count")
_OF_COUNTERS = ("rate", "increase", "irate")
_LEVELS = (("or",), ("and", "unless"), ("==", "!=", ">", "<", ">=", "<="), ("+", "-"), ("*", "/", "%"))


class BadQuery(ValueError):
    """It does not parse, or means nothing."""


@dataclass
class Selector:
    """`name{label="…"}[range]`, and what is done with it."""

    name: str
    matchers: dict[str, str]
    is_range: bool = False
    function: str | None = None
    """The one of _OF_COUNTERS around it"""
    labels_kept: list[tuple[str, ...]] = field(default_factory=list)
    """Of each aggregation around it"""
    in_quantile: bool = False


def selectors(query: str) -> list[Selector]:
    """All metrics that a query names."""
    return list(_Parser(query).whole())


class _Parser:
    def __init__(self, query: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while query[at:].strip():
            match = _TOKEN.match(query, at)
            if match is None:
                raise BadQuery(f"{query[at:]!r} is not understood")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind]))
            at = match.end()

    def whole(self) -> Iterator[Selector]:
        found = self._binary(0)
        if self._tokens:
            raise BadQuery(f"{self._tokens[0][1]!r} is too much")
        return iter(found)

    def _binary(self, level: int) -> list[Selector]:
        if level == len(_LEVELS):
            return self._one()
        found = self._binary(level + 1)
        while self._next() in _LEVELS[level]:
            self._take()
            found += self._binary(level + 1)
        return found

    def _one(self) -> list[Selector]:
        kind, text = self._take()
        if kind == "number":
            return []
        if text == "(":
            found = self._binary(0)
            self._expect(")")
            return found
        if kind != "word":
            raise BadQuery(f"{text!r} is no expression")
        if text in _AGGREGATIONS:
            return self._aggregation()
        if self._next() == "(":
            return self._call(text)
        return [self._selector(text)]

    def _aggregation(self) -> list[Selector]:
        kept: tuple[str, ...] = ()
        if self._next() == "by":
            self._take()
            kept = tuple(text for kind, text in self._until(")") if kind == "word")
        self._expect("(")
        found = self._binary(0)
        self._expect(")")
        for selector in found:
            selector.labels_kept.append(kept)
        return found

    def _call(self, function: str) -> list[Selector]:
        self._expect("(")
        if function == "histogram_quantile":
            kind, share = self._take()
            if kind != "number" or not 0 <= float(share) <= 1:
                raise BadQuery(f"the quantile is {share}")
            self._expect(",")
        elif function not in _OF_COUNTERS:
            raise BadQuery(f"{function} is no function that is known here")
        found = self._binary(0)
        self._expect(")")
        for selector in found:
            if function == "histogram_quantile":
                selector.in_quantile = True
            else:
                selector.function = function
        return found

    def _selector(self, name: str) -> Selector:
        matchers: dict[str, str] = {}
        if self._next() == "{":
            tokens = self._until("}")
            while tokens:
                (_, label), (_, sign), (kind, value), *tokens = tokens
                if sign not in ("=", "=~", "!=", "!~") or kind != "string":
                    raise BadQuery(f"{name}: {label} {sign} {value} is no matcher")
                matchers[label] = value
                tokens = tokens[1:]
        selector = Selector(name, matchers)
        if self._tokens and self._tokens[0][0] == "range":
            if not _RANGE.fullmatch(self._take()[1]):
                raise BadQuery(f"{name} has a bad range")
            selector.is_range = True
        return selector

    def _until(self, end: str) -> list[tuple[str, str]]:
        self._take()
        found = []
        while (token := self._take())[1] != end:
            found.append(token)
        return found

    def _next(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def _take(self) -> tuple[str, str]:
        if not self._tokens:
            raise BadQuery("it ends too early")
        return self._tokens.pop(0)

    def _expect(self, text: str) -> None:
        found = self._take()[1]
        if found != text:
            raise BadQuery(f"{found!r} instead of {text!r}")
