"""Parameters that give the output a form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from features.asking import Asking
from features.catalogue import Parameter, works

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "legs": {"type": "integer", "maximum": 99}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
HOT = {"temperature": 1.5, "max_tokens": 60, "n": 3}


def _format(ask: Asking) -> None:
    for text in ask.texts(response_format={"type": "json_object"}, **HOT):
        assert isinstance(json.loads(text), dict)
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
    _are_animals(ask.texts(response_format=form, **HOT))
    assert ask.text(response_format={"type": "text"}) == ask.text()
    form["json_schema"] = {"name": "odd", "schema": {"type": "object", "unheardOf": 1, "minProperties": "x"}}
    ask.refusal("response_format", response_format=form)


def _are_animals(texts: Sequence[str]) -> None:
    for text in texts:
        animal = json.loads(text)
        assert list(animal) == ["name", "legs"]
        assert isinstance(animal["legs"], int)


def _structured(**asked: object) -> Callable[[Asking], list[str]]:
    return lambda ask: ask.texts(structured_outputs=asked, **HOT)


def _json(ask: Asking) -> None:
    _are_animals(_structured(json=SCHEMA)(ask))
    _are_animals(_structured(json=json.dumps(SCHEMA))(ask))


def _json_object(ask: Asking) -> None:
    assert all(isinstance(json.loads(text), dict) for text in _structured(json_object=True)(ask))


def _matching(pattern: str, **asked: object) -> Callable[[Asking], None]:
    def prove(ask: Asking) -> None:
        for text in _structured(**asked)(ask):
            assert re.fullmatch(pattern, text), text

    return prove


def _older(pattern: str, **asked: object) -> Callable[[Asking], None]:
    def prove(ask: Asking) -> None:
        for text in ask.texts(**asked, **HOT):
            assert re.fullmatch(pattern, text), text

    return prove


def _tag(ask: Asking) -> None:
    assert " Lily" in ask.text()  # what the model writes anyway opens the tag
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": " Lily", "schema": SCHEMA, "end": "!"}],
        "triggers": [" Lily"],
    }
    for form in ({"structured_outputs": {"structural_tag": json.dumps(tag)}}, {"response_format": tag}):
        inside = re.findall(" Lily(.*?)!", ask.text(max_tokens=80, **form))
        assert inside
        _are_animals(inside)


_ONE_PROPERTY = {"type": "object", "properties": {"a": {"const": 1}}}


def _llama_schema(ask: Asking) -> None:
    _are_animals(ask.texts(json_schema=SCHEMA, **HOT))
    ask.refusal("response_format", json_schema=SCHEMA, response_format={"type": "json_object"})


PARAMETERS: Sequence[Parameter] = (
    works("json_schema", _llama_schema, "as structured_outputs.json", source="llama.cpp"),
    works(
        "grammar",
        _older("a(b|c)", grammar='root ::= "a" ("b" | "c")'),
        "GBNF, or what structured_outputs.grammar takes",
        source="llama.cpp",
    ),
    works(
        "response_format",
        _format,
        "json_object, json_schema (whether strict or not) and text; its name and description say nothing to the model",
        takes=(
            *("[text]", "[json_object]", "[json_schema]"),
            *(f"[json_schema].json_schema{rest}" for rest in ("", ".name", ".schema", ".description")),
            *(f"[json_schema].json_schema.strict={value}" for value in ("true", "false")),
        ),
    ),
    works("structured_outputs", _json, "exactly one of the forms below", source="vLLM"),
    works("structured_outputs.json", _json, "a JSON Schema, or its text: every output satisfies it", source="vLLM"),
    works(
        "structured_outputs.json_object",
        _json_object,
        "any JSON object",
        source="vLLM",
    ),
    works(
        "structured_outputs.regex", _matching("[ab]{2}-[0-9]", regex="[ab]{2}-[0-9]"), "outputs match", source="vLLM"
    ),
    works(
        "structured_outputs.choice", _matching("yes|no", choice=["yes", "no"]), "outputs are one of them", source="vLLM"
    ),
    works(
        "structured_outputs.grammar",
        _matching("a(b|c)", grammar='start: "a" ("b" | "c")'),
        "outputs follow it, in Lark or EBNF",
        source="vLLM",
    ),
    works("structured_outputs.structural_tag", _tag, "what stands within tags satisfies the schema", source="vLLM"),
    works(
        "structured_outputs.disable_any_whitespace",
        _matching(
            r"\S*", json={"type": "array", "items": {"enum": [1, 2]}, "minItems": 3}, disable_any_whitespace=True
        ),
        "JSON without a space",
        source="vLLM",
    ),
    works(
        "structured_outputs.whitespace_pattern",
        _matching(r"\[\n{0,2}1\n{0,2},\n{0,2}2\n{0,2}\]", json={"const": [1, 2]}, whitespace_pattern="\\n{0,2}"),
        "white space between JSON's elements matches it",
        source="vLLM",
    ),
    works(
        "structured_outputs.disable_additional_properties",
        _matching(r'\{\s*("a": 1)?\s*\}', json=_ONE_PROPERTY, disable_additional_properties=True),
        "objects have only the properties that the schema names",
        source="vLLM",
    ),
    *(
        works(
            f"guided_{name}",
            _older(pattern, **{f"guided_{name}": value}, **needs),
            f"structured_outputs.{name}, by its older name",
            source="vLLM",
            needs=needs,
        )
        for name, value, pattern, needs in (
            ("json", {"const": "a"}, '"a"', {}),
            ("regex", "[ab]{2}", "[ab]{2}", {}),
            ("choice", ["yes", "no"], "yes|no", {}),
            ("grammar", 'start: "a" ("b" | "c")', "a(b|c)", {}),
            ("whitespace_pattern", "\\n?", r"\[\n?1\n?\]", {"guided_json": {"const": [1]}}),
        )
    ),
)
