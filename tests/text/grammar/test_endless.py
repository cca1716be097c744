"""Rules that never end are found, and no others."""

from __future__ import annotations

import contextlib
import time

import pytest

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar.endless import endless_rules
from headrace.text.grammar.specification import grammar_text

ENDLESS = {
    "start: /(a|a)*/ start": ["start"],
    'start: "a" start': ["start"],
    "start: /a*/ b\nb: start": ["start", "b"],
    'start: "x" | "a" bad\nbad: /a*/ bad': ["bad"],
    "start: x+\nx: (x)": ["start", "x"],
    "start: x{3,}\nx: x": ["start", "x"],
    "start: x~1..3 | x{2} | x ~ 10\nx: x": ["start", "x"],
    "start: (x | x x) \nx[capture]: x": ["start", "x"],
    'start: "|" start // | "b"': ["start"],
    "start: /[|]/ start": ["start"],
    "?start: x\n!x.2: x": ["start", "x"],
    "start: x?\nx: x": ["x"],
    'start: [x] (y)* "b"\nx: x\ny: y': ["x", "y"],
}
ENDING = [
    'start: /a*/ start | "b"',
    'start: "a"\n  | start "b"',
    "start: (x | y)* z\nx: z\ny: x\nz: /b/",
    'start: [x] "b"\nx: "a"',
    "start: NAME\nNAME: /a+/",
    "start: @grammar_0 <|im_end|>",
    'start: %json {"type": "object", "properties": {"start": {"type": "string"}}}',
    'start: "(" start ")" | "\\"" | /[)|(]/',
    "start: unknown",
    'start: x?y\nx: "a"\ny: x',
    "%ignore /x/\nstart: a\na: /a/",
    'start: item ("," item)*\nitem: /[0-9]+/ ~ 1..3',
    'start: start~0..2 "a"',
    'start: start{0,3} "a" | (start "b"){,2} "a" | start ~ 0 "c"',
]


@pytest.mark.parametrize("grammar", ENDLESS)
def test_what_never_ends_is_refused_by_name(grammar: str) -> None:
    assert endless_rules(grammar) == ENDLESS[grammar]
    with pytest.raises(RequestError, match=f"rule {ENDLESS[grammar][0]}: it always holds itself"):
        grammar_text(StructuredOutput(grammar=grammar))


@pytest.mark.parametrize("grammar", ENDING)
def test_what_may_end_is_not(grammar: str) -> None:
    assert endless_rules(grammar) == []


def test_gbnf_too() -> None:
    with pytest.raises(RequestError, match="always holds itself"):
        grammar_text(StructuredOutput(grammar="root ::= [a]* root"))


def test_a_large_grammar_takes_no_time() -> None:
    names = [f"a{number}" for number in range(1000)]
    chain = "".join(f"{name}: {after}\n" for name, after in zip(names, [*names[1:], '"x"'], strict=True))
    begin = time.thread_time()
    assert (
        endless_rules("start: " + "(" * 400 + " ".join(reversed(names)) + ' "y"' * 5000 + ")" * 400 + "\n" + chain)
        == []
    )
    assert time.thread_time() - begin < 5  # 0.05 s, and hours where each name looks through all of it again


@pytest.mark.parametrize("part", ["/[", '"\\', "[a", "<", "{", "'\\", '[\\]["', '/"', '[suffix="', "~ ", "#x61["])
@pytest.mark.parametrize("start", ["start: ", "root ::= ", 'start: "', "start: /a/ [", 'start: "a'])
def test_what_never_closes_is_not_looked_for_again_and_again(start: str, part: str) -> None:
    begin = time.thread_time()
    with contextlib.suppress(RequestError):
        grammar_text(StructuredOutput(grammar=start + part * (49_000 // len(part))))
    assert time.thread_time() - begin < 5  # half a minute
