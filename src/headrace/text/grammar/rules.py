"""Rules of a grammar as trees, whatever syntax they were written in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Terminal:
    """An expression in the library's syntax; `text` is what it says literally, if it does."""

    expression: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """Another rule."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; empty is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Several times."""

    part: Node
    low: int
    high: int | None


Node: TypeAlias = Terminal | Reference | Sequence | Choice | Repeat


def unrolled(name: str, rule: Node) -> Node:
    """`r ::= a r | b` as `a* b`, where r comes back to itself at its end only."""
    choices = [choice for each in _choices(rule) for choice in _choices(each)]
    again: list[Node] = []
    last: list[Node] = []
    for choice in choices:
        parts = choice.parts if isinstance(choice, Sequence) else (choice,)
        comes_back = parts and isinstance(parts[-1], Reference) and parts[-1].name == name
        rest = Sequence(tuple(parts[:-1])) if comes_back else choice
        if any(reference.name == name for reference in references(rest)):
            return rule
        (again if comes_back else last).append(rest)
    if not again or not last:
        return rule
    return Sequence((Repeat(Choice(tuple(again)), 0, None), Choice(tuple(last))))


def _choices(node: Node) -> Iterator[Node]:
    if isinstance(node, Choice):
        yield from node.parts
    elif isinstance(node, Repeat) and (node.low, node.high) == (0, 1):
        yield node.part
        yield Sequence(())
    else:
        yield node


def references(node: Node) -> Iterator[Reference]:
    """The rules that it names."""
    if isinstance(node, Reference):
        yield node
    elif isinstance(node, Repeat):
        yield from references(node.part)
    elif isinstance(node, Sequence | Choice):
        for part in node.parts:
            yield from references(part)


def literals(node: Node) -> Iterator[str]:
    """The texts that it says literally."""
    if isinstance(node, Terminal):
        if node.text:
            yield node.text
    elif isinstance(node, Repeat):
        yield from literals(node.part)
    elif isinstance(node, Sequence | Choice):
        for part in node.parts:
            yield from literals(part)
