"""Bodies of Anthropic's messages → what is run: every field used, known to change nothing, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.anthropic.errors import render_failure
from headrace.server.dialects.anthropic.parse import parse_count, parse_messages
from headrace.server.dialects.anthropic.thoughts import hide
from headrace.server.dialects.anthropic.unsupported import BETAS
from headrace.server.dialects.base import Call, ChatPrompt, Incoming, Served
from headrace.server.errors import describe

USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [USER]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"name": "look", "input_schema": SCHEMA}
SERVED = Served(
    name="m",
    version="1",
    fingerprint="fp",
    created=0,
    max_context=500,
    defaults=SamplingParams(temperature=0.25, top_k=7),
    token_text=str,
    token_bytes=lambda _: None,
)


def incoming(body: Any, headers: dict[str, str] | None = None, **query: str) -> Incoming:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Incoming(method="POST", path="/v1/messages", headers=headers or {}, query=query, body=data)


def parse(**fields: Any) -> Call:
    return parse_messages(incoming(BODY | fields), SERVED)


def prompt(**fields: Any) -> ChatPrompt:
    [found] = parse(**fields).prompts
    assert isinstance(found, ChatPrompt)
    return found


def messages(*given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return list(prompt(messages=list(given), **fields).messages)


def test_defaults_are_the_models() -> None:
    call = parse()
    assert (call.model, call.stream, call.max_context) == ("m", False, 500)
    assert (call.params.temperature, call.params.top_k, call.params.max_tokens) == (0.25, 7, 100)
    assert call.params.thinking_token_budget is None
    found = prompt()
    assert found.messages == [{"role": "user", "content": "hi"}]
    assert (found.add_generation_prompt, found.continue_final_message) == (True, False)
    assert found.reasoning_effort is found.tool_choice is None


def test_sampling() -> None:
    params = parse(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["a", "b"], max_tokens=0).params
    assert (params.temperature, params.top_p, params.top_k, params.stop_strings) == (0.5, 0.9, 3, ("a", "b"))
    assert params.max_tokens == 1
    assert parse(stream=True).stream


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, None, (None, None)),
        (None, "low", ("low", None)),
        ({"type": "enabled", "budget_tokens": 50}, None, ("auto", 50)),
        ({"type": "enabled", "budget_tokens": 50, "display": "summarized"}, "max", ("max", 50)),
        ({"type": "adaptive"}, None, ("auto", None)),
        ({"type": "adaptive", "display": None}, "high", ("high", None)),
        ({"type": "disabled"}, None, ("none", None)),
    ],
)
def test_thinking(thinking: Any, effort: str | None, expected: tuple[Any, Any]) -> None:
    fields = {"thinking": thinking, "output_config": {"effort": effort}}
    assert (prompt(**fields).reasoning_effort, parse(**fields).params.thinking_token_budget) == expected


def test_structured_output_by_both_names() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        structured = parse(**fields).params.structured
        assert structured is not None
        assert json.loads(structured.schema or "") == SCHEMA
    assert parse(output_config={"format": None, "effort": None}, output_format=None).params.structured is None


def test_tools_and_choices() -> None:
    tool = {**TOOL, "description": "Look", "strict": False, "type": "custom", "cache_control": {"type": "ephemeral"}}
    tool |= {"eager_input_streaming": True, "allowed_callers": ["direct"], "input_examples": [], "defer_loading": False}
    function = {"name": "look", "description": "Look", "parameters": SCHEMA, "strict": False}
    found = prompt(tools=[tool])
    assert found.tools == [{"type": "function", "function": function}]
    assert found.parallel_tool_calls
    for kind, meant in (("auto", "auto"), ("any", "required"), ("none", "none")):
        assert prompt(tools=[TOOL], tool_choice={"type": kind}).tool_choice == meant
    chosen = prompt(tools=[TOOL], tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True})
    assert chosen.tool_choice == {"type": "function", "function": {"name": "look"}}
    assert not chosen.parallel_tool_calls


def test_system_and_parts() -> None:
    cached = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
    text = [{"type": "text", "text": "a", "cache_control": cached}, {"type": "text", "text": "b", "citations": None}]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages(USER, system="be")[0] == {"role": "system", "content": "be"}
    assert messages(USER, system=text)[0] == {"role": "system", "content": parts}
    assert messages({"role": "user", "content": text}, cache_control=cached) == [{"role": "user", "content": parts}]
    assert messages({"role": "user", "content": text[:1]}) == [{"role": "user", "content": "a"}]
    now = {"role": "system", "content": "now"}
    assert messages(USER, now, now, USER)[1:3] == [now, now]


def test_turns_of_one_role_are_one() -> None:
    [read] = messages(USER, {"role": "user", "content": [{"type": "text", "text": "there"}]})
    assert read == {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]}


def test_calls_results_and_thoughts() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "thinking", "thinking": "", "signature": hide("secretly ü")}
    foreign = {"type": "thinking", "thinking": "", "signature": "EqQBCgIYAhIM"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}, "caller": {"type": "direct"}}
    said = {"type": "text", "text": "let me see"}
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "seen"},
        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "no"}], "is_error": True},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": False},
        {"type": "text", "text": "well?"},
    ]
    turn = {"role": "assistant", "content": [thought, redacted, hidden, foreign, said, call, {**call, "id": "t2"}]}
    read = messages(USER, turn, {"role": "user", "content": results})
    calls = [{"id": i, "type": "function", "function": {"name": "look", "arguments": {"a": 1}}} for i in ("t1", "t2")]
    assert read[1] == {
        "role": "assistant",
        "content": "let me see",
        "reasoning_content": "hm\n\nsecretly ü",
        "tool_calls": calls,
    }
    assert read[2:] == [
        {"role": "tool", "tool_call_id": "t1", "name": "look", "content": "seen"},
        {"role": "tool", "tool_call_id": "t2", "name": "look", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "t2", "name": "look", "content": ""},
        {"role": "user", "content": "well?"},
    ]
    assert messages(USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": results[:1]})[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": calls[:1],
    }


def test_the_last_message_of_the_assistant_is_gone_on_with() -> None:
    found = prompt(messages=[USER, {"role": "assistant", "content": "Once"}])
    assert (found.add_generation_prompt, found.continue_final_message) == (False, True)
    assert found.messages[-1] == {"role": "assistant", "content": "Once"}


def test_what_changes_nothing_is_taken() -> None:
    fields = {"metadata": {"user_id": "u"}, "service_tier": "standard_only", "mcp_servers": [], "container": None}
    fields |= {"speed": "standard", "inference_geo": None, "context_management": {"edits": []}, "diagnostics": None}
    assert parse(**fields)
    for keep in ("all", {"type": "all"}):  # as Claude Code sends it
        assert parse(context_management={"edits": [{"type": "clear_thinking_20251015", "keep": keep}]})
    assert parse(
        **dict.fromkeys(("stream", "temperature", "thinking", "tools", "system", "stop_sequences", "metadata"))
    )
    for version in ("2023-06-01", "2026-10-21"):
        headers = {"anthropic-version": version, "anthropic-beta": ", ".join(sorted(BETAS))}
        assert parse_messages(incoming(BODY, headers, beta="true"), SERVED)
        assert parse_count(incoming({"model": "m", "messages": [USER]}, headers), SERVED).model == "m"


def block(kind: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [{"type": kind, **fields}]}]}


CALL = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
IMAGE_RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}
DAMAGED = {"thinking": "", "signature": "headrace:%"}
WEB_SEARCH = {"type": "web_search_20260318", "name": "web_search"}
FORM = {"type": "json_schema", "schema": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "expected int"),
        ({"max_tokens": -1}, "max_tokens", "0 or more"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "user, assistant or system"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty"),
        ({"messages": [USER, {"role": "user", "content": "x", "name": "y"}]}, "messages[1].name", "not a known"),
        (block("image", source={}), "messages[0].content[0].type", "'image'"),
        (block("document", source={}), "messages[0].content[0].type", "'document'"),
        (block("container_upload", file_id="f"), "messages[0].content[0].type", "'container_upload'"),
        (block("text", text="x", citations=[{}]), "messages[0].content[0].citations", "not supported"),
        (block("text", text="x", bold=True), "messages[0].content[0].bold", "not a known"),
        (block("thinking", thinking="x"), "messages[0].content[0]", "role assistant"),
        (block("tool_use", id="t", name="n", input={}), "messages[0].content[0]", "role assistant"),
        (block("tool_result", tool_use_id="t"), "messages[0].content[0].tool_use_id", "no tool_use before"),
        (block("tool_result", "assistant", tool_use_id="t"), "messages[0].content[0]", "role user"),
        (
            {"messages": [{"role": "assistant", "content": [CALL]}, {"role": "user", "content": [IMAGE_RESULT]}]},
            "messages[1].content[0].content[0].type",
            "'image'",
        ),
        (block("thinking", "assistant", **DAMAGED), "messages[0].content[0].signature", "damaged"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "messages[1].content", "tool_result"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}], "output_format": FORM}, "messages[1]", "form"),
        ({"system": [{"type": "image"}]}, "system[0].type", "'image'"),
        ({"temperature": 1.1}, "temperature", "from 0 to 1"),
        ({"temperature": -0.1}, "temperature", "from 0 to 1"),
        ({"top_p": 1.5}, "top_p", "at most 1"),
        ({"top_k": -5}, "top_k", "count"),
        ({"stop_sequences": [""]}, "stop_sequences", "non-empty"),
        ({"stop_sequences": "x"}, "stop_sequences", "array"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "required"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens", "less than max_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens", "1 or more"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type", "enabled, adaptive or disabled"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "output_config.effort", "disabled"),
        ({"output_config": {"effort": "some"}}, "output_config.effort", "some"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", "json_schema"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget", "null"),
        ({"output_config": {"format": FORM}, "output_format": FORM}, "output_format", "older name"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema", "required"),
        ({"tools": [TOOL, WEB_SEARCH]}, "tools[1].type", "web_search_20260318"),
        ({"tools": [{**TOOL, "colour": 1}]}, "tools[0].colour", "not a known"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "not supported"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples", "not supported"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers[0]", "enum"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type", "auto, any, tool or none"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "required"),
        ({"cache_control": {"type": "forever"}}, "cache_control.type", "forever"),
        ({"service_tier": "priority"}, "service_tier", "priority"),
        ({"metadata": {"trace": "x"}}, "metadata.trace", "not a known"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "tools that the client calls"),
        ({"container": "c"}, "container", "no code"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management", "as it is sent"),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": {"value": 1}}]}},
            "context_management",
            "as it is sent",
        ),
        ({"speed": "fast"}, "speed", "not supported"),
        ({"diagnostics": {"previous_message_id": "m"}}, "diagnostics", "not supported"),
        ({"fallbacks": [{"model": "x"}]}, "fallbacks", "not supported"),
        ({"seed": 1}, "seed", "not a known"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_is_refused_names_its_field(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        parse(**fields)
    assert refused.value.param == param
    message = json.loads(render_failure(describe(refused.value)))["error"]["message"]
    assert param in message


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "\xff"}', b'"' + b"[" * 100_000, b"[" * 100_000])
def test_what_is_no_request(body: bytes) -> None:
    for path in (parse_messages, parse_count):
        with pytest.raises(RequestError):
            path(incoming(body), SERVED)


def test_counting_takes_no_sampling() -> None:
    for name in ("max_tokens", "temperature", "stream"):
        with pytest.raises(RequestError, match=f"{name} is not a known parameter"):
            parse_count(incoming({"model": "m", "messages": [USER], name: 1}), SERVED)


def test_heads() -> None:
    with pytest.raises(RequestError, match="expected 2026-10-21 or 2023-06-01"):
        parse_messages(incoming(BODY, {"anthropic-version": "2023-01-01"}), SERVED)
    with pytest.raises(UnsupportedParameter, match="'new-2027-01-01'"):
        parse_messages(incoming(BODY, {"anthropic-beta": "pdfs-2024-09-25,new-2027-01-01"}), SERVED)
    with pytest.raises(RequestError, match="colour is not a known query parameter; leave it out"):
        parse_count(incoming({}, colour="red"), SERVED)


RICH = BODY | {
    "system": [{"type": "text", "text": "be"}],
    "messages": [
        USER,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "a", "signature": "b"}, CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "look"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "output_config": {"format": FORM, "effort": "low"},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def with_value(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = with_value(value[place[0]], place[1:], new)
    return copy


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(RICH)), VALUES)
def test_whatever_stands_in_a_field_is_a_call_or_a_named_mistake(place: tuple[Any, ...], value: Any) -> None:
    assert isinstance(parse(**RICH), Call)
    body = json.dumps(with_value(RICH, place, value)).encode()
    try:
        assert isinstance(parse_messages(incoming(body), SERVED), Call)
    except RequestError as error:
        render_failure(describe(error))
