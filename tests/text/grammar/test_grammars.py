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
        ("root ::= #xFFFFFF", "#xFFFFFF is no character"),
        ('root ::= "\\uD800"', "half a character"),
        ("\n".join(["root ::= r0", *(f"r{at} ::= r{at + 1}" for at in range(900)), 'r900 ::= "a"']), "too deep"),
        ('root ::= "a" root', "no text satisfies the rule"),
        ("start: b", "b"),
        ("start: /(?=a)/", ""),
        ('start: "a" start', "no text satisfies the rule start"),
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
        ({"format": {}}, "format, and nothing beside"),
    ],
)
def test_what_is_wrong_with_a_tag_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        compiled(structural_tag=json.dumps({**TAG, **changes}))
    assert words in str(refused.value)


def tag(begin: str, content: Any, end: Any) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


NUMBER = {"type": "json_schema", "json_schema": {"type": "integer"}}
ANY = {"type": "any_text"}
CALLS = {
    "type": "triggered_tags",
    "triggers": ["<f="],
    "tags": [tag("<f=1>", NUMBER, "</f>"), tag("<f=2>", ANY, "</f>")],
}
PERSON = {
    "type": "object",
    "properties": {"n": {"type": "string"}, "k": {"type": "integer"}, "e": {"type": "string", "enum": ["u", "v"]}},
    "required": ["n", "e"],
}


@pytest.mark.parametrize(
    ("format_", "valid", "invalid"),
    [
        ({"type": "const_string", "value": "hi"}, ["hi"], ["", "h"]),
        (tag("<a>", NUMBER, "</a>"), ["<a>3</a>"], ["<a>x</a>"]),
        (tag("<a>", ANY, ["</a>", "</b>"]), ["<a>x<b</a>", "<a></b>"], ["<a>x", "<a></a>y"]),
        (
            {"type": "sequence", "elements": [tag("<think>", ANY, "</think>"), CALLS]},
            ["<think>hm</think>", "<think></think>so<f=1>3</f> and <f=2>x</f>"],
            ["x", "<think></think><f=3>", "<think></think><f=1>x</f>"],
        ),
        ({"type": "sequence", "elements": [ANY, tag("<x>", NUMBER, "</x>"), ANY]}, ["a<x>3</x>b"], ["a", "a<x>a</x>"]),
        ({"type": "sequence", "elements": [ANY, {"type": "const_string", "value": "."}, NUMBER]}, ["a.3"], ["a.", "3"]),
        ({"type": "or", "elements": [NUMBER, tag("(", ANY, ")")]}, ["3", "(x)"], ["x"]),
        ({**CALLS, "at_least_one": True}, ["<f=1>3</f>", "a<f=1>3</f>b<f=2></f>"], ["", "a"]),
        ({**CALLS, "stop_after_first": True}, ["<f=1>3</f>", "a", ""], ["<f=1>3</f>x", "<f=1>3</f><f=1>3</f>"]),
        ({**CALLS, "excludes": ["bad"]}, ["<f=1>3</f>", "ba"], ["bad", "xbad<f=1>3</f>"]),
        (tag("[", CALLS, "]"), ["[a<f=1>3</f>b]", "[]"], ["[", "[<f=2]"]),
        (
            {"type": "tags_with_separator", "tags": [tag("<a>", NUMBER, "</a>"), tag("<b>", ANY, "</b>")]}
            | {"separator": ","},
            ["", "<a>1</a>,<b>x,</b>"],
            ["<a>1</a>,", "<a>1</a><a>1</a>"],
        ),
        ({"type": "regex", "pattern": "a+b"}, ["aab"], ["b"]),
        (tag("", {"type": "grammar", "grammar": 'root ::= "a" root | "b"'}, "!"), ["aab!"], ["aab", "a!"]),
        ({"type": "repeat", "min": 2, "max": -1, "content": tag("(", NUMBER, ")")}, ["(1)(2)(3)"], ["(1)"]),
        ({"type": "plus", "content": tag("(", NUMBER, ")")}, ["(1)(2)"], [""]),
        ({"type": "star", "content": tag("(", NUMBER, ")")}, ["(1)(2)", ""], ["("]),
        ({"type": "optional", "content": NUMBER}, ["1", ""], ["x"]),
        ({"type": "dispatch", "rules": [["#", NUMBER]]}, ["a #3 b #4", ""], ["#x"]),
        ({"type": "dispatch", "rules": [["#", NUMBER]], "loop": False}, ["a #3", "x"], ["#3 x"]),
        ({"type": "any_text", "max_chars": 3, "excludes": ["x"]}, ["abc", ""], ["abcd", "ax"]),
        (
            {"type": "qwen_xml_parameter", "json_schema": PERSON},
            ["<parameter=n>B <b></parameter><parameter=k>3</parameter><parameter=e>u</parameter>"],
            ["<parameter=k>3</parameter>", "<parameter=n>x</parameter><parameter=e>w</parameter>"],
        ),
    ],
)
def test_tags_as_a_format(format_: Any, valid: list[str], invalid: list[str]) -> None:
    found = compiled(structural_tag={"type": "structural_tag", "format": format_})
    assert [text for text in valid if not accepts(found, text)] == []
    assert [text for text in invalid if accepts(found, text)] == []
    for seed in range(4):
        text, _, is_complete = draw(found, seed, found.num_needed + 10)
        assert is_complete
        assert accepts(found, text)


def test_a_tag_between_special_tokens() -> None:
    mark = {"type": "token", "token": "<|call|>"}
    asked = StructuredOutput(structural_tag={"format": {"type": "tag", "begin": mark, "content": NUMBER, "end": mark}})
    assert new_grammars("<|call|>").compile(grammar_text(asked)).ending == (257, ord("0"), 257)


@pytest.mark.parametrize(
    ("format_", "words"),
    [
        (3, "format: expected an object"),
        ({"type": "any_tokens"}, "format.type: 'any_tokens' is not supported"),
        ({**NUMBER, "any_order": True}, "format.any_order"),
        ({**NUMBER, "style": "glm_xml"}, "format.style"),
        ({**ANY, "max_tokens": 3}, "format.max_tokens"),
        ({"type": "sequence"}, "elements is missing"),
        ({"type": "const_string", "value": None}, "value is missing"),
        ({"type": "or", "elements": []}, "format.elements"),
        (tag(3, ANY, ""), "format.begin"),  # type: ignore[arg-type]
        (tag("<a>", ANY, ""), "format.content: free text"),
        ({"type": "star", "content": ANY}, "format.content: free text"),
        ({"type": "sequence", "elements": [ANY, NUMBER]}, "format.elements[0]: free text"),
        ({**CALLS, "triggers": ["<g"]}, "format.tags[0].begin"),
        ({**CALLS, "at_least_one": 1}, "format.at_least_one"),
        ({"type": "repeat", "min": 3, "max": 2, "content": NUMBER}, "no range"),
        ({"type": "token", "token": 3}, "format.token"),
        ({"type": "json_schema", "json_schema": {"typ": 1}}, "$.typ"),
        ({"type": "regex", "pattern": "(?=a)"}, "look-ahead"),
        ({"type": "grammar", "grammar": "x"}, "grammar"),
        ({"type": "qwen_xml_parameter", "json_schema": {"type": "object"}}, "format.json_schema"),
        ({"type": "qwen_xml_parameter", "json_schema": {**PERSON, "minProperties": 1}}, "format.json_schema"),
        ({"type": "qwen_xml_parameter", "json_schema": {**PERSON, "required": 5}}, "format.json_schema.required"),
        ({"type": "qwen_xml_parameter", "json_schema": {**PERSON, "required": [[1]]}}, "format.json_schema.required"),
        ({"type": "sequence", "elements": [{"type": "any_text"}, {"type": []}]}, "format.elements[1].type"),
    ],
)
def test_what_is_wrong_with_a_format_is_said(format_: Any, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        compiled(structural_tag={"format": format_})
    assert words in str(refused.value)


def test_special_tokens_by_name() -> None:
    found = new_grammars("<|call|>").compile(grammar_text(StructuredOutput(grammar='start: "a" <|call|> "b"')))
    assert found.ending == (ord("a"), 257, ord("b"))
    assert not accepts(found, "a<|call|>b")
