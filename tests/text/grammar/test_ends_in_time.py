"""However a model draws: what it writes satisfies the grammar, and is complete within the budget."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from bytes_tokenizer import END, accepts, new_grammars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar.compiler import Grammar
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text, json_grammar

WORDS = ('{"', '": ', ', "', '"}', "null", "true", "the ", "cat", "aaaa", "123", "[[", '": "', "}}", "\n\n", "ab", "é")
GRAMMARS = new_grammars(*WORDS)
NAMES = ("a", "b", "name", "kind", "a b", "é")


def draw(
    grammar: Grammar,
    seed: int,
    budget: int,
    *,
    drafts: bool = False,
    constraint: GrammarConstraint | None = None,
    fails_after: int | None = None,
) -> tuple[bytes, list[int], bool]:
    """What a model that knows nothing writes: the text, its tokens, and whether the constraint says it is complete.

    Asserts what the engine relies on. With `drafts`, forced tokens are pushed first, as the engine does.
    """
    constraint, vocabulary = constraint or GrammarConstraint(grammar), grammar.vocabulary
    random = np.random.default_rng(seed)
    taken: list[int] = []
    while True:
        if len(taken) == fails_after:
            constraint._tokens.consume_token(END)  # what may not follow puts the library's matcher into its error state
        forced = constraint.forced(5)
        if drafts:
            pushed = [token_id for token_id in [*forced, 7] if constraint.push(token_id)]
            assert pushed[: len(forced)] == forced
            constraint.pop(len(pushed))
        mask = np.full(-(-vocabulary.vocab_size // 32), 0xFFFFFFFF, np.uint32)
        assert constraint.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        assert allowed
        assert max(allowed) < vocabulary.vocab_size
        if forced:
            assert allowed == forced[:1]
        token_id = constraint.take(allowed[int(random.integers(len(allowed)))], budget - len(taken))
        taken.append(token_id)
        if token_id == END or constraint.is_closed or len(taken) == budget:
            text = b"".join(vocabulary.bytes[each] for each in taken)
            return text, taken, constraint.is_complete


def schemas(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    count = st.integers(0, 4)
    scalars = st.one_of(
        st.just({"type": "null"}),
        st.just({"type": "boolean"}),
        st.builds(
            lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
            st.integers(-50, 50),
            st.integers(0, 200),
        ),
        st.builds(
            lambda low, size: {"type": "number", "minimum": low, "exclusiveMaximum": low + size},
            st.integers(-9, 9),
            st.integers(1, 20),
        ),
        st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size}, count, count),
        st.sampled_from(
            ["^[a-c]{2,5}$", "x+y", "^(cat|dog) [0-9]{3}$", "end$", "^\\d+(\\.\\d+)?$", "^é{1,3}$", "(foo|quux)bar"]
        ).map(lambda pattern: {"type": "string", "pattern": pattern}),
        st.sampled_from(["date", "time", "uuid", "ipv4", "email", "date-time"]).map(
            lambda name: {"type": "string", "format": name}
        ),
        st.lists(
            st.one_of(st.integers(-99, 99), st.text('abc"\\\n é', max_size=4), st.none(), st.booleans()),
            min_size=1,
            max_size=5,
        ).map(lambda values: {"enum": values}),
        st.just({"$ref": "#/$defs/tree"}),
        st.just({}),
    )
    if depth == 0:
        return scalars
    inner = schemas(depth - 1)
    objects = st.builds(
        lambda properties, required, closed: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        st.sets(st.sampled_from(NAMES)),
        st.booleans(),
    )
    arrays = st.builds(
        lambda items, low, size: {"type": "array", "items": items, "minItems": low, "maxItems": low + size},
        inner,
        count,
        count,
    )
    return st.one_of(
        objects, arrays, st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}), scalars
    )


TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "required": ["value", "children"],
    "additionalProperties": False,
}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(schemas(), st.integers(0, 2**32), st.integers(0, 40))
def test_json_is_whole_and_valid(schema: dict[str, Any], seed: int, more: int) -> None:
    schema = {**schema, "$defs": {"tree": TREE}}
    grammar = GRAMMARS.compile(json_grammar(schema))
    budget = grammar.num_needed + more
    text, taken, is_complete = draw(grammar, seed, budget)
    assert is_complete
    assert len(taken) <= budget
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    assert draw(grammar, seed, budget, drafts=True)[:2] == (text, taken)


def conditions(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that ask whether others hold: many of them satisfied by nothing, some without an opposite."""
    words = st.sampled_from(["a", "ab", "b", "abc", "", "é", 'q"'])
    values = st.one_of(words, st.integers(-3, 3), st.none(), st.booleans())
    plain = st.one_of(
        st.lists(values, min_size=1, max_size=3).map(lambda each: {"enum": each}),
        st.sampled_from([{"type": each} for each in ("null", "boolean", "integer", "number", "string", "array")]),
        st.builds(lambda low, size: {"minimum": low, "maximum": low + size}, st.integers(-3, 3), st.integers(0, 5)),
        st.builds(lambda low, size: {"minLength": low, "maxLength": low + size}, st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda low, size: {"minItems": low, "maxItems": low + size}, st.integers(0, 2), st.integers(0, 2)),
        st.just({"$ref": "#/$defs/ab"}),
        st.just({}),
    )
    if depth == 0:
        return plain
    inner = conditions(depth - 1)
    some = st.lists(inner, min_size=1, max_size=3)
    names = st.sampled_from(("a", "b", "c"))
    members = st.dictionaries(names, inner, max_size=2)
    objects = st.builds(
        lambda properties, required: {"properties": properties, "required": sorted(required)},
        members,
        st.sets(names, max_size=2),
    )
    rest = st.sampled_from([False, {"type": "null"}, True])
    return st.one_of(
        plain,
        objects,
        inner.map(lambda each: {"not": each}),
        some.map(lambda each: {"oneOf": each}),
        some.map(lambda each: {"allOf": each}),
        st.builds(lambda one, two, three: {"if": one, "then": two, "else": three}, inner, inner, inner),
        st.builds(lambda one, two: {"if": one, "then": two}, inner, inner),
        st.builds(lambda one, two: {"allOf": [{"if": one, "then": two}]}, objects, inner),
        st.builds(lambda each: {"contains": each, "maxItems": 3}, inner),
        st.builds(
            lambda each, most: {"contains": each, "minContains": 0, "maxContains": most}, inner, st.integers(0, 2)
        ),
        st.lists(values, min_size=1, max_size=4).map(lambda each: {"items": {"enum": each}, "uniqueItems": True}),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"prefixItems": each, "items": {"type": "boolean"}}),
        st.builds(lambda each, more, rest: {**each, "anyOf": more, "unevaluatedProperties": rest}, objects, some, rest),
        st.builds(lambda each, more, rest: {**each, "allOf": more, "unevaluatedProperties": rest}, objects, some, rest),
        st.builds(lambda more, rest: {"anyOf": more, "unevaluatedItems": rest}, some, rest),
        st.builds(lambda name, each: {"dependentSchemas": {name: each}}, names, inner),
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conditions(), st.integers(0, 2**32))
def test_what_depends_on_other_schemas_holds(schema: dict[str, Any], seed: int) -> None:
    schema = {**schema, "$defs": {"ab": {"enum": ["a", "b", 1]}}}
    try:
        grammar = GRAMMARS.compile(json_grammar(schema))
    except RequestError:
        return
    for more in range(0, 30, 6):
        text, _, is_complete = draw(grammar, seed + more, grammar.num_needed + more)
        assert is_complete
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    "structured",
    [
        StructuredOutput(regex="(cat|dog){2,6} [^z]*z"),
        StructuredOutput(regex="a*"),
        StructuredOutput(regex="(.|\n)*the end\\."),
        StructuredOutput(regex="[a-z]+@[a-z]+\\.(com|org)"),
        StructuredOutput(choice=["a", "ab", "abc", 'say "no"\n/\\', "é"]),
        StructuredOutput(grammar='start: "a" start "b" | "c"'),
        StructuredOutput(grammar='start: expr\nexpr: expr "+" term | term\nterm: "(" expr ")" | /[0-9]+/'),
        StructuredOutput(grammar='start: list\nlist: "x" list | "done"'),
        StructuredOutput(json={"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}),
        StructuredOutput(json_object=True),
        StructuredOutput(json={}, whitespace_pattern="[ \\n]{0,3}"),
    ],
)
def test_whatever_the_grammar(structured: StructuredOutput) -> None:
    grammar = GRAMMARS.compile(grammar_text(structured))
    for seed in range(25):
        budget = grammar.num_needed + seed % 12
        text, taken, is_complete = draw(grammar, seed, budget)
        assert is_complete
        assert accepts(grammar, text)
        assert len(taken) <= budget
        if structured.regex is not None:
            assert re.fullmatch(structured.regex, text.decode())
        if structured.choice is not None:
            assert text.decode() in structured.choice


@pytest.mark.parametrize(
    ("structured", "shortest"),
    [
        (StructuredOutput(json={"type": "object"}), "{}"),
        (StructuredOutput(json={"type": "string", "minLength": 3}), '"""""'),
        (StructuredOutput(json={"pattern": "[a-z]cole"}), "0"),
        (StructuredOutput(json={"type": "string", "pattern": "[a-z]cole$"}), '"acole"'),
        (StructuredOutput(json={"enum": ["long text", "b", "middle"]}), '"b"'),
        (
            StructuredOutput(
                json={
                    "type": "object",
                    "properties": {"a": {"type": "array", "minItems": 40}, "z": {"type": "integer", "minimum": 100}},
                    "required": ["z"],
                    "additionalProperties": False,
                }
            ),
            '{"z": 100}',
        ),
        (
            StructuredOutput(
                json={
                    "oneOf": [
                        {
                            "properties": {"k": {"const": "aa"}, "x": {"type": "string"}},
                            "required": ["k", "x"],
                            "type": "object",
                        },
                        {"properties": {"k": {"const": "ab"}}, "required": ["k"], "type": "object"},
                    ]
                }
            ),
            '{"k": "ab"}',
        ),
        (StructuredOutput(grammar='start: list\nlist: "x" list | "done"'), "done"),
        (StructuredOutput(regex="(a{30}|b{3}|c{20})d"), "bbbd"),
    ],
)
def test_the_ending_that_is_found_is_a_shortest_one(structured: StructuredOutput, shortest: str) -> None:
    grammar = new_grammars().compile(grammar_text(structured))
    assert len(grammar.ending) == len(shortest.encode())


def test_a_token_of_several_bytes_counts_once() -> None:
    grammar = GRAMMARS.compile(
        json_grammar({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]})
    )
    assert [grammar.vocabulary.bytes[each] for each in grammar.ending] == [b'{"', b"a", b'": ', b"null", b"}"]


def test_rows_of_padding_are_never_allowed() -> None:
    grammar = new_grammars(vocab_size=300).compile(grammar_text(StructuredOutput(regex="(.|\n)*x")))
    draw(grammar, 1, 40)


def test_what_the_vocabulary_cannot_spell_is_refused() -> None:
    with pytest.raises(RequestError, match="no output"):
        new_grammars(vocab_size=100).compile(grammar_text(StructuredOutput(choice=["é"])))


@pytest.mark.parametrize("num_before", [0, 1, 5, 12])
def test_where_the_library_gives_up_the_known_ending_remains(num_before: int) -> None:
    grammar = GRAMMARS.compile(json_grammar({"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}))
    broken = replace(grammar, tokens=grammar.tokens.deep_copy())
    broken.tokens.consume_token(END)
    grammar = replace(grammar, anew=lambda _: broken)
    for seed in range(6):
        constraint = GrammarConstraint(grammar)
        text, taken, is_complete = draw(grammar, seed, 60, constraint=constraint, fails_after=num_before)
        assert constraint._has_failed or len(taken) <= num_before
        assert is_complete
        jsonschema.validate(json.loads(text), {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}})
