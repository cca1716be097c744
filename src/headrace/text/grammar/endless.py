"""Rules of a Lark grammar that never come to an end: whatever they derive holds such a rule again.

The library runs for ever where one of them has patterns that match nothing (`start: /a*/ start`). Only names and the
signs between them are read here; quoted texts, patterns, schemas and whatever else stands for a text as it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeAlias

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|(?://|\#)[^\n]*|\n[ \t]*(?=\|))"""
    r"""|(?P<json>%json\b\s*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"i?|/(?:[^/\\]|\\.)+/[a-z]*|<[^<>\n]*>|@\w+)"""
    r"""|(?P<many>~[ \t]*\d+(?:[ \t]*\.\.[ \t]*\d+)?|\{[^{}\n]*\})"""
    r"""|(?P<attributes>\[(?:[^\[\]"\n]|"(?:[^"\\\n]|\\.)*")*\](?=[ \t]*:))"""
    r"""|(?P<name>[A-Za-z_][\w-]*)"""
    r"""|(?P<line>\n)"""
    r"""|(?P<sign>.)""",
    re.DOTALL,
)
_NONE_IS_ENOUGH = re.compile(r"[?*]|[~{][ \t]*0*[ \t]*(?:\.\.|,|\}|\Z)")

_Tokens: TypeAlias = list[tuple[str, str]]


def endless_rules(lark: str) -> list[str]:
    """The names of rules that no text satisfies, in their order.

    A rule is said to be endless only if all of its alternatives hold an endless one that cannot be left out.
    """
    rules = dict(_rules(_tokens(lark)))
    ready: list[str] = []
    waiting: dict[str, list[tuple[str, set[str]]]] = defaultdict(list)
    for name, body in rules.items():
        for owner, needed in _alternatives(name, body, rules):
            if not needed:
                ready.append(owner)
            for each in needed:
                waiting[each].append((owner, needed))
    ending: set[str] = set()
    while ready:
        found = ready.pop()
        ending.add(found)
        for owner, needed in waiting.pop(found, ()):
            needed.remove(found)
            if not needed:
                ready.append(owner)
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
        if found[0] in ('"', "/"):
            return []  # it never closes: to look for the end of each of many takes minutes, and the library takes none
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
    for start, end in pairwise([*starts, len(tokens)]):
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


def _alternatives(name: str, body: _Tokens, rules: Mapping[str, _Tokens]) -> Iterator[tuple[str, set[str]]]:
    """Of each alternative of a rule, and of each group in it: whose it is, and what has to end so that it does.

    Groups have names that no rule has.
    """
    open_groups: list[tuple[str, set[str]]] = [(name, set())]
    for at, (kind, text) in enumerate(body):
        owner, needed = open_groups[-1]
        if kind == "sign" and text in "([":
            open_groups.append((f"{name} {at}{text}", set()))
        elif kind == "sign" and text in ")]" and len(open_groups) > 1:
            yield open_groups.pop()
            if not owner.endswith("[") and not _may_be_left_out(body, at):  # [x] is x or nothing
                open_groups[-1][1].add(owner)
        elif kind == "sign" and text == "|":
            yield owner, needed
            open_groups[-1] = (owner, set())
        elif kind == "name" and text in rules and not _may_be_left_out(body, at):
            needed.add(text)
    yield from open_groups


def _may_be_left_out(body: _Tokens, at: int) -> bool:
    """Whether what stands or ends at this place may come no times at all."""
    return at + 1 < len(body) and _NONE_IS_ENOUGH.match(body[at + 1][1]) is not None
