"""Parsing alone: what is taken, what is refused, and that nothing else than RequestError comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import ChatPrompt
from headrace.server.dialects.openai import parse_chat, parse_completion
from headrace.structured_output import StructuredOutput
from headrace.text.infill import Infill

DEFAULTS = SamplingParams(temperature=0.5, top_p=0.9, repetition_penalty=1.1, max_tokens=7)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def chat(**fields: Any) -> Any:
    return parse_chat(json.dumps(CHAT | fields).encode(), DEFAULTS)


def completion(**fields: Any) -> Any:
    return parse_completion(json.dumps(TEXT | fields).encode(), DEFAULTS)


def test_defaults() -> None:
    call = chat()
    assert call.params == SamplingParams(temperature=0.5, top_p=0.9, repetition_penalty=1.1, max_tokens=None)
    assert (call.model, call.stream) == ("m", False)
    assert completion().params.max_tokens == 16
    assert completion(max_tokens=3, temperature=None).params.temperature == 0.5
    assert chat(max_tokens=5).params.max_tokens == chat(max_completion_tokens=5).params.max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=5).params.max_tokens == 5


def test_messages_become_what_templates_read() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
        {"role": "assistant", "content": "ok", "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "user", "content": ""},
    ]
    [prompt] = chat(messages=messages).prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": ""},
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_prompt_forms(prompt: object, expected: object) -> None:
    assert [each.prompt for each in completion(prompt=prompt).prompts] == expected


NEUTRAL_CHAT = {
    "user": "u",
    "metadata": {"a": "b"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "implicit"},
    "store": False,
    "service_tier": "auto",
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "modalities": ["text"],
    "audio": None,
    "prediction": None,
    "web_search_options": None,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "moderation": None,
    "stop": [],
    "logprobs": False,
    "top_logprobs": 0,
    "stream": False,
    "stream_options": None,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "bad_words": [],
    "priority": 0,
    "guided_json": None,
}


@pytest.mark.parametrize("name", NEUTRAL_CHAT)
def test_what_changes_nothing_is_taken(name: str) -> None:
    assert chat(**{name: NEUTRAL_CHAT[name]}).params == chat().params
    assert chat(**{name: None}).params == chat().params


REFUSED_CHAT = [
    ("audio", {"voice": "ash", "format": "wav"}),
    ("modalities", ["text", "audio"]),
    ("web_search_options", {}),
    ("verbosity", "low"),
    ("service_tier", "flex"),
    ("store", True),
    ("store", 0),
    ("moderation", {"model": "m"}),
    ("prompt_cache_options", {"ttl": "30m"}),
    ("guided_decoding_backend", "outlines"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED_CHAT)
def test_what_is_not_supported_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter, match=f"^{name} ") as refused:
        chat(**{name: value})
    assert refused.value.param == name


@pytest.mark.parametrize(("name", "value"), [("suffix", "x"), ("best_of", 3), ("prompt_embeds", "x"), ("store", True)])
def test_what_completions_do_not_support(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        completion(**{name: value})
    assert refused.value.param == name
    assert completion(suffix="", best_of=2, n=2)


def test_a_suffix_is_for_models_that_fill_in_the_middle() -> None:
    def prompts(**fields: object) -> list[object]:
        call = parse_completion(json.dumps(TEXT | fields).encode(), DEFAULTS, Infill(7, 8, 9))
        return [prompt.prompt for prompt in call.prompts]

    assert prompts(prompt=["a", "b"], suffix="z") == [["", 7, "a", 8, "z", 9], ["", 7, "b", 8, "z", 9]]
    assert prompts(prompt="a", suffix="") == prompts(prompt="a") == ["a"]
    for wrong in ({"prompt": [1, 2]}, {"prompt": "a", "echo": True}):
        with pytest.raises(RequestError) as error:
            prompts(suffix="z", **wrong)
        assert error.value.param == "suffix"


WRONG_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "nmae": "b"}]}, "messages[0].nmae"),
    ({"messages": [{"role": "narrator", "content": "a", "name": "f"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"tools": [{"type": "function", "function": {"name": "f", "params": {}}}]}, "tools[0].function.params"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [TOOL]}]},
        "messages[0].tool_calls[0].function.parameters",
    ),
    ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]}, "messages[0].refusal"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1.0}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 5, "max_tokens": 6}, "max_completion_tokens"),
    ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
    ({"stop": [""]}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"seed": 2**70}, "seed"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "a"}}, "logit_bias[...]"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -2}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
    ({"metadata": {"a": "b"}, "chat_template_kwargs": {"a": 1}, "seed": 1.5}, "seed"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"prompt_logprobs": -2}, "prompt_logprobs"),
    ({"typical_p": 0}, "typical_p"),
    ({"xtc_probability": 1.1}, "xtc_probability"),
    ({"dry_base": 0.5}, "dry_base"),
    ({"dry_sequence_breakers": "x"}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers"),
    ({"mirostat": 1}, "mirostat"),
    ({"dynatemp_range": -1}, "dynatemp_range"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
    ({"bad_words": [""]}, "bad_words"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"logprob_token_ids": [5]}, "logprob_token_ids"),
    ({"logprob_token_ids": [-1], "logprobs": True}, "logprob_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncation_side": "left"}, "truncation_side"),
    ({"truncate_prompt_tokens": 1, "truncation_side": "up"}, "truncation_side"),
    ({"stream_interval": 2}, "stream_interval"),
    ({"stream_interval": 0, "stream": True}, "stream_interval"),
    ({"priority": False}, "priority"),
    ({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
    ({"documents": ["a"]}, "documents[0]"),
    ({"chat_template": 5}, "chat_template"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    ({"temprature": 1}, "temprature"),
    ({"prompt": "a"}, "prompt"),
    ({"best_of": 1}, "best_of"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_CHAT, ids=lambda value: str(value)[:50])
def test_a_mistake_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        chat(**fields)
    assert refused.value.param == param
    assert "\n" not in str(refused.value)


WRONG_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [1, [2]]}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": ["a", True]}, "prompt[1]"),
    ({"prompt": [["a"]]}, "prompt[0][0]"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": -2}, "logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"messages": []}, "messages"),
    ({"max_completion_tokens": 3}, "max_completion_tokens"),
    ({"echo": 1}, "echo"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_TEXT, ids=lambda value: str(value)[:50])
def test_a_mistake_in_a_completion_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        completion(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"model": NaN}',
        b'{"model": "\xff"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"model": "\\ud800", "prompt": "a"}',
        b'{"model": "m", "prompt": "\\udc00"}',
        b'{"model": "m", "prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "m", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "m", "prompt": "a", "temperature": 1e999}',
        b'{"model": "m", "prompt": "a", "temperature": ' + b"9" * 400 + b"}",
        b'{"model": "m", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "prompt": "a", "logit_bias": {"' + b"9" * 5000 + b'": 1}}',
        '{"model": "m", "prompt": "a", "logit_bias": {"٣": 1}}'.encode(),
        json.dumps(TEXT).encode("utf-16"),
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_request(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        with pytest.raises(RequestError):
            parse(body, DEFAULTS)


def test_required_and_unknown_fields_say_so() -> None:
    with pytest.raises(RequestError, match=r"^messages is required$"):
        parse_chat(b'{"model": "m"}', DEFAULTS)
    with pytest.raises(RequestError, match=r"^tools is not a known parameter; it is for /v1/chat/completions$"):
        completion(tools=[])
    with pytest.raises(RequestError, match=r"^thinking_token_budget is not supported here; leave it out: only chats"):
        completion(thinking_token_budget=5)
    with pytest.raises(RequestError, match=r"^temprature is not a known parameter; check its spelling"):
        chat(temprature=1)
    with pytest.raises(RequestError, match=r"^max_tokens: expected int or null, got str$"):
        chat(max_tokens="5")
    with pytest.raises(UnsupportedParameter, match="expected system, developer, user, assistant, tool or function"):
        chat(messages=[{"role": "narrator", "content": "a", "name": "f"}])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
NAMES = sorted({*NEUTRAL_CHAT, *(name for fields, _ in WRONG_CHAT + WRONG_TEXT for name in fields), "echo", "top_k"})


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), JSON | st.integers(-2, 30), max_size=4), st.booleans())
def test_any_json_is_a_call_or_a_request_error(fields: dict[str, Any], is_chat: bool) -> None:
    body = json.dumps((CHAT if is_chat else TEXT) | fields).encode()
    try:
        call = (parse_chat if is_chat else parse_completion)(body, DEFAULTS)
    except RequestError as error:
        str(error).encode()
    else:
        assert call.prompts


@settings(max_examples=200, deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_call_or_a_request_error(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        with pytest.raises(RequestError):
            parse(body, DEFAULTS)


def test_functions_are_tools_in_older_words() -> None:
    function = {"name": "look", "description": "Look", "parameters": {"type": "object"}}
    for asked, choice in ((None, None), ("auto", "auto"), ("none", "none"), ({"name": "look"}, None)):
        (older,) = chat(functions=[function], function_call=asked).prompts
        named = {"type": "function", "function": {"name": "look"}} if isinstance(asked, dict) else choice
        newer = chat(tools=[{"function": function}], tool_choice=named, parallel_tool_calls=False)
        assert older == newer.prompts[0]
    messages = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "3 degrees"},
    ]
    called = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert chat(messages=messages).prompts[0].messages == [
        messages[0],
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "name": "look", "content": "3 degrees", "tool_call_id": "call00001"},
    ]
    assert chat(messages=[*messages[:2], {**messages[2], "content": None}]).prompts[0].messages[2]["content"] == ""


FUNCTION = {"name": "look"}
CALLED = {"name": "look", "arguments": "{}"}
BOTH = {"role": "assistant", "tool_calls": [{"id": "a", "function": CALLED}], "function_call": CALLED}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [FUNCTION], "tools": []}, "functions"),
        ({"functions": [FUNCTION], "parallel_tool_calls": True}, "functions"),
        ({"function_call": "auto", "tool_choice": "auto"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"name": "see"}}, "function_call"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"function": FUNCTION}}, "function_call"),
        ({"function_call": {"name": "look"}}, "function_call"),
        ({"messages": [{"role": "function", "name": "look", "content": "x"}]}, "messages[0]"),
        ({"messages": [BOTH]}, "messages[0].function_call"),
        ({"tools": [{"function": FUNCTION, "custom": {}}]}, "tools[0].custom"),
        ({"response_format": {"type": "structural_tag", "tags": []}}, "response_format.tags"),
    ],
)  # fmt: skip
def test_functions_that_make_no_sense(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        chat(**fields)
    assert refused.value.param == param


def test_older_names_of_structures() -> None:
    for name, value in {"json": {"type": "object"}, "regex": "a", "choice": ["a"], "grammar": 'start: "a"'}.items():
        older, newer = chat(**{f"guided_{name}": value}), chat(structured_outputs={name: value})
        assert older.params == newer.params
        assert older.param_names["structured"] == f"guided_{name}"
    spaced = {"guided_json": "{}", "guided_whitespace_pattern": " ?"}
    newer = chat(structured_outputs={"json": "{}", "whitespace_pattern": " ?"})
    assert chat(**spaced).params == newer.params
    for fields, param in (
        ({"guided_json": {}, "guided_regex": "a"}, "guided_json"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ):
        with pytest.raises(RequestError) as refused:
            chat(**fields)
        assert refused.value.param == param


def test_a_prediction_is_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat().prediction is None
    for content, text in (("x\ny", "x\ny"), (parts, "a\nb"), ("", "")):
        assert chat(prediction={"type": "content", "content": content}).prediction == text
    for wrong in ({"type": "content"}, {"content": "x"}, {"type": "diff", "content": "x"}, "x"):
        with pytest.raises(RequestError) as refused:
            chat(prediction=wrong)
        assert (refused.value.param or "").startswith("prediction")


@pytest.mark.parametrize(
    ("sent", "ours", "value"),
    [
        ({"repeat_penalty": 1.3}, "repetition_penalty", 1.3),
        ({"repeat_last_n": 64}, "penalty_last_n", 64),
        ({"typ_p": 0.5, "typical_p": 0.5}, "typical_p", 0.5),
        ({"json_schema": {"type": "string"}}, "structured", StructuredOutput(json={"type": "string"})),
        ({"grammar": 'root ::= "a"'}, "structured", StructuredOutput(grammar='root ::= "a"')),
        ({"grammar": ""}, "structured", None),
    ],
)
def test_llama_servers_names(sent: dict, ours: str, value: object) -> None:
    for call in (chat(**sent), completion(**sent)):
        assert getattr(call.params, ours) == value


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"repeat_penalty": 1.3, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"repeat_penalty": -1}, "repeat_penalty"),
        ({"repetition_penalty": -1}, "repetition_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"repeat_last_n": 8, "dry_multiplier": 1.0}, "repeat_last_n"),
        ({"typ_p": 7}, "typ_p"),
        ({"grammar": "x", "json_schema": {}}, "json_schema"),
        ({"n_predict": 4}, "n_predict"),
        ({"samplers": ["top_k"]}, "samplers"),
        ({"min_keep": 2}, "min_keep"),
    ],
)
def test_llama_servers_names_in_errors(sent: dict, param: str) -> None:
    for parse in (chat, completion):
        with pytest.raises(RequestError, match=param) as refused:
            parse(**sent)
        assert refused.value.param == param


def test_a_prompt_that_is_not_cached_has_a_salt_of_its_own() -> None:
    salts = {chat(cache_prompt=False, cache_salt="mine").cache_salt for _ in range(2)}
    assert len(salts - {"mine", None}) == 2
    assert chat(cache_prompt=True).cache_salt is None
