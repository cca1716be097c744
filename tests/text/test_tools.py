"""Formats derived from real chat templates, and calls read out of text however it is cut."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.text.answer import AnswerFormat, Reading, answer_format
from headrace.text.chat import ChatTemplate
from headrace.text.reasoning import Thought
from headrace.text.tools.definitions import read_tools
from headrace.text.tools.derive import derive_format
from headrace.text.tools.format import ID_MARK, IdForm, NamedCall, ObjectCall, PythonCall, TaggedCall, ToolFormat
from headrace.types import ToolCallDelta

ROLES = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = Path(__file__).parents[3] / "shared/data/chat_templates"
WITH_CALLS = (
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
)
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "more": {}},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Look", "parameters": SCHEMA}}
    for name in ("look", "get_weather-2")
]


@cache
def template(name: str) -> ChatTemplate:
    if not TEMPLATES.is_dir():
        pytest.skip("needs the material in ../shared, which is not part of the project")
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"), ROLES)


@cache
def format_of(name: str) -> AnswerFormat:
    return answer_format(template(name))


def read(
    format_: AnswerFormat, text: str, cuts: list[int], *, in_thought: bool = False, has_tools: bool = True
) -> tuple[str, str, list[tuple[str, str]]]:
    """(thought, content, [(name, arguments)]) of a text that is pushed in pieces of the given sizes, repeated."""
    tools = {"look": SCHEMA, "get_weather-2": SCHEMA} if has_tools else None
    reader = Reading(format_, in_thought=in_thought, tools=tools).reader()
    assert reader is not None
    pieces: list[Any] = []
    at = step = 0
    while at < len(text):
        size = cuts[step % len(cuts)]
        pieces += reader.push(text[at : at + size])
        at, step = at + size, step + 1
    pieces += reader.flush()
    calls: dict[int, tuple[str, list[str]]] = {}
    for piece in pieces:
        if isinstance(piece, ToolCallDelta):
            assert piece.index in (len(calls), len(calls) - 1), "calls come one after the other"
            if piece.index not in calls:
                assert piece.id
                assert piece.name
                calls[piece.index] = (piece.name, [])
            calls[piece.index][1].append(piece.arguments)
    return (
        "".join(piece.text for piece in pieces if isinstance(piece, Thought)),
        "".join(piece for piece in pieces if isinstance(piece, str)),
        [(name, "".join(parts)) for name, parts in calls.values()],
    )


def answer_text(name: str, turn: dict[str, Any]) -> str:
    """What a model would have to say for its template to write the turn."""
    question = {"role": "user", "content": "And?"}
    before = template(name).render([question], TOOLS)
    whole = template(name).render([question, turn], TOOLS, add_generation_prompt=False)
    plain = template(name).render(
        [question, {"role": "assistant", "content": "NEEDLE"}], TOOLS, add_generation_prompt=False
    )
    at = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole)))
    return whole[at:].removesuffix(plain.rpartition("NEEDLE")[2])


ORDINARY = st.text(
    st.sampled_from(string.ascii_letters + " äß漢🎉\n\t'`=:,") | st.characters(codec="utf-8"), max_size=12
)
TRICKY = st.sampled_from(
    ['"', "\\", "}", "{", "</tool_call>", "<tool_call>", "]", "[TOOL_CALLS][", '{"name": "look"', "</think>", "\\u00e4"]
)
TEXTS = st.lists(ORDINARY | TRICKY, max_size=4).map("".join)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**40), 2**40) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.fixed_dictionaries(
    {}, optional={"place": TEXTS, "days": st.integers(-(10**9), 10**9), "more": st.dictionaries(TEXTS, VALUES)}
)
CALLS = st.lists(st.tuples(st.sampled_from(["look", "get_weather-2"]), ARGUMENTS), min_size=1, max_size=3)
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def is_writable(name: str, arguments: dict[str, Any]) -> bool:
    """Text between tags has no escapes: it cannot hold its own end, and loses nothing but that."""
    if name != "Qwen3-Coder":
        return True
    return "</parameter>" not in str(arguments.get("place")) and "\r" not in json.dumps(arguments)


@pytest.mark.parametrize("name", WITH_CALLS)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS, cuts=CUTS)
def test_calls_as_the_template_writes_them_are_read_back(
    name: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    format_ = format_of(name)
    single = format_.channels is not None or (format_.tools is not None and not format_.tools.has_parallel_calls)
    calls = [(tool, arguments) for tool, arguments in calls if is_writable(name, arguments)][: 1 if single else None]
    if not calls:
        return
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": f"abcdefgh{at}", "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
            for at, (tool, arguments) in enumerate(calls)
        ],
    }
    text = answer_text(name, turn)
    thought, content, found = read(format_, text, cuts)
    assert (thought, content) == ("", "")
    assert [(tool, json.loads(arguments)) for tool, arguments in found] == calls
    assert read(format_, text, [len(text)]) == (thought, content, found), "streamed as whole"


PYTHON_VALUE = """value | tojson if value is mapping else "'" + value + "'" if value is string else value"""
PYTHON = (
    "{% for call in message.tool_calls %}{{ call.function.name }}({% for key, value in call.function.arguments.items()"
    " %}{{ key }}={{ " + PYTHON_VALUE + " }}{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}"
    "{% endfor %}"
)
WRITTEN = {
    # how templates of families write calls of whose templates none is here
    "GLM": (
        "{% for call in message.tool_calls %}\n<tool_call>{{ call.function.name }}\n"
        "{% for key, value in call.function.arguments.items() %}<arg_key>{{ key }}</arg_key>\n<arg_value>"
        "{{ value | tojson if value is not string else value }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}"
    ),
    "DeepSeek 3.1": (
        "{% for call in message.tool_calls %}{% if loop.first %}<｜tool▁calls▁begin｜>{% endif %}<｜tool▁call▁begin｜>"
        "{{ call.function.name }}<｜tool▁sep｜>{{ call.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}"
        "{% if message.tool_calls %}<｜tool▁calls▁end｜>{% endif %}"
    ),
    "functionary 3.1": (
        "{% for call in message.tool_calls %}<function={{ call.function.name }}>"
        "{{ call.function.arguments | tojson }}</function>{% endfor %}"
    ),
    "Mistral Small 3.2": (
        "{% for call in message.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[CALL_ID]{{ call.id }}[ARGS]"
        "{{ call.function.arguments | tojson }}{% endfor %}"
    ),
    "Command R7B": (
        "{% if message.tool_calls %}<|START_ACTION|>[\n{% for call in message.tool_calls %}"
        '    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", "parameters": '
        "{{ call.function.arguments | tojson }}}{{ ',' if not loop.last }}\n{% endfor %}]<|END_ACTION|>{% endif %}"
    ),
    "MiniMax": (
        "{% if message.tool_calls %}<minimax:tool_call>\n{% for call in message.tool_calls %}"
        '<invoke name="{{ call.function.name }}">\n{% for key, value in call.function.arguments.items() %}'
        '<parameter name="{{ key }}">{{ value | tojson if value is not string else value }}</parameter>\n{% endfor %}'
        "</invoke>\n{% endfor %}</minimax:tool_call>{% endif %}"
    ),
    "LFM2.5": "{% if message.tool_calls %}<|tool_call_start|>[" + PYTHON + "]<|tool_call_end|>{% endif %}",
    "Olmo 3": (
        "{% if message.tool_calls %}<function_calls>\n"
        + PYTHON[: -len("{{ ', ' if not loop.last }}{% endfor %}")]
        + "{{ '\n' if not loop.last }}{% endfor %}{{ '\n' }}</function_calls>{% endif %}"
    ),
    "Gemma 3": "{% if message.tool_calls %}[" + PYTHON.replace(PYTHON_VALUE, "value | tojson") + "]{% endif %}",
    "Kimi K2": (
        "{% if message.tool_calls %}<|tool_calls_section_begin|>{% for call in message.tool_calls %}"
        "<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>{{ call.function.arguments | tojson }}"
        "<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}"
    ),
}
LOOP = (
    "{{% if tools %}}tools{{% endif %}}{{% for message in messages %}}<{{{{ message.role }}}}>{{{{ message.content }}}}"
    "{}<end>{{% endfor %}}{{% if add_generation_prompt %}}<assistant>{{% endif %}}"
)


MARKS = [
    *("<tool_call>", "</tool_call>", "<tool_call>\n{", '{"name": "look", "arguments": {', '"a": "b"}', "}", "{", "]"),
    *("[TOOL_CALLS]", "[", ", ", '{"name": "nobody", "arguments": {}}', '{"name": "look"}', '{"arguments": {}, "name"'),
    *("<think>", "</think>", "<response>", "</response>", " ", "\n\n", "Hello", ":", '"look"', '"', "\\", "ü", "; "),
    *("<function=look>", "<parameter=place>", "\n</parameter>", "</function>", "<|python_tag|>", "<|tool_call|>"),
    *("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant", "<|channel|>final<|message|>", "<|call|>"),
    *(" to=functions.look<|channel|>commentary json<|message|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    *("function<｜tool▁sep｜>look\n```json\n", "\n```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", '"parameters": {'),
    *(
        "look(",
        "look (place=",
        "days=3",
        "more=[1, {'a': None}]",
        "'",
        ", ",
        ")",
        "]",
        "[look(",
        "<|tool_call_start|>[",
    ),
    *("]<|tool_call_end|>", "<|tool_call_begin|>functions.look:0", "<|tool_call_argument_begin|>", "functions.", ":7"),
    *("<|tool_calls_section_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>", "look:1"),
]
NAMES = (*WITH_CALLS, "deepseek", "LFM2.5", "Gemma 3", "Kimi K2")


@cache
def every_format() -> list[AnswerFormat]:
    deep_seek = template("deepseek-ai-DeepSeek-R1-Distill-Llama-8B")

    def render(messages: Any, tools: Any, is_open: bool) -> str:
        return deep_seek.render(messages, tools, add_generation_prompt=is_open)

    derived = derive_format(render)
    assert derived is not None
    own = [answer_format(ChatTemplate(LOOP.format(WRITTEN[family]), ROLES)) for family in NAMES[len(WITH_CALLS) + 1 :]]
    return [*map(format_of, WITH_CALLS), AnswerFormat(tools=derived), *own]


@settings(max_examples=600, deadline=None)
@given(
    which=st.integers(0, len(NAMES) - 1),
    text=st.lists(st.sampled_from(MARKS) | ORDINARY, max_size=14).map("".join),
    cuts=CUTS,
    in_thought=st.booleans(),
)
def test_whatever_the_text_it_is_read_the_same_however_it_is_cut(
    which: int, text: str, cuts: list[int], in_thought: bool
) -> None:
    format_ = every_format()[which]
    whole = read(format_, text, [max(len(text), 1)], in_thought=in_thought)
    assert read(format_, text, cuts, in_thought=in_thought) == whole
    assert read(format_, text, [1], in_thought=in_thought) == whole


HERMES = ToolFormat(body=ObjectCall(), call_open="<tool_call>\n", call_close="\n</tool_call>", separator="\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", HERMES),
        ("Qwen-Qwen2.5-7B-Instruct", HERMES),
        ("Qwen-Qwen3-0.6B", HERMES),
        (
            "mistralai-Mistral-Nemo-Instruct-2407",
            ToolFormat(
                body=ObjectCall(after_arguments=', "id": "\ue000"}'),
                section_open="[TOOL_CALLS][",
                separator=", ",
                section_close="]",
                ids=IdForm.SHORT,
            ),
        ),
        (
            "Qwen3-Coder",
            ToolFormat(
                body=TaggedCall(">\n", "<parameter=", ">\n", "\n</parameter>\n"),
                call_open="<tool_call>\n<function=",
                call_close="</function>\n</tool_call>",
                separator="\n",
            ),
        ),
        (
            "meta-llama-Llama-3.1-8B-Instruct",
            ToolFormat(
                body=ObjectCall(after_name='", "parameters": ', arguments_key="parameters"),
                separator="; ",
                optional_open="<|python_tag|>",
                has_parallel_calls=False,
            ),
        ),
    ],
)
def test_what_is_derived(name: str, expected: ToolFormat) -> None:
    assert format_of(name).tools == expected


def test_deep_seek_is_derived_though_its_template_shows_no_tools() -> None:
    name = "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"
    assert format_of(name).tools is None
    assert every_format()[len(WITH_CALLS)].tools == ToolFormat(
        body=NamedCall("\n```json\n"),
        section_open="<｜tool▁calls▁begin｜>",
        call_open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        call_close="\n```<｜tool▁call▁end｜>",
        separator="\n",
        section_close="<｜tool▁calls▁end｜>",
    )


@pytest.mark.parametrize("family", WRITTEN)
@pytest.mark.parametrize("count", [1, 2])
def test_other_families_are_derived_too(family: str, count: int) -> None:
    own = ChatTemplate(LOOP.format(WRITTEN[family]), ROLES)
    format_ = answer_format(own)
    assert format_.tools is not None
    arguments = [{"place": "Köln, <b>", "days": 3}, {"days": -1, "more": {"a": [None, "}"]}}]
    calls = [
        {"id": f"abcdefgh{at}", "type": "function", "function": {"name": "look", "arguments": arguments[at]}}
        for at in range(count)
    ]
    text = own.render([{"role": "assistant", "content": "", "tool_calls": calls}], TOOLS, add_generation_prompt=False)
    text = text.removeprefix("tools<assistant>").removesuffix("<end>")
    before = "" if format_.tools.is_bare else "Well."
    for cuts in ([1], [4], [len(text)]):
        _, content, found = read(format_, f"{before} {text}", cuts)
        assert content == before
        assert [(tool, json.loads(each)) for tool, each in found] == [("look", each) for each in arguments[:count]]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("no call at all", "no call at all", []),
        ("Use <tool_call> tags", "Use <tool_call> tags", []),
        ('<tool_call>{"name": "look", "arguments": {"a": 1}}', "", [("look", '{"a": 1}')]),
        ('{"name": "look", "arguments": {}}', '{"name": "look", "arguments": {}}', []),  # not opened
        ('<tool_call>{"arguments": {"a": 1}, "name": "look"}</tool_call>', "", [("look", '{"a": 1}')]),
        ('<tool_call>{"name": "look"}</tool_call>after', "after", [("look", "{}")]),
        ('<tool_call>{"name": "look", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("look", '{"a": 1}')]),
        ('<tool_call>{"name": "look", "arguments": null}</tool_call>', "", [("look", "{}")]),
        ('A <tool_call>\n{"name": "look", "arguments": {"a": "b', "A", [("look", '{"a": "b')]),  # broken off
        ('<tool_call>\n{"name": "lo', '<tool_call>\n{"name": "lo', []),  # before its name is known
        ('<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', []),
        ('<tool_call>{"name": "a", "arguments": {}} <tool_call>{"name": "b", "arguments": {}}\n</tool_call>\n',
         "", [("a", "{}"), ("b", "{}")]),
    ],
)  # fmt: skip
def test_what_models_make_of_a_format(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    for cuts in ([1], [3], [len(text)]):
        assert read(AnswerFormat(tools=HERMES), text, cuts) == ("", content, calls)


def test_bare_objects_are_calls_only_at_the_beginning_and_of_known_tools() -> None:
    llama = format_of("meta-llama-Llama-3.1-8B-Instruct")
    call = '{"name": "look", "parameters": {"a": 1}}'
    assert read(llama, call, [1]) == ("", "", [("look", '{"a": 1}')])
    assert read(llama, f"<|python_tag|>{call}; {call}", [5])[2] == [("look", '{"a": 1}')] * 2
    for text in (f"Sure: {call}", call.replace("look", "other"), '{"place": 1}'):
        assert read(llama, text, [2]) == ("", text, [])


def test_tagged_values_take_the_schemas_types() -> None:
    coder = format_of("Qwen3-Coder")
    pairs = {"place": "5", "days": "5", "more": "True", "other": "[1]"}
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in pairs.items())
    _, _, calls = read(coder, f"<tool_call>\n<function=look>\n{body}</function>\n</tool_call>", [1])
    assert json.loads(calls[0][1]) == {"place": "5", "days": 5, "more": True, "other": [1]}


def test_nothing_is_held_back_without_need() -> None:
    reader = Reading(AnswerFormat(tools=HERMES), tools={"look": SCHEMA}).reader()
    assert reader is not None
    assert reader.push("Hello there") == ["Hello there"]
    assert reader.push(" <") == []
    assert reader.push("b>") == [" <b>"]
    deltas = [
        piece
        for part in ('<tool_call>{"name": "look", "arguments": {"pl', "ace", '": 1')
        for piece in reader.push(part)
    ]
    assert [each.arguments for each in deltas if isinstance(each, ToolCallDelta)] == ["", '{"pl', "ace", '": 1']


THINKING = "Qwen-Qwen3-0.6B"


@pytest.mark.parametrize(
    ("text", "in_thought", "thought", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("Hm, a < b </thi", True, "Hm, a < b </thi", ""),
        ("<think></think>Yes.\n", False, "", "Yes.\n"),
        ("Yes. <think>x</think>", False, "", "Yes. <think>x</think>"),
        ("<thin", False, "", "<thin"),
        (" \nYes.", False, "", " \nYes."),
        ('<think>a</think><tool_call>{"name": "x"}</tool_call>', False, "a", '<tool_call>{"name": "x"}</tool_call>'),
    ],
)
def test_thoughts(text: str, in_thought: bool, thought: str, content: str) -> None:
    for cuts in ([1], [2], [5], [len(text)]):
        assert read(format_of(THINKING), text, cuts, in_thought=in_thought, has_tools=False) == (thought, content, [])


def test_which_templates_think() -> None:
    marks = {name: format_of(name).reasoning for name in WITH_CALLS}
    assert {name for name, found in marks.items() if found is not None} == {
        "Qwen-Qwen3-0.6B",
        "ibm-granite-granite-3.3-2B-Instruct",
    }
    deep_seek = format_of("deepseek-ai-DeepSeek-R1-Distill-Llama-8B")
    assert deep_seek.reasoning is not None
    prompt = template("deepseek-ai-DeepSeek-R1-Distill-Llama-8B").render([{"role": "user", "content": "Hi"}])
    assert deep_seek.opens_thought(prompt)
    for switch in (True, False):
        question = [{"role": "user", "content": "a <think>"}]
        prompt = template(THINKING).render(question, template_kwargs={"enable_thinking": switch})
        assert not format_of(THINKING).opens_thought(prompt)


def test_granite_answers_between_marks() -> None:
    granite = format_of("ibm-granite-granite-3.3-2B-Instruct")
    text = "<think>Hm.</think><response>Yes </b></response>"
    for cuts in ([1], [4], [len(text)]):
        assert read(granite, text, cuts) == ("Hm.", "Yes </b>", [])
    assert read(granite, "a </response>", [1]) == ("", "a </response>", [])


def test_harmony_channels() -> None:
    harmony = format_of("openai-gpt-oss-120b")
    text = (
        "<|channel|>analysis<|message|>Hm < that.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I'll look.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"a": 1}<|call|>'
    )
    for cuts in ([1], [7], [len(text)]):
        assert read(harmony, text, cuts) == ("Hm < that.", "I'll look.", [("look", '{"a": 1}')])
    text = "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B\n\nC<|return|>"
    assert read(harmony, text, [1]) == ("A", "B\n\nC", [])
    assert read(harmony, "no header", [1]) == ("", "no header", [])


def test_functionary_channels() -> None:
    functionary = answer_format(ChatTemplate("{{ tools }}>>>all\n{{ messages[0].content }}", ROLES))
    assert read(functionary, 'all\nHi there.\n>>>look\n{"a": 1}\n>>>look\n{}', [1]) == (
        ("", "Hi there.", [("look", '{"a": 1}'), ("look", "{}")])
    )


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "retrieval"}], None, "tools[0]"),
        ([{"type": "custom", "function": {"name": "f"}}], None, "tools[0].type"),
        ([FUNCTION, FUNCTION], None, "tools"),
        ([{"function": {"name": "a b"}}], None, "tools[0].function.name"),
        ([{"function": {"name": "a", "parameters": [1]}}], None, "tools[0].function.parameters"),
        ([FUNCTION], "always", "tool_choice"),
        ([FUNCTION], {"type": "function", "function": {"name": "g"}}, "tool_choice"),
        ([FUNCTION], {"type": "allowed_tools"}, "tool_choice"),
        ([], "required", "tool_choice"),
    ],
)
def test_wrong_tools_are_refused(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_tools(tools, choice)
    assert refused.value.param == param


PYTHON_CALLS = ToolFormat(body=PythonCall(), section_open="[", separator=", ", section_close="]")
KIMI = ToolFormat(
    body=NamedCall(f":{ID_MARK}<|tool_call_argument_begin|>"),
    section_open="<|tool_calls_section_begin|>",
    call_open="<|tool_call_begin|>functions.",
    call_close="<|tool_call_end|>",
    section_close="<|tool_calls_section_end|>",
    ids=IdForm.NAMED,
)


def written_by(family: str) -> ToolFormat | None:
    return answer_format(ChatTemplate(LOOP.format(WRITTEN[family]), ROLES)).tools


def test_what_is_derived_of_templates_that_write_python_or_names_in_ids() -> None:
    assert written_by("Gemma 3") == PYTHON_CALLS
    marked = replace(PYTHON_CALLS, section_open="<|tool_call_start|>[", section_close="]<|tool_call_end|>")
    assert written_by("LFM2.5") == marked
    lines = replace(PYTHON_CALLS, section_open="<function_calls>\n", section_close="</function_calls>")
    assert written_by("Olmo 3") == replace(lines, separator="", call_close="\n")
    assert written_by("Kimi K2") == KIMI
    for value in ("value", "'\"' ~ value ~ '\"'"):  # vLLM's for Llama 3.2 and 4: no value is quoted, or all are
        source = WRITTEN["Gemma 3"].replace("value | tojson", value)
        assert answer_format(ChatTemplate(LOOP.format(source), ROLES)).tools == PYTHON_CALLS
    llama4 = ChatTemplate("<|header_start|>" + LOOP.format(WRITTEN["Gemma 3"]), ROLES)
    assert answer_format(llama4).tools == replace(PYTHON_CALLS, optional_open="<|python_start|>")
    for mark, expected in (("<|tool_list_start|>", marked), ("<|im_system|>tool_declare<|im_middle|>", KIMI)):
        own = ChatTemplate(mark + LOOP.format(""), ROLES)
        assert answer_format(own).tools == expected
        call = {
            "id": "a",
            "type": "function",
            "function": {"name": "look", "arguments": '{"place": "a\'b", "more": null}'},
        }
        text = own.render([{"role": "assistant", "content": "", "tool_calls": [call]}], add_generation_prompt=False)
        _, content, calls = read(AnswerFormat(tools=expected), text.partition("<assistant>")[2], [4])
        assert (content, json.loads(calls[0][1])) == ("<end>", {"place": "a'b", "more": None})


PYTHON_TEXTS = st.text(st.sampled_from("ab'\"\\,)]}:(n \n\täx漢🎉{[=/") | st.characters(codec="utf-8"), max_size=10)
PYTHON_VALUES = st.recursive(
    PYTHON_TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PYTHON_TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    calls=st.lists(
        st.dictionaries(st.from_regex(r"[a-zA-Z_]\w{0,5}", fullmatch=True), PYTHON_VALUES, max_size=4),
        min_size=1,
        max_size=3,
    ),
    cuts=CUTS,
    write=st.sampled_from([repr, json.dumps]),
)
def test_any_literal_of_python_or_json_is_read(calls: list[dict[str, Any]], cuts: list[int], write: Any) -> None:
    written = (f"look({', '.join(f'{key}={write(value)}' for key, value in each.items())})" for each in calls)
    text = f"[{', '.join(written)}]"
    found = read(AnswerFormat(tools=PYTHON_CALLS), text, cuts)
    assert [json.loads(arguments) for _, arguments in found[2]] == calls
    assert found[:2] == ("", "")
    assert read(AnswerFormat(tools=PYTHON_CALLS), text, [len(text)]) == found


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("a='it's', b=1", {"a": "it's", "b": 1}),
        (r"""a=r"\d+", b='\x41\u00e4\N', c="\101\0" """, {"a": r"\d+", "b": "Aä\\N", "c": "A\0"}),
        ("a='''x'y\"z''', b=\"\"\"\"\"\"", {"a": "x'y\"z", "b": ""}),
        (r'a="\ud83c\udf89\/"', {"a": "🎉/"}),
        ("a=(1, 2,), b={1: None, 'x': {True,}}", {"a": [1, 2], "b": {"1": None, "x": {"true": None}}}),
        (
            "a={(1, 'b'): 2, ((3,), \"x\\n\"): [5], [6]: {}}, b={{1}}",
            {"a": {"(1, 'b')": 2, '((3,), "x\\n")': [5], "[6]": {}}, "b": {"{1}": None}},
        ),
        ("a=0x1F, b=1_000, c=-.5, d=1e3, e=true", {"a": 31, "b": 1000, "c": -0.5, "d": 1e3, "e": True}),
        ("a=New York, b=today + 1, c=nan", {"a": "New York", "b": "today + 1", "c": "nan"}),
        ("a=, b=2", {"a": None, "b": 2}),
    ],
)
def test_what_models_make_of_python(text: str, arguments: dict[str, Any]) -> None:
    for cuts in ([1], [3], [200]):
        _, content, calls = read(AnswerFormat(tools=PYTHON_CALLS), f"[look({text})]", cuts)
        assert [(name, json.loads(found)) for name, found in calls] == [("look", arguments)]
        assert content == ""


def test_python_calls_are_of_known_tools_and_at_the_beginning() -> None:
    format_ = AnswerFormat(tools=PYTHON_CALLS)
    for text in ("[other(a=1)]", "See [look(a=1)]", "[1, 2]", "[look]", "look(a=1)"):
        assert read(format_, text, [2]) == ("", text, [])
    assert read(format_, "[look(3)]", [1])[2] == [("look", "{}")], "an argument without a name is none"


def test_ids_have_the_tools_name_where_the_template_writes_no_other() -> None:
    own = ChatTemplate(LOOP.format("{{ message.tool_call_id }}" + WRITTEN["Kimi K2"]), ROLES)

    def call(name: str, id_: str | None) -> dict[str, Any]:
        return {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}

    text = own.render(
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call("look", "call_1"), call("see", "functions.see:9")],
            },
            {"role": "tool", "tool_call_id": "functions.see:9", "content": "A"},
            {"role": "tool", "tool_call_id": "call_1", "content": "B"},
            {"role": "assistant", "content": "", "tool_calls": [call("look", None)]},
        ]
    )
    assert text.count("functions.look:0") == text.count("functions.see:9") == 2
    assert "<|tool_call_begin|>functions.look:2<|tool_call_argument_begin|>{}" in text
    assert "call_1" not in text
    call_text = "<|tool_call_begin|>functions.{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    section = "".join(map(call_text.format, ("look:4", "a:b:5", "look:5")))
    reader = Reading(AnswerFormat(tools=KIMI), tools={}).reader()
    assert reader is not None
    pieces = reader.push(f"<|tool_calls_section_begin|>{section}<|tool_calls_section_end|>")
    ids = [piece.id for piece in pieces if isinstance(piece, ToolCallDelta) and piece.id]
    assert ids == ["functions.look:4", "functions.a:b:5", "functions.look:6"], "never the same twice"
