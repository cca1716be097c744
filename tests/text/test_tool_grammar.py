"""Where a model has to call a tool, or has begun to, it can only write calls that satisfy the tools' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers
from test_tools import NAMES, PYTHON_CALLS, every_format, format_of, read

from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.structured_output import StructuredOutput
from headrace.text.answer import AnswerFormat, Reading
from headrace.text.byte_level import character_to_byte
from headrace.text.grammar.compiler import Grammars
from headrace.text.grammar.constraint import GrammarConstraint
from headrace.text.grammar.specification import grammar_text
from headrace.text.grammar.vocabulary import GrammarVocabulary
from headrace.text.restrictions import Restrictions
from headrace.text.tokenizer import Tokenizer
from headrace.text.tools.definitions import read_tools
from headrace.text.tools.grammar import tools_grammar
from headrace.text.vocabulary import Vocabulary
from headrace.types import ToolCallDelta

SPECIAL = (
    *("<end>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>"),
    *(
        "<|constrain|>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
    ),
    "<｜tool▁sep｜>",
    *("<|tool_call_start|>", "<|tool_call_end|>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    *("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
)
WORDS = ("<tool_call>", "</tool_call>", "<tool", '{"', '": ', ', "', "null", '"}', "}}", "</parameter>", "\n\n")
END = 256

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["C", "F"]},
        "more": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["place", "unit"],
    "additionalProperties": False,
}
OTHER = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
SCHEMAS = {"look": SCHEMA, "get_weather-2": OTHER}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": each}} for name, each in SCHEMAS.items()]


@cache
def tokenizer() -> Tokenizer:
    characters = {byte: character for character, byte in character_to_byte().items()}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={characters[byte]: byte for byte in range(256)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens(list(WORDS))
    return Tokenizer(Vocabulary(backend, eos_token_ids=frozenset({END})))


@cache
def grammars() -> Grammars:
    size = tokenizer().vocab_size
    return Grammars(lambda: GrammarVocabulary(tokenizer(), size, tokenizer().eos_token_ids))


def constraint(format_: AnswerFormat, tools: Sequence[Any] = TOOLS, answer: str | None = None, **asked: Any) -> Any:
    found = read_tools(tools, asked.get("choice"), is_parallel=asked.get("is_parallel", True))
    assert found is not None
    text = tools_grammar(format_, found, grammars().vocabulary.special_names, answer)
    return GrammarConstraint(grammars().compile(text))


def draw(limit: Any, seed: int, begun: str = "", budget: int = 120) -> str:
    """What a model that knows nothing writes behind what it has `begun`."""
    random = np.random.default_rng(seed)
    taken: list[int] = []
    for token_id in tokenizer().encode(begun, add_special_tokens=False):
        assert limit.take(token_id, budget - len(taken)) == token_id, f"{begun!r} is not allowed"
        taken.append(token_id)
    while len(taken) < budget and not limit.is_closed:
        mask = np.full(-(-tokenizer().vocab_size // 32), 0xFFFFFFFF, np.uint32)
        assert limit.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        ends = [each for each in allowed if each == END or bytes_of(int(each))[:1] in (b'"', b"}", b"]", b"<", b"\n")]
        token_id = int(random.choice(ends if ends and random.random() < 0.3 else allowed))
        taken.append(limit.take(token_id, budget - len(taken)))
        if taken[-1] == END:
            break
    assert limit.is_complete
    return tokenizer().decode([each for each in taken if each != END], skip_special_tokens=False)


def bytes_of(token_id: int) -> bytes:
    return tokenizer().token_bytes(token_id)


def calls_of(format_: AnswerFormat, text: str) -> list[tuple[str, Any]]:
    _, _, found = read(format_, text, [3])
    calls = [(name, json.loads(arguments)) for name, arguments in found]
    for name, arguments in calls:
        jsonschema.validate(arguments, SCHEMAS[name])
    return calls


def formats() -> list[Any]:
    return [pytest.param(which, id=name) for which, name in enumerate(NAMES)]


BEGUN = {
    "Gemma 3": "[look(",
    "meta-llama-Llama-3.1-8B-Instruct": '{"name": "look"',
    "meta-llama-Llama-3.2-3B-Instruct": '{"name": "look"',
    "openai-gpt-oss-120b": "<|channel|>commentary to=functions.",
}


@pytest.mark.parametrize("which", formats())
def test_a_required_call_is_a_valid_call(which: int) -> None:
    format_ = every_format()[which]
    for seed in range(12):
        text = draw(constraint(format_, choice="required"), seed)
        assert calls_of(format_, text), text
    named = {"type": "function", "function": {"name": "get_weather-2"}}
    for seed in range(4):
        text = draw(constraint(format_, choice=named, is_parallel=False), seed)
        ((name, arguments),) = calls_of(format_, text)
        assert name == "get_weather-2"
        assert arguments in ({"on": True}, {"on": False})


@pytest.mark.parametrize("which", formats())
def test_a_tool_that_takes_one_text(which: int) -> None:
    """Which leaves no way to the end but through a text."""
    format_ = every_format()[which]
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    limit = constraint(format_, [{"function": {"name": "look", "parameters": schema}}], choice="required")
    ((name, arguments), *_) = read(format_, draw(limit, 1), [3])[2]
    assert name == "look"
    assert isinstance(json.loads(arguments)["city"], str)


@pytest.mark.parametrize("which", formats())
def test_a_call_that_the_model_opens_is_a_valid_call(which: int) -> None:
    format_ = every_format()[which]
    name = NAMES[which]
    begun = BEGUN.get(name) or f"Well, {format_.tools.trigger}"  # type: ignore[union-attr]
    for seed in range(8):
        text = draw(constraint(format_), seed, begun)
        assert calls_of(format_, text), text


@pytest.mark.parametrize("which", formats())
def test_without_a_call_any_text_is_allowed(which: int) -> None:
    format_ = every_format()[which]
    text = 'Some {"a": [1]} text < with \\ äöü\n\n"name"'
    if format_.channels is not None:
        text = f"<|channel|>analysis<|message|>Hm {text}<|end|><|start|>assistant<|channel|>final<|message|>{text}"
    for choice in ("auto", "none"):
        limit = constraint(format_, choice=choice)
        for token_id in tokenizer().encode(text, add_special_tokens=False):
            assert limit.take(token_id, 1000) == token_id
        assert limit.is_complete


@pytest.mark.parametrize("which", formats())
def test_none_is_no_call(which: int) -> None:
    format_ = every_format()[which]
    name = NAMES[which]
    begun = BEGUN.get(name) or format_.tools.trigger  # type: ignore[union-attr]
    limit = constraint(format_, choice="none")
    taken = [limit.take(each, 1000) == each for each in tokenizer().encode(f"{begun}", add_special_tokens=False)]
    assert not all(taken)


def test_the_answer_may_have_a_form_of_its_own() -> None:
    answer = grammar_text(StructuredOutput(json={"type": "object", "properties": {"a": {"type": "null"}}}))
    for name in ("Qwen-Qwen3-0.6B", "mistralai-Mistral-Nemo-Instruct-2407", "openai-gpt-oss-120b"):
        format_ = format_of(name)
        channel = "<|channel|>final<|message|>" if format_.channels else ""
        for seed in range(4):
            text = draw(constraint(format_, answer=answer), seed, channel + '{"')
            assert isinstance(json.loads(text.removeprefix(channel)), dict)
        if format_.tools is not None:
            assert calls_of(format_, draw(constraint(format_, answer=answer), 0, format_.tools.trigger))


def test_what_cannot_be_enforced_is_named() -> None:
    strange = {"type": "object", "properties": {"a": {"type": "string", "contentEncoding2": "x"}}}
    tools = [{"function": {"name": "look", "parameters": strange}}]
    with pytest.raises(RequestError, match=r"the parameters of tool look: .*contentEncoding2") as refused:
        constraint(format_of("Qwen-Qwen3-0.6B"), tools)
    assert refused.value.param == "tools[0].function.parameters"
    loose = [{"function": {"name": "look", "parameters": strange, "strict": False}}]
    text = draw(constraint(format_of("Qwen-Qwen3-0.6B"), loose, choice="required"), 3)
    assert read(format_of("Qwen-Qwen3-0.6B"), text, [9])[2][0][0] == "look"
    pattern = [{"function": {"name": "a", "parameters": {"properties": {"b": {"type": "string", "pattern": "c"}}}}}]
    with pytest.raises(RequestError, match="pattern cannot be enforced on text"):
        constraint(format_of("Qwen3-Coder"), pattern)


def test_calls_end_in_time() -> None:
    found = read_tools(TOOLS, "required")
    assert found is not None
    text = tools_grammar(format_of("Qwen-Qwen3-0.6B"), found, grammars().vocabulary.special_names)
    needed = grammars().compile(text).num_needed
    for budget in (needed, needed + 1, needed + 9):
        for seed in range(5):
            text = draw(constraint(format_of("Qwen-Qwen3-0.6B"), choice="required"), seed, budget=budget)
            assert calls_of(format_of("Qwen-Qwen3-0.6B"), text)


def test_the_text_of_a_grammar_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    restrictions = Restrictions(tokenizer(), tokenizer().vocab_size, tokenizer().eos_token_ids)

    def text(choice: Any, tools: Any = TOOLS, structured: StructuredOutput | None = None, **asked: Any) -> str | None:
        found = read_tools(json.loads(json.dumps(tools)), choice, **asked)  # as each request has objects of its own
        reading = Reading(format_of("Qwen-Qwen3-0.6B"), asked=found)
        params = SamplingParams(structured=structured)
        restrictions.compile(params, reading)
        return restrictions.grammar(params, None, 1000, reading)

    named = {"type": "function", "function": {"name": "look"}}
    loose = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": False}}, TOOLS[1]]
    asked: list[dict[str, Any]] = [
        *({"choice": choice} for choice in ("auto", "none", "required", named)),
        {"choice": "required", "is_parallel": False},
        {"choice": "required", "tools": TOOLS[1:]},
        {"choice": "required", "tools": loose},
        {"choice": "auto", "structured": StructuredOutput(regex="a")},
    ]
    texts = [text(**each) for each in asked]
    assert len(set(texts)) == len(texts)
    monkeypatch.setattr(Restrictions, "_write", lambda *_: pytest.fail("written again"))
    assert [text(**each) for each in asked] == texts


PYTHON = AnswerFormat(tools=PYTHON_CALLS)


def test_arguments_in_python_keep_to_the_schema() -> None:
    flags = {"type": "object", "additionalProperties": {"type": "boolean"}}
    properties = {
        "first": {"type": "boolean"},
        "kind": {"$ref": "#/$defs/Color"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "many": {"type": ["boolean", "null", "integer"]},
        "short": {"type": "string", "pattern": "^[a-c]{2}$"},
        "deep": {"type": "array", "items": flags, "maxItems": 2},
        "free": True,
        "never": False,
    }
    defs = {"Color": {"enum": ["red", "it's"]}}
    schema = {"type": "object", "properties": properties, "required": ["kind", "else"], "$defs": defs}
    tools = [{"function": {"name": "look", "parameters": schema}}]
    seen: set[str] = set()
    for seed in range(25):
        text = draw(constraint(PYTHON, tools, choice="required", is_parallel=False), seed, budget=200)
        (call,) = read(PYTHON, text, [2])[2]
        jsonschema.validate(json.loads(call[1]), schema)
        seen.update(json.loads(call[1]))
    assert seen == {*properties, "else"} - {"never"}
    for value in ("True", "False"):
        text = draw(constraint(PYTHON, tools, choice="required"), 1, f"[look(first={value}, kind=", budget=200)
        assert json.loads(read(PYTHON, text, [9])[2][0][1])["first"] is (value == "True")
    with pytest.raises(AssertionError, match="not allowed"):
        draw(constraint(PYTHON, tools, choice="required"), 1, "[look(first=1")


@pytest.mark.parametrize("name", ["Qwen3-Coder", "Python"])
@pytest.mark.parametrize(
    ("more", "keyword"),
    [
        ({"minProperties": 2}, "minProperties"),
        ({"patternProperties": {"a": {}}}, "patternProperties"),
        ({"additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({"anyOf": [{"required": ["b"]}]}, "anyOf"),
    ],
)
def test_what_holds_for_all_arguments_is_only_enforced_on_json(name: str, more: Any, keyword: str) -> None:
    tools = [{"function": {"name": "look", "parameters": {"properties": {"b": {"type": "string"}}, **more}}}]
    with pytest.raises(RequestError, match=f"{keyword} cannot be enforced") as refused:
        constraint(PYTHON if name == "Python" else format_of(name), tools)
    assert refused.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize("name", ["Qwen3-Coder", "Python", "Qwen-Qwen3-0.6B"])
@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": 5}}, "$.properties.a"),
        ({"properties": {"a": {"anyOf": 5}}}, "$.properties.a.anyOf"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, 5]}}}, "$.properties.a.anyOf[1]"),
        ({"properties": {"a": {"enum": 5}}}, "$.properties.a.enum"),
        ({"properties": {"a": {"type": 5}}}, "$.properties.a.type"),
        ({"properties": [1]}, "$.properties"),
        ({"required": [[1]]}, "$.required"),
    ],
)
def test_a_malformed_schema_is_refused_by_its_path(name: str, schema: Any, where: str) -> None:
    tools = [{"function": {"name": "look", "parameters": {"type": "object", **schema}}}]
    with pytest.raises(RequestError, match=f"tool look: {re.escape(where)}: ") as refused:
        constraint(PYTHON if name == "Python" else format_of(name), tools)
    assert refused.value.param == "tools[0].function.parameters"


def test_an_option_may_be_true_or_false() -> None:
    either = {"type": "object", "properties": {"a": {"anyOf": [True, {"type": "string"}]}}, "required": ["a"]}
    never = {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer"}, False]}}, "required": ["a"]}
    for format_ in (PYTHON, format_of("Qwen3-Coder")):
        tools = [{"function": {"name": "look", "parameters": either}}]
        text = draw(constraint(format_, tools, choice="required", is_parallel=False), 3, budget=200)
        assert read(format_, text, [3])[2][0][1].startswith('{"a": ')
    tools = [{"function": {"name": "look", "parameters": never}}]
    text = draw(constraint(PYTHON, tools, choice="required", is_parallel=False), 3, budget=200)
    assert isinstance(json.loads(read(PYTHON, text, [3])[2][0][1])["a"], int)
    with pytest.raises(RequestError, match="anyOf cannot be enforced on text"):
        constraint(format_of("Qwen3-Coder"), tools)


def test_tagged_arguments_keep_to_what_their_schema_refers_to() -> None:
    coder = format_of("Qwen3-Coder")
    leg = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    properties = {
        "unit": {"$ref": "#/$defs/Unit"},
        "leg": {"anyOf": [{"$ref": "#/$defs/Leg"}, {"type": "null"}]},
        "free": True,
        "never": False,
    }
    defs = {"Unit": {"enum": ["C", "F"]}, "Leg": leg}
    schema = {"type": "object", "properties": properties, "required": ["unit", "leg"], "$defs": defs}
    tools = [{"function": {"name": "look", "parameters": schema}}]
    for seed in range(10):
        text = draw(constraint(coder, tools, choice="required", is_parallel=False), seed, budget=200)
        reader = Reading(coder, tools={"look": schema}).reader()
        assert reader is not None
        arguments = "".join(piece.arguments for piece in reader.push(text) if isinstance(piece, ToolCallDelta))
        jsonschema.validate(json.loads(arguments), schema)
    bounded = {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}}}
    with pytest.raises(RequestError, match="minimum cannot be enforced on text"):
        constraint(coder, [{"function": {"name": "look", "parameters": bounded}}])
