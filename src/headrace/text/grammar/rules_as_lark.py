"""Rules as Lark: a terminal for each regular stretch, rules for the rest."""

from __future__ import annotations

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
        self._empty = self._may_be_empty()
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

    def _may_be_empty(self) -> set[str]:
        found: set[str] = set()
        while more := {name for name, rule in self._rules.items() if name not in found and _is_empty(rule, found)}:
            found |= more
        return found

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


def _is_empty(node: Node, rules: set[str]) -> bool:
    """Whether it matches the empty text, given the rules that do."""
    match node:
        case Terminal(expression):
            return not expression
        case Reference(name):
            return name in rules
        case Sequence(parts):
            return all(_is_empty(part, rules) for part in parts)
        case Choice(parts):
            return any(_is_empty(part, rules) for part in parts)
        case Repeat(part, low):
            return low == 0 or _is_empty(part, rules)
