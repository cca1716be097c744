"""Rules of a Lark grammar that never come to an end: whatever they derive holds such a rule again.

The library runs for ever where one of them has patterns that match nothing (`start: /a*/ start`). Only names and the
signs between them are read here; quoted texts, patterns, schemas and whatever else stands for a text as it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeAlias

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|(?://|\#)[^\n]*|\n[ \t]*(?=\|))"""
    r"""|(?P<json>%json\b\s*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"i?|/(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*|<[^>\n]*>|@\w+)"""
    r"""|(?P<many>~[ \t]*\d+(?:[ \t]*\.\.[ \t]*\d+)?|\{[^}\n]*\})"""
    r"""|(?P<attributes>\[[^\]\n]*\](?=[ \t]*:))"""
    r"""|(?P<name>[A-Za-z_][\w-]*)"""
    r"""|(?P<line>\n)"""
    r"""|(?P<sign>.)""",
    re.DOTALL,
)

_Tokens: TypeAlias = list[tuple[str, str]]


def endless_rules(lark: str) -> list[str]:
    """The names of rules that no text satisfies, in their order.

    A rule is said to be endless only if all of its alternatives hold an endless one that cannot be left out.
    """
    rules = dict(_rules(_tokens(lark)))
    users: dict[str, list[str]] = defaultdict(list)
    for name, body in rules.items():
        for used in {text for kind, text in body if kind == "name"}:
            users[used].append(name)
    ending: set[str] = set()
    undecided = set(rules)
    try:
        while undecided:
            found = {name for name in undecided if _ends(rules[name], rules, ending)}
            ending |= found
            undecided = {user for name in found for user in users[name]} - ending
    except RecursionError:
        return []  # brackets deeper than the library takes
    return [name for name in rules if name not in ending]


def _tokens(lark: str) -> _Tokens:
    tokens: _Tokens = []
    at = 0
    while (found := _TOKEN.match(lark, at)) is not None and found.end() > at:
        kind, at = found.lastgroup or "sign", found.end()
        if kind == "json":
            try:
                at = json.JSONDecoder().raw_decode(lark, at)[1]
            except (ValueError, RecursionError):
                return []  # the library says what is wrong with it
            kind = "text"
        is_modifier = found[0] in ("?", "!") and (not tokens or tokens[-1][0] == "line")  # of the rule that it begins
        if kind != "skip" and not is_modifier:
            tokens.append((kind, found[0]))
    return tokens


def _rules(tokens: _Tokens) -> Iterator[tuple[str, _Tokens]]:
    """Each rule's name and what stands behind its colon."""
    starts = [
        at
        for at, (kind, _) in enumerate(tokens)
        if kind == "name" and (at == 0 or tokens[at - 1][0] == "line") and _colon(tokens, at + 1)
    ]
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        colon = _colon(tokens, start + 1)
        assert colon is not None
        body = [token for token in tokens[colon + 1 : end] if token[0] != "line"]
        yield tokens[start][1], body


def _colon(tokens: _Tokens, at: int) -> int | None:
    """Where the colon of a rule is whose name stands before `at`: behind attributes or a priority (`.2`)."""
    for place in range(at, min(at + 4, len(tokens))):
        kind, text = tokens[place]
        if (kind, text) == ("sign", ":"):
            return place
        if kind not in ("attributes", "sign"):
            return None
    return None


def _ends(body: _Tokens, rules: Mapping[str, _Tokens], ending: set[str]) -> bool:
    """Whether an alternative is known to end."""
    return any(_alternative_ends(each, rules, ending) for each in _split(body))


def _alternative_ends(tokens: _Tokens, rules: Mapping[str, _Tokens], ending: set[str]) -> bool:
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        after = at + 1
        if text in ("(", "[") and kind == "sign":
            after = _closing(tokens, at)
            ends = text == "[" or _ends(tokens[at + 1 : after - 1], rules, ending)  # [x] is x or nothing
        else:
            ends = kind != "name" or text not in rules or text in ending
        is_optional = after < len(tokens) and tokens[after][1] in ("?", "*")
        if not ends and not is_optional:
            return False
        at = after
    return True


def _split(tokens: _Tokens) -> list[_Tokens]:
    """At the bars that stand in no brackets."""
    parts: list[_Tokens] = [[]]
    depth = 0
    for kind, text in tokens:
        if kind == "sign":
            depth += (text in "([") - (text in ")]")
            if text == "|" and not depth:
                parts.append([])
                continue
        parts[-1].append((kind, text))
    return parts


def _closing(tokens: _Tokens, at: int) -> int:
    """Behind the bracket that closes the one at `at`."""
    depth = 0
    for place in range(at, len(tokens)):
        kind, text = tokens[place]
        if kind == "sign":
            depth += (text in "([") - (text in ")]")
            if not depth:
                return place + 1
    return len(tokens)
