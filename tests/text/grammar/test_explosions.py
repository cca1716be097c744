"""What is built to explode is refused at once, or is harmless; and it never takes the process down."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from bytes_tokenizer import END, new_grammars

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar import compiler
from headrace.text.grammar.compiler import Grammar, Grammars
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text, regex_grammar


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def chain(length: int) -> dict[str, Any]:
    links = {f"d{at}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{at + 1}"}}} for at in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{length}": {"type": "null"}}}


def doubling(keyword: str) -> dict[str, Any]:
    links = {f"d{at}": {keyword: [{"$ref": f"#/$defs/d{at + 1}"}, {"$ref": f"#/$defs/d{at + 1}"}]} for at in range(30)}
    return {"$ref": "#/$defs/d0", "$defs": links | {"d30": {"type": "object", "properties": {"a": {}}}}}


PRODUCT = {
    "allOf": [
        {"anyOf": [{"properties": {f"p{i}{j}": {"type": "integer"}}, "required": [f"p{i}{j}"]} for j in range(6)]}
        for i in range(8)
    ]
}
RULES = "\n".join(f'r{at}: "{at}" r{at + 1} | "x"' for at in range(900)) + '\nr900: "x"'
REFUSED = [
    {"regex": "((a{1,100}){1,100}){1,100}"},
    {"regex": "(a{1,1000}){1,1000}"},
    {"regex": "(" * 5000 + "a" + ")" * 5000},
    {"regex": "(" * 100 + "a" + ")" * 100},
    {"regex": "a" * 20_000},
    {"json": {"type": "string", "pattern": "(x{500}){500}"}},
    {"json": nested(400)},
    {"json": PRODUCT},
    {"json": {"type": "array", "items": {"type": "integer"}, "minItems": 100_000}},
    {"json": {"type": "array", "minItems": 100, "items": {"type": "array", "minItems": 100, "items": nested(50)}}},
    {"json": {"type": "string", "minLength": 10**9}},
    {"json": {"type": "integer", "multipleOf": 999_983}},
    {"json": {"type": "object", "properties": {f"name{at}": {} for at in range(20_000)}}},
    {"json": {"type": "object", "properties": nested(1), "required": ["b" * 10**7]}},
    {"choice": [f"number {at}" for at in range(100_000)]},
    {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000},
    {"grammar": 'start: "a" start'},
    {"grammar": "start: r0\n" + RULES.replace("r", "r" * 50)},
    {"grammar": "start: " + '"a" ' * 20_000},
]
HARMLESS = [
    {"regex": "(a+)+$"},
    {"regex": "(a|b)*a(a|b){30}"},
    {"json": nested(60)},
    {"json": chain(3000)},
    {"json": doubling("allOf")},
    {"json": doubling("anyOf")},
    {"json": {"enum": [f"number {at}" for at in range(5_000)]}},
    {"json": {"type": "object", "properties": {f"name{at}": {"type": "string"} for at in range(500)}}},
    {"json": {"type": "string", "maxLength": 100_000}},
    {"grammar": "start: s\ns: s s s | s s | "},
    {"grammar": 'start: a{1,1000}\na: b{1,1000}\nb: "x"{1,1000}'},
    {"grammar": "start: r0\n" + RULES},
]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    grammars = new_grammars()
    grammars.compile(regex_grammar("a"))
    return grammars


def seconds_to_compile(grammars: Grammars, asked: dict[str, Any]) -> tuple[float, str]:
    """Of the processor, and the error."""
    started = time.process_time()
    try:
        grammars.compile(grammar_text(StructuredOutput(**asked)))
    except RequestError as error:
        return time.process_time() - started, str(error)
    return time.process_time() - started, ""


@pytest.mark.parametrize("asked", REFUSED, ids=lambda asked: str(asked)[:40])
def test_what_explodes_is_refused(grammars: Grammars, asked: dict[str, Any]) -> None:
    seconds, error = seconds_to_compile(grammars, asked)
    assert error
    assert len(error) < 1000
    assert seconds < 3, "a second on an idle machine; the bound that matters is that it is not minutes"


@pytest.mark.parametrize("asked", HARMLESS, ids=lambda asked: str(asked)[:40])
def test_what_only_looks_so_is_not(grammars: Grammars, asked: dict[str, Any]) -> None:
    seconds, error = seconds_to_compile(grammars, asked)
    assert not error
    assert seconds < 3


@pytest.mark.parametrize(
    ("text", "period"),
    [('start: start start | "a"', b"a"), ('start: start "+" start | "a"', b"a+"), ('root ::= root root | "a"', b"a")],
)
def test_what_is_read_in_ever_more_ways_is_ended_before_it_takes_long(
    grammars: Grammars, text: str, period: bytes
) -> None:
    constraint = GrammarConstraint(grammars.compile(grammar_text(StructuredOutput(grammar=text))))
    written, mask, budget = bytearray(), np.empty(9, np.uint32), 1500
    while len(written) < budget:
        constraint.fill(mask)
        taken = constraint.take(period[len(written) % len(period)], budget - len(written))
        if taken == END:
            break
        written.append(taken)
    assert constraint.is_complete
    assert 150 < len(written) < 500
    assert bytes(written) == (period * budget)[: len(written)]
    assert bytes(written).endswith(b"a")


def test_where_it_is_ended_it_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for one place is no full cache, and compiling takes all that was written so far."""
    compiled: list[str] = []
    compile_ = Grammars._compile

    def counting(grammars: Grammars, text: str) -> Grammar:
        compiled.append(text)
        return compile_(grammars, text)

    monkeypatch.setattr(Grammars, "_compile", counting)
    text = grammar_text(StructuredOutput(grammar='start: start start | "a"'))
    constraint, mask = GrammarConstraint(new_grammars().compile(text)), np.empty(9, np.uint32)
    while constraint.take(ord("a"), 1000) == ord("a"):
        constraint.fill(mask)
    assert len(compiled) == 1


@pytest.mark.parametrize("repeated", ["", "+"])
def test_hundreds_of_alternatives_are_no_explosion(grammars: Grammars, repeated: str) -> None:
    words = [f"word {number};" for number in range(500)]
    alternatives = " | ".join(f'"{word}"' for word in words)
    grammar = grammars.compile(grammar_text(StructuredOutput(grammar=f"start: ({alternatives}){repeated}")))
    constraint, mask = GrammarConstraint(grammar), np.zeros(9, np.uint32)
    text = "".join(words[: 20 if repeated else 1]).encode()
    for at, byte in enumerate(text):
        constraint.fill(mask)
        assert constraint.take(byte, 1000 - at) == byte
    assert constraint.is_complete


def test_what_took_long_to_compile_is_not_kept_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what takes memory."""
    grammars, texts = new_grammars(), [regex_grammar(f"[a-z]{{{number}}}") for number in range(1, 6)]
    first = [grammars.compile(text) for text in texts]
    assert [grammars.compile(text) for text in texts] == first
    monkeypatch.setattr(compiler, "_MOST_SECONDS", 0.0)
    last = grammars.compile(regex_grammar("[a-z]{9}"))
    assert list(grammars._kept.values()) == [last]
    assert grammars.compile(texts[0]) is not first[0]
    assert grammars.compile(texts[0]) is grammars.compile(texts[0])


@pytest.mark.parametrize("text", ['root ::= "a"' + "*" * 5000, 'start: "a"' + "*" * 5000, 'root ::= "a"' + "?+" * 2500])
def test_what_stands_within_itself_thousands_of_times_is_refused(grammars: Grammars, text: str) -> None:
    with pytest.raises(RequestError, match="structured output: "):
        grammars.compile(grammar_text(StructuredOutput(grammar=text)))
