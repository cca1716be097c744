"""What of JSON Schema is enforced beyond the official suite, and what is refused, by name and path."""

from __future__ import annotations

from typing import Any

import pytest
from bytes_tokenizer import accepts, accepts_value, new_grammars

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar.compiler import Grammars
from headrace.text.grammar.specification import grammar_text, json_grammar

KINDS = {
    "type": "object",
    "properties": {"k": {"enum": ["a", "b", "c", "d"]}},
    "required": ["k"],
    "allOf": [
        {"if": {"properties": {"k": {"const": "a"}}, "required": ["k"]}, "then": {"required": ["x"]}},
        {
            "if": {"type": "object", "properties": {"k": {"enum": ["c", "e"]}}, "required": ["k"]},
            "then": {"properties": {"y": {"type": "array"}}, "required": ["y"]},
        },
        {"if": {"properties": {"k": {"enum": ["d"]}}, "required": ["k"]}, "then": {"not": {"required": ["y"]}}},
    ],
}
NO_KINDS = [{}, {"k": "a"}, {"k": "c"}, {"k": "c", "y": 1}, {"k": "d", "y": []}]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return new_grammars()


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"uniqueItems": True}, "$.uniqueItems"),
        ({"uniqueItems": True, "items": {"enum": list(range(9))}}, "$.uniqueItems"),
        ({"uniqueItems": "yes"}, "$.uniqueItems"),
        ({"properties": {"a": {"contains": {"const": 1}, "minContains": 9}}}, "$.properties.a.contains"),
        ({"contains": {"pattern": "a"}, "maxContains": 1}, "$.maxContains"),
        ({"items": {"anyOf": [{"not": {"pattern": "a"}}]}}, "$.items.anyOf[0].not"),
        ({"not": {"not": {"not": {"format": "date"}}}}, "$.not.not.not"),
        ({"not": {"contains": {"const": 1}}}, "$.not"),
        ({"not": {"properties": {"a": {}}, "additionalProperties": False}}, "$.not"),
        ({"not": {"const": {"a": 1}}}, "$.not"),
        ({"not": {"const": "a" * 61}}, "$.not"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"items": {"$ref": "#/$defs/a"}}}}}, "#/$defs/a.not"),
        ({"if": {"patternProperties": {"a": True}}, "then": False}, "$.if"),
        ({"allOf": [{}, {"if": {"pattern": "a"}, "then": False}]}, "$.allOf[1].if"),
        ({"contains": {"const": 1}, "unevaluatedItems": False}, "$.unevaluatedItems"),
        ({"required": ["a"], "unevaluatedProperties": False, "anyOf": [{"$ref": "#"}]}, "$.unevaluatedProperties"),
        ({"typ": "string"}, "$.typ"),
        ({"nullable": True}, "$.nullable"),
        ({"$ref": "https://example.com/schema"}, "$.$ref"),
        ({"$ref": "#/$defs/none"}, "$.$ref"),
        ({"$ref": "#none"}, "$.$ref"),
        ({"$dynamicRef": "#a"}, "$.$dynamicRef"),
        (
            {"$ref": "b", "$defs": {"b": {"$id": "b", "$dynamicRef": "#a", "$defs": {"c": {"$dynamicAnchor": "a"}}}}}
            | {"$dynamicAnchor": "a"},
            "#.$dynamicRef",
        ),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "b", "$defs": {"b": {"$id": "b"}}}, "$.$ref"),
        ({"items": {"$id": "#b"}, "$ref": "#b"}, "$.items.$id"),
        ({"format": "idn-email"}, "$.format"),
        ({"pattern": "(?=a)b"}, "$.pattern"),
        ({"pattern": "(a)\\1"}, "$.pattern"),
        ({"pattern": "\\bword"}, "$.pattern"),
        ({"patternProperties": {"(": {}}}, "$.patternProperties.("),
        ({"type": "text"}, "$.type"),
        ({"type": []}, "$.type"),
        ({"minLength": -1}, "$.minLength"),
        ({"minimum": "1"}, "$.minimum"),
        ({"minimum": 2**60}, "$.minimum"),
        ({"enum": []}, "$.enum"),
        ({"required": "a"}, "$.required"),
        ({"properties": []}, "$.properties"),
        ({"items": 3}, "$.items"),
        ({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, "$.oneOf"),
        ({"minProperties": 2}, "$.minProperties"),
        ({"propertyNames": {"not": {"const": "a"}}}, "$.propertyNames"),
        ({"propertyNames": {"pattern": "a"}, "required": ["b"]}, "$.propertyNames"),
        ({"dependentRequired": {"a": "b"}}, "$.dependentRequired.a"),
        (7, "$"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_path(schema: Any, path: str) -> None:
    with pytest.raises(RequestError) as refused:
        json_grammar(schema)
    assert f" {path}: " in str(refused.value)
    assert refused.value.param == "structured"


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        # one of several, told apart by a constant, an absent name, a type, a range
        (
            {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}},
                        "required": ["kind", "x"],
                    },
                    {"$ref": "#/$defs/b"},
                    {"type": "array"},
                ],
                "$defs": {"b": {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}},
            },
            [{"kind": "b"}, {"kind": "a", "x": 3}, [], {"kind": "c", "more": 1}],
            [{"kind": "a"}, {"kind": "d"}, {}],
        ),
        ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "number", "minimum": 4}]}, [3, 4, 4.5], [3.5]),
        ({"dependentRequired": {"a": ["b"]}, "type": "object"}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
        (
            {"dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}, "type": "object"},
            [{}, {"b": 1}, {"a": 1}, {"a": 1, "b": None}],
            [{"a": 1, "b": 2}],
        ),
        ({"propertyNames": {"pattern": "^a"}, "type": "object"}, [{}, {"ab": 1}], [{"b": 1}, []]),
        (
            {"propertyNames": {"enum": ["a", "b"]}, "type": "object", "additionalProperties": {"type": "null"}},
            [{}, {"a": None}, {"b": None, "a": None}],
            [{"b": 1}, {"c": None}],
        ),
        (
            {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
            [{}, {"a": 1}],
            [{"b": 1}],
        ),
        ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
        ({"$ref": "#/$defs/a%25~1b", "$defs": {"a%/b": {"const": 1}}}, [1], [2]),
        ({"$ref": "#x", "$defs": {"n": {"$anchor": "x", "type": "null"}}}, [None], [1]),
        ({"$id": "https://a.b/c", "$ref": "https://a.b/c#/$defs/n", "$defs": {"n": {"type": "null"}}}, [None], [1]),
        ({"type": "string", "pattern": "^[a&&b]$"}, ["&", "a"], ["aa"]),
        ({"type": "string", "pattern": "^.$"}, ["a"], ["\n", "\u2028"]),
        ({"type": "string", "pattern": "\\s"}, ["a\ufeff"], ["a\u0085"]),
        ({"type": "string", "pattern": "^\\w$"}, ["a"], ["é"]),
        ({"type": "string", "minLength": 2, "maxLength": 2}, ["é😀"], ["é", "abc"]),
        ({"format": "date"}, ["2024-02-29", 3], ["2023-02-29", "2100-02-29", "2024-13-01"]),
        ({"format": "ipv4"}, ["1.2.3.255"], ["1.2.3.256", "01.2.3.4"]),
        ({"anyOf": [True, {"type": "null"}]}, [1, None], []),
        ({"not": False, "uniqueItems": False, "if": {}, "minContains": 3}, [1], []),
        ({"type": "string", "not": {"enum": ["a", "ab", ""]}}, ["b", "abc", "é", "aa"], ["a", "ab", ""]),
        ({"not": {"enum": [1, 3, "a", None, True]}}, [2, 0, 4.5, "b", "", False, [], {}], [1, 3, "a", None, True]),
        ({"not": {"required": ["a", "b"]}, "type": "object"}, [{}, {"a": 1}, {"c": 1}], [{"a": 1, "b": 2}]),
        ({"not": {"type": "object", "properties": {"a": {"type": "null"}}}}, [1, {"a": 2}], [{}, {"a": None}]),
        ({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"type": "null"}}, ["a", None], ["ab", 1]),
        (KINDS, [{"k": "a", "x": 1}, {"k": "b"}, {"k": "d", "x": ""}, {"k": "c", "y": []}], NO_KINDS),
        ({"allOf": KINDS["allOf"]}, [{}, {"k": "d"}, {"k": "c", "y": []}], [3, *NO_KINDS[1:]]),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"}, [{"a": 1}], [{}, {"a": 1, "b": 1}]),
        ({"contains": {"const": 1}, "type": "array"}, [[1], [2, 1], [1, 1]], [[], [2]]),
        ({"contains": {"const": 1}, "maxContains": 1, "type": "array"}, [[1], [2, 1, 3]], [[], [1, 2, 1]]),
        ({"uniqueItems": True, "items": {"enum": ["a", 1, True]}}, ["a", [], [1, "a"], [True, 1]], [[1, 1], [1.0, 1]]),
        ({"uniqueItems": True, "items": {"enum": list(range(8))}}, [[0, 7], [3]], [[3, 3], [0, 1, 1]]),
        (
            {"allOf": [{"properties": {"a": {}}}, {"$ref": "#/$defs/b"}], "unevaluatedProperties": False}
            | {"$defs": {"b": {"properties": {"b": {}}}}, "type": "object"},
            [{}, {"a": 1, "b": 2}],
            [{"c": 1}],
        ),
        (
            {"$id": "https://a.b/c", "properties": {"a": {"$ref": "d#x"}, "e": {"$ref": "/d#/$defs/y"}}}
            | {"$defs": {"d": {"$id": "d", "$defs": {"x": {"$anchor": "x", "type": "null"}, "y": {"const": 1}}}}},
            [{"a": None, "e": 1}],
            [{"a": 1}, {"e": 2}],
        ),
        ({"propertyNames": {"maxLength": 1}, "type": "object"}, [{}, {"a": 1}], [{"ab": 1}]),
        ({"format": "uri-reference"}, ["/a?b#c", "//h:1/p", "a/b:c", ""], ["a:b c", "1:b", "/%zz", "/|"]),
        ({"format": "iri"}, ["http://é.fr/ü?ö"], ["/abc", "http://é.fr/ "]),
        ({"format": "uri-template"}, ["/a/{b:3,c*}"], ["{", "{a,}", "{a:0}"]),
        ({"description": "x", "x-more": 1, "discriminator": {}, "deprecated": True}, [1], []),
        ({"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 20}, [14], [7, 15, 21]),
        ({"type": ["integer", "null"], "enum": [1, None, "a"]}, [1, None], ["a"]),
    ],
)
def test_what_is_enforced(grammars: Grammars, schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    grammar = grammars.compile(json_grammar(schema))
    assert [value for value in valid if not accepts_value(grammar, value)] == []
    assert [value for value in invalid if accepts_value(grammar, value)] == []


def test_a_name_cannot_come_back_in_another_spelling(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"a\n": {"type": "integer"}}}
    grammar = grammars.compile(json_grammar(schema))
    assert accepts(grammar, '{"a\\n": 1}')
    for name in ("a\\n", "a\\u000a", "a\\u000A", "\\u0061\\n"):
        assert not accepts(grammar, f'{{"{name}": "text"}}')


def test_white_space_is_that_of_json_dumps_or_what_is_asked_for(grammars: Grammars) -> None:
    schema = {"type": "object"}
    texts = ['{"a": [1, 2]}', '{"a":[1,2]}', '{\n "a": [1]}']

    def taken(**options: Any) -> list[bool]:
        grammar = grammars.compile(grammar_text(StructuredOutput(json=schema, **options)))
        return [accepts(grammar, text) for text in texts]

    assert taken() == [True, False, False]
    assert taken(disable_any_whitespace=True) == [False, True, False]
    assert taken(whitespace_pattern="[ \\n]{0,2}") == [True, True, True]


def test_objects_are_closed_where_that_is_asked_for(grammars: Grammars) -> None:
    schema = {"properties": {"a": {"properties": {"b": {}}, "additionalProperties": True}}, "type": "object"}
    open_, closed = (
        grammars.compile(grammar_text(StructuredOutput(json=schema, disable_additional_properties=closed)))
        for closed in (False, True)
    )
    for value, is_closed in (({"a": {"b": 1, "c": 2}}, True), ({"d": 1}, False)):
        assert accepts_value(open_, value)
        assert accepts_value(closed, value) == is_closed


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"enum": ["a"], "type": "integer"},
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused(grammars: Grammars, schema: Any) -> None:
    with pytest.raises(RequestError):
        grammars.compile(json_grammar(schema))
