"""A place in a grammar is its tokens: not what was guessed, where a request went on, or what others have done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bytes_tokenizer import END, new_grammars
from llguidance import LLParserLimits

from headrace.structured_output import StructuredOutput
from headrace.text.grammar import compiler
from headrace.text.grammar.compiler import Grammar, Grammars
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text

WORDS = ("1!", "1?", "abc", "aaaa", "zz")


def allowed(constraint: GrammarConstraint, size: int) -> list[int]:
    mask = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    constraint.fill(mask)
    found: list[int] = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    return found


def draw(
    grammar: Grammar,
    seed: int,
    budget: int,
    drafts: Callable[[np.random.Generator], list[int]] = lambda _: [],
    begin: list[int] | None = None,
) -> list[int]:
    """What a model writes that draws by place; with drafts, and from tokens on that were drawn before a restart."""
    size, constraint, taken = grammar.vocabulary.vocab_size, GrammarConstraint(grammar), []
    for token_id in begin or []:
        taken.append(constraint.take(token_id, budget - len(taken)))
    assert taken == (begin or [])
    guesses = np.random.default_rng(seed)
    while len(taken) < budget and END not in taken and not constraint.is_closed:
        all_choices = allowed(constraint, size)
        choices = [
            each for each in all_choices if each < END and chr(each).isalnum()
        ] or all_choices  # so that it goes on and on
        for count, draft in enumerate(drafts(guesses)):
            if not constraint.push(draft):
                constraint.pop(count)
                break
            allowed(constraint, size)
        else:
            constraint.pop(len(constraint._pushed))
        drawn = choices[int(np.random.default_rng((seed, len(taken))).integers(len(choices)))]
        taken.append(constraint.take(drawn, budget - len(taken)))
    return taken


def test_a_guess_leaves_nothing_behind() -> None:
    """Behind "a" and "b" the same number may follow, and something else behind that: 1! is one token."""
    grammars = new_grammars(*WORDS)
    grammar = grammars.compile(grammar_text(StructuredOutput(grammar='start: "a" N "!" | "b" N "?"\nN: /[0-9]+/')))
    size = grammar.vocabulary.vocab_size
    guessed, plain = GrammarConstraint(grammar), GrammarConstraint(grammar)
    allowed(guessed, size)
    assert guessed.push(ord("a"))
    assert END + 1 in allowed(guessed, size)
    guessed.pop(1)
    for constraint in (guessed, plain):
        assert constraint.take(ord("b"), 20) == ord("b")
    assert END + 2 in allowed(plain, size)
    assert allowed(guessed, size) == allowed(plain, size)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Grammars:
    """The library gives up after few states."""
    limits = LLParserLimits(max_lexer_states=400, precompute_large_lexemes=False, verbose_errors=False)
    monkeypatch.setattr(compiler, "_limits", lambda _, *, is_written: limits)
    return new_grammars(*WORDS)


TEXT = grammar_text(StructuredOutput(regex="([a-z]|[0-9]){0,900}!"))


def test_what_others_have_done_ends_nothing(narrow: Grammars) -> None:
    expected = [draw(narrow.compile(TEXT), seed, 60) for seed in range(4)]
    spent = narrow.compile(TEXT)
    draw(spent, 9, 500)
    assert [draw(spent, seed, 60) for seed in range(4)] == expected
    assert narrow.compile(TEXT) is not spent
    assert [draw(narrow.compile(TEXT), seed, 60) for seed in range(4)] == expected


def test_among_others_that_use_the_library_up(narrow: Grammars) -> None:
    """Half-way through when it happens."""
    grammar = narrow.compile(TEXT)
    size = grammar.vocabulary.vocab_size
    [first, *rest] = draw(grammar, 1, 60)
    constraint = GrammarConstraint(grammar)
    allowed(constraint, size)
    assert constraint.take(first, 60) == first
    draw(grammar, 9, 500)
    for at, token_id in enumerate(rest, 1):
        assert token_id in allowed(constraint, size)
        assert constraint.take(token_id, 60 - at) == token_id
    assert constraint.is_complete


@pytest.mark.parametrize("seed", range(3))
def test_where_it_gives_up_depends_on_the_tokens_only(narrow: Grammars, seed: int) -> None:
    whole = draw(narrow.compile(TEXT), seed, 500)
    assert whole[-1] in (ord("!"), END)
    assert len(whole) < 450  # it gave up: the ending was begun long before the budget's end
    for _ in range(3):
        guessed = draw(
            narrow.compile(TEXT), seed, 500, lambda random: random.integers(97, 123, random.integers(9)).tolist()
        )
        assert guessed == whole
    for cut in range(1, len(whole), 7):
        assert draw(narrow.compile(TEXT), seed, 500, begin=whole[:cut]) == whole
