"""The grammar begins behind the thought, and the thought ends in time."""

from __future__ import annotations

import numpy as np
import pytest
from bytes_tokenizer import END, accepts, new_grammars

from headrace.structured_output import StructuredOutput
from headrace.text.after import AfterThought, ThoughtMarks
from headrace.text.grammar.compiler import Grammar
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text

THINK, CLOSE, SPLIT = 257, 258, (259, 260)
GRAMMAR = new_grammars("<think>", "</think>", "</thi", "nk>\n", "nk>{").compile(
    grammar_text(StructuredOutput(json={"type": "object", "required": ["a"]}))
)


def marks(grammar: Grammar, *, opens: bool) -> ThoughtMarks:
    return ThoughtMarks(
        close=b"</think>",
        open_ids=(THINK, ord("\n")) if opens else (),
        behind_ids=(ord("\n"),),
        closing_ids=(CLOSE, ord("\n")),
        written=grammar.vocabulary.bytes.__getitem__,
        end_ids=grammar.vocabulary.eos_token_ids,
    )


def constraint(*, is_open: bool, opens: bool = True, most: int | None = None) -> AfterThought:
    return AfterThought(
        GrammarConstraint(GRAMMAR),
        marks(GRAMMAR, opens=opens),
        is_open=is_open,
        num_needed=GRAMMAR.num_needed,
        most=most,
    )


def write(after: AfterThought, budget: int, wanted: list[int], seed: int = 0) -> bytes:
    """What comes of a model that wants certain tokens first and knows nothing then."""
    random = np.random.default_rng(seed)
    taken: list[int] = []
    while len(taken) < budget and not after.is_closed and taken[-1:] != [END]:
        forced = after.forced(4)
        pushed = [token_id for token_id in [*forced, 65] if after.push(token_id)]
        assert pushed[: len(forced)] == forced
        after.pop(len(pushed))
        mask = np.full(9, 0xFFFFFFFF, np.uint32)
        after.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[: GRAMMAR.vocabulary.vocab_size])
        if forced:
            assert allowed.tolist() == forced[:1]
        token_id = int(random.choice(allowed))
        if wanted and wanted[0] in allowed:
            token_id = wanted.pop(0)
        taken.append(after.take(token_id, budget - len(taken)))
    assert after.is_complete
    return b"".join(GRAMMAR.vocabulary.bytes[each] for each in taken)


@pytest.mark.parametrize("close", [[CLOSE], [*SPLIT], list(b"</think>")])
@pytest.mark.parametrize("opens", [False, True])
def test_the_grammar_begins_behind_the_mark(close: list[int], opens: bool) -> None:
    wanted = [*([THINK] if opens else []), *b"well {", *close, *b'{"a": 1}']
    if opens:
        wanted.insert(1, ord("\n"))
    after = constraint(is_open=not opens)
    text = write(after, 60, [*wanted])
    thought, mark, answer = text.partition(b"</think>\n")
    assert mark
    assert thought.endswith(b"well {")
    assert accepts(GRAMMAR, answer)


@pytest.mark.parametrize("seed", range(20))
def test_a_thought_without_end_is_ended(seed: int) -> None:
    budget = GRAMMAR.num_needed + 2 + seed
    text = write(constraint(is_open=True), budget, [], seed)
    assert accepts(GRAMMAR, text.partition(b"</think>")[2].strip(b"\n"))
    assert text.count(b"</think>") == 1


def test_a_thought_has_its_own_budget() -> None:
    text = write(constraint(is_open=True, most=5), 60, list(b"aaaaaaaaaaaaaaaaaaaaaa"))
    assert text.startswith(b"aaaaa</think>\n{")
    assert write(constraint(is_open=True, most=0), 60, []).startswith(b"</think>\n{")


def test_an_answer_without_thought() -> None:
    for opens in (False, True):
        text = write(constraint(is_open=False, opens=opens), 30, list(b'{"a": 2}'))
        assert accepts(GRAMMAR, text)


def test_no_thought_is_begun_where_there_is_no_room_for_it() -> None:
    text = write(constraint(is_open=False), GRAMMAR.num_needed + 3, [THINK])
    assert accepts(GRAMMAR, text)
    assert write(constraint(is_open=False), GRAMMAR.num_needed + 4, [THINK]).startswith(b"<think>\n</think>\n")


def test_what_closes_the_thought_and_begins_the_answer_at_once_does_not_stand() -> None:
    text = write(constraint(is_open=True), 60, [259, 261])
    assert text.startswith(b"</thi</think>\n{")


def test_the_end_of_the_output_does_not_stand_inside_a_thought() -> None:
    after = constraint(is_open=True)
    assert not after.push(END)
    assert after.take(END, 60) == CLOSE
