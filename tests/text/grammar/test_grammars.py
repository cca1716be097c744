"""GBNF, EBNF, Lark and structural tags: what they allow, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bytes_tokenizer import accepts, new_grammars
from test_ends_in_time import GRAMMARS, draw

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar.compiler import Grammar
from headrace.text.grammar.specification import grammar_text


def compiled(**asked: Any) -> Grammar:
    return GRAMMARS.compile(grammar_text(StructuredOutput(**asked)))


JSON = r"""
root   ::= object   # as in llama.cpp
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
"""
CALCULATION = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] ws term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
ITEMS = 'root ::= item+\n# no line breaks\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\u0085\\u2028\\u2029]+ "\\n"'


@pytest.mark.parametrize(
    ("grammar", "valid", "invalid"),
    [
        (JSON, ['{"a": [1, 2.5e1, "x\\n"], "b": {}}', '{\n "a":true }', "{}"], ["[1]", '{"a":}', '{"a": 01}']),
        (CALCULATION, ["x=1\n", "(a+b)*3=c\n", "a1 + 2=3\n"], ["x=\n", "1+=2\n", "x=1"]),
        (ITEMS, ["- a\n", "- a\n- é c\n"], ["- a", "-\n", "- a\x0b\n"]),
        ("root ::= 'a' ws 'b' | #x41 /* W3C */ ;\nws ::= ([ \\t\\n] ws)?", ["ab", "a \n b", "A"], ["a", "B"]),
        ('root ::= "x" root | "y"', ["y", "xxy"], ["x", "yy"]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["(()"]),
        ('start: "a" B+\nB: /[0-9]/ | "é"', ["a1", "a1é"], ["a"]),
        ('start: %json {"format": "date", "type": "string"} "!"', ['"2024-02-29"!'], ['"2023-02-29"!']),
        ('start: a\na[suffix="."]: /[a-z]+/', ["ab."], ["ab"]),
    ],
)
def test_what_a_grammar_allows(grammar: str, valid: list[str], invalid: list[str]) -> None:
    found = compiled(grammar=grammar)
    assert [text for text in valid if not accepts(found, text)] == []
    assert [text for text in invalid if accepts(found, text)] == []
    for seed in range(8):
        text, _, is_complete = draw(found, seed, found.num_needed + seed)
        assert is_complete
        assert accepts(found, text)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= "a', "line 1: a literal"),
        ('root = "a" ;', "neither"),
        ('x: "a"', "start"),
        ("root ::= b", "no rule 'b'"),
        ('foo ::= "a"', '"root"'),
        ('root ::= "a" @', "'@' is not supported"),
        ('root ::= "a"\nb ::= ("b"', "line 2: missing )"),
        ('root ::= "a"\nroot ::= "b"', "twice"),
        ('root ::= "\\q"', "\\q is not known"),
        ("root ::= [z-a]", "out of order"),
        ('root ::= "a" root', "no output"),
        ("start: b", "b"),
        ("start: /(?=a)/", ""),
        ('start: "a" start', "no output"),
        ("start: a\na[max_tokens=3]: /x+/", "'max_tokens'"),
        ('start: "a" <[256]> "b"', "token ids"),
        ('start: %json {"not": {"pattern": "a"}}', "$.not"),
        ('start: %json {"typ": "string"} "!"', "$.typ"),
        ("start: %json {", "%json"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said(grammar: str, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        compiled(grammar=grammar)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TAG = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<get_weather>", "schema": WEATHER, "end": "</get_weather>"},
        {"begin": "<get_time>", "schema": {"type": "integer"}, "end": "</get_time>"},
        {"begin": "[[", "schema": True, "end": "]]"},
    ],
    "triggers": ["<get_", "[["],
}


def test_tags_in_free_text() -> None:
    found = compiled(structural_tag=TAG)
    for text in (
        "",
        "just text",
        'so <get_weather>{"city": "Bern"}</get_weather> and <get_time>3</get_time>!',
        "[[1]] <",
    ):
        assert accepts(found, text), text
    for text in ("<get_x", "<get_time>x", "<get_time>3", "a [[1", '<get_weather>{"city": 3}</get_weather>'):
        assert not accepts(found, text), text
    for seed in range(8):
        text, _, is_complete = draw(found, seed, 40)
        assert is_complete
        assert accepts(found, text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"triggers": []}, "triggers"),
        ({"triggers": ["<x"]}, "structures[0].begin"),
        ({"triggers": [*TAG["triggers"], "{"]}, "begins no structure"),
        ({"structures": [{"begin": "<get_"}]}, "structures[0]"),
        ({"structures": [{"begin": "[[", "schema": {"not": {"pattern": "a"}}, "end": ""}], "triggers": ["["]}, "$.not"),
        ({"format": {}}, "format"),
    ],
)
def test_what_is_wrong_with_a_tag_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        compiled(structural_tag=json.dumps({**TAG, **changes}))
    assert words in str(refused.value)


def test_special_tokens_by_name() -> None:
    found = new_grammars("<|call|>").compile(grammar_text(StructuredOutput(grammar='start: "a" <|call|> "b"')))
    assert found.ending == (ord("a"), 257, ord("b"))
    assert not accepts(found, "a<|call|>b")
