"""Rules as Lark: a terminal for each regular stretch, rules for the rest."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby

from headrace.text.grammar.rules import Choice, Node, Reference, Repeat, Sequence, Terminal, references


def as_lark(rules: dict[str, Node]) -> str:
    """The rules, of which "root" is where it begins."""
    return _Writer(rules).write()


class _Writer:
    """Rules → Lark: a terminal for each regular stretch, rules for the rest.

    The library takes the longest match of a terminal. So what may be empty, which is mostly white space, is a terminal
    of its own: within another one it would swallow what has to follow.
    """

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        self._numbers = {name: number for number, name in enumerate(rules)}
        self._empty = _empty_rules(rules)
        self._solid: dict[str, bool] = {}
        self._lines: list[str] = []
        self._num_terminals = 0

    def write(self) -> str:
        self._lines.append(f"start: {self._name('root')}")
        for name, rule in self._rules.items():
            is_solid = self._is_solid_rule(name, set())
            self._lines.append(f"{self._name(name)}: {self._solid_text(rule) if is_solid else self._rule_text(rule)}")
        return "\n".join(self._lines) + "\n"

    def _name(self, name: str) -> str:
        return f"{'T' if self._is_solid_rule(name, set()) else 'r'}{self._numbers[name]}"

    def _is_solid_rule(self, name: str, above: set[str]) -> bool:
        if name not in self._solid:
            if name in above:
                return False
            self._solid[name] = self._is_solid(self._rules[name], above | {name})
        return self._solid[name]

    def _is_solid(self, node: Node, above: set[str]) -> bool:
        """Whether it can stand in one terminal."""
        return all(each.name not in self._empty and self._is_solid_rule(each.name, above) for each in references(node))

    def _solid_text(self, node: Node) -> str:
        match node:
            case Terminal(expression):
                return f"/{expression}/" if expression else '""'
            case Reference(name):
                return self._name(name)
            case Sequence(parts):
                return " ".join(_group(part, self._solid_text(part)) for part in parts) or '""'
            case Choice(parts):
                return " | ".join(_group(part, self._solid_text(part)) for part in parts)
            case Repeat(part):
                return _group(part, self._solid_text(part)) + _mark(node)

    def _rule_text(self, node: Node) -> str:
        if self._is_solid(node, set()) and not isinstance(node, Terminal | Reference):
            return self._new_terminal(node)
        match node:
            case Sequence(parts):
                runs = groupby(parts, key=lambda part: self._is_solid(part, set()))
                texts = [
                    text
                    for is_solid, run in runs
                    for text in ([self._run(tuple(run))] if is_solid else [_group(p, self._rule_text(p)) for p in run])
                ]
                return " ".join(texts)
            case Choice(parts):
                return " | ".join(_group(part, self._rule_text(part)) for part in parts)
            case Repeat(part):
                return _group(part, self._rule_text(part)) + _mark(node)
        return self._solid_text(node)

    def _run(self, parts: tuple[Node, ...]) -> str:
        """Solid parts after one another."""
        return (
            self._solid_text(parts[0])
            if len(parts) == 1 and isinstance(parts[0], Terminal | Reference)
            else (self._new_terminal(Sequence(parts)))
        )

    def _new_terminal(self, node: Node) -> str:
        self._num_terminals += 1
        name = f"X{self._num_terminals}"
        self._lines.append(f"{name}: {self._solid_text(node)}")
        return name


def _group(node: Node, text: str) -> str:
    return text if isinstance(node, Terminal | Reference) or text.isalnum() else f"({text})"


def _mark(node: Repeat) -> str:
    mark = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((node.low, node.high))
    return mark or f"{{{node.low},{'' if node.high is None else node.high}}}"


def _empty_rules(rules: dict[str, Node]) -> set[str]:
    """The rules that match the empty text, in time that grows with their size.

    Each place in the rules has a number, and says how many of its parts have to be empty before it is; what is found
    empty tells the place that holds it, once.
    """
    missing: list[int] = []
    holders: list[int | str] = []
    """Of each place the one that it is a part of, or the rule"""
    users: defaultdict[str, list[int]] = defaultdict(list)
    """Of each rule the places that name it"""
    waiting: list[tuple[Node, int | str]] = [(rule, name) for name, rule in rules.items()]
    for node, holder in waiting:
        place = len(missing)
        missing.append(_num_missing(node))
        holders.append(holder)
        if isinstance(node, Reference):
            users[node.name].append(place)
        waiting += [(part, place) for part in _parts(node)]
    empty: set[str] = set()
    found = [place for place, count in enumerate(missing) if not count]
    while found:
        holder = holders[found.pop()]
        if isinstance(holder, str):
            empty.add(holder)
        for place in users[holder] if isinstance(holder, str) else (holder,):
            missing[place] -= 1
            if not missing[place]:
                found.append(place)
    return empty


def _num_missing(node: Node) -> int:
    """How many of its parts have to match the empty text before it does."""
    match node:
        case Terminal(expression):
            return 1 if expression else 0
        case Sequence(parts):
            return len(parts)
        case Repeat(_, low):
            return min(low, 1)
    return 1


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Sequence(parts) | Choice(parts):
            return parts
        case Repeat(part):
            return (part,)
    return ()
