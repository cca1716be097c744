"""Rules as Lark: which of them match the empty text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.grammar.rules import Choice, Node, Reference, Repeat, Sequence, Terminal
from headrace.text.grammar.rules_as_lark import _empty_rules, as_lark

NAMES = ("root", "a", "b", "c")


def is_empty(node: Node, empty: set[str]) -> bool:
    """The definition."""
    match node:
        case Terminal(expression):
            return not expression
        case Reference(name):
            return name in empty
        case Sequence(parts):
            return all(is_empty(part, empty) for part in parts)
        case Choice(parts):
            return any(is_empty(part, empty) for part in parts)
        case Repeat(part, low):
            return low == 0 or is_empty(part, empty)


nodes = st.recursive(
    st.sampled_from([Terminal("x"), Terminal("x"), Terminal("")])
    | st.sampled_from(NAMES).map(lambda n: Reference(n, 1)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: Sequence(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Choice(tuple(parts))),
        st.builds(Repeat, inner, st.integers(0, 2), st.none() | st.integers(2, 3)),
    ),
    max_leaves=8,
)


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, nodes)))
def test_what_matches_the_empty_text(rules: dict[str, Node]) -> None:
    empty: set[str] = set()
    while more := {name for name, rule in rules.items() if name not in empty and is_empty(rule, empty)}:
        empty |= more
    assert _empty_rules(rules) == empty


@pytest.mark.parametrize("forwards", [True, False])
def test_a_long_chain_of_rules(forwards: bool) -> None:
    """Looking through all rules again for each that is found empty took minutes."""
    number = 5_000
    others = tuple(Reference(f"r{at}", 1) for at in range(number - 8, number))
    last = Sequence(())
    rules: dict[str, Node] = {"root": Reference("r0", 1)}
    for at in range(number - 1):
        rules[f"r{at}"] = Choice((*(Sequence((other, Terminal("x"))) for other in others), Reference(f"r{at + 1}", 1)))
    rules[f"r{number - 1}"] = last
    if not forwards:
        rules = dict(reversed(rules.items()))
    assert _empty_rules(rules) == set(rules)
    assert as_lark(rules).count("\n") > number
