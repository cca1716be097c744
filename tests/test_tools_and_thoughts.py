"""Tool calls and thoughts of a random model at a high temperature, through the engine, in Python and over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import tokenizers
from server.fake_llm import serving
from tiny_models import make_tiny

from headrace import LLM, AsyncLLM, EngineConfig, SamplingParams
from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.byte_level import character_to_byte

SPECIAL = ("<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>")
ADDED = ("<think>", "</think>", "\n\n")
NAMES = "Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "Qwen-Qwen2.5-7B-Instruct"
MESSAGES = [{"role": "user", "content": "How is it there?"}]
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 0}},
    "required": ["place"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Look", "parameters": SCHEMA}}
    for name in ("look", "get_weather")
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
HOT = {"temperature": 1.5, "max_tokens": 150}


def save_tokenizer(folder: Path) -> int:
    characters = {byte: character for character, byte in character_to_byte().items()}
    vocabulary = {characters[byte]: byte for byte in range(256)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens(list(ADDED))
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(backend.get_vocab_size())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    size = save_tokenizer(folder)
    return make_tiny(
        "llama", folder, vocab_size=size, eos_token_id=256, bos_token_id=None, max_position_embeddings=4096
    )


@pytest.fixture(scope="module")
def templates(shared: Path) -> Path:
    return shared / "data/chat_templates"


@pytest.fixture(scope="module")
def llms(folder: Path, templates: Path) -> dict[str, LLM]:
    config = EngineConfig(kv_memory=16 * 2**20, threads=1)
    return {name: LLM(folder, config, chat_template=templates / f"{name}.jinja") for name in NAMES}


@pytest.fixture(scope="module")
def thinker(llms: dict[str, LLM]) -> LLM:
    return llms[NAMES[0]]


def params(seed: int = 0, **more: Any) -> SamplingParams:
    return SamplingParams(**{"seed": seed, **HOT, **more})


def check(calls: Any) -> None:
    for call in calls:
        assert call.name in ("look", "get_weather")
        jsonschema.validate(json.loads(call.arguments), SCHEMA)


def test_required_and_named_calls_are_valid_at_any_temperature(llms: dict[str, LLM]) -> None:
    for name in (NAMES[0], NAMES[2]):
        for seed in range(6):
            output = llms[name].chat(MESSAGES, params(seed), tools=TOOLS, tool_choice="required")[0].outputs[0]
            assert output.finish_reason == "stop"
            assert output.tool_calls
            assert output.text == ""
            check(output.tool_calls)
        output = (
            llms[name].chat(MESSAGES, params(), tools=TOOLS, tool_choice=NAMED, parallel_tool_calls=False)[0].outputs[0]
        )
        assert [call.name for call in output.tool_calls] == ["get_weather"]


def test_a_call_that_is_opened_is_valid(llms: dict[str, LLM]) -> None:
    plain = llms[NAMES[2]]
    assert plain.tokenizer is not None
    opens = {plain.tokenizer.special_token_ids["<tool_call>"]: 12.0}
    num_calls = 0
    for seed in range(6):
        output = plain.chat(MESSAGES, params(seed, logit_bias=opens), tools=TOOLS)[0].outputs[0]
        check(output.tool_calls)
        num_calls += len(output.tool_calls)
        none = plain.chat(MESSAGES, params(seed, logit_bias=opens), tools=TOOLS, tool_choice="none")[0].outputs[0]
        assert none.tool_calls == []
        assert "<tool_call>" not in none.text
    assert num_calls > 3


def test_text_that_is_cut_off_says_so(llms: dict[str, LLM]) -> None:
    bans = {256: -100.0}
    output = llms[NAMES[2]].chat(MESSAGES, params(max_tokens=9, logit_bias=bans), tools=TOOLS)[0].outputs[0]
    assert (output.finish_reason, len(output.token_ids)) == ("length", 9)


def test_a_thought_comes_before_the_grammar(llms: dict[str, LLM]) -> None:
    always_thinks = llms[NAMES[1]]
    assert always_thinks.tokenizer is not None
    (end,) = always_thinks.tokenizer.encode("</think>", add_special_tokens=False)
    structured = StructuredOutput(json=SCHEMA)
    for seed in range(4):
        output = always_thinks.chat(MESSAGES, params(seed, structured=structured, logit_bias={end: 4.0}))[0].outputs[0]
        assert output.finish_reason == "stop"
        assert output.reasoning
        jsonschema.validate(json.loads(output.text), SCHEMA)
        assert output.num_reasoning_tokens <= output.token_ids.index(end) + 1


def test_a_thought_that_would_not_end_is_closed_in_time(llms: dict[str, LLM]) -> None:
    for name, tools in ((NAMES[1], None), (NAMES[0], TOOLS)):
        llm = llms[name]
        assert llm.tokenizer is not None
        bans = {llm.tokenizer.encode("</think>", add_special_tokens=False)[0]: -100.0}
        bans |= {llm.tokenizer.encode("<think>", add_special_tokens=False)[0]: 50.0} if tools else {}
        asked: dict[str, Any] = {"tools": tools, "tool_choice": "required" if tools else None}
        structured = None if tools else StructuredOutput(json=SCHEMA)
        output = llm.chat(MESSAGES, params(1, structured=structured, logit_bias=bans), **asked)[0].outputs[0]
        assert output.finish_reason == "stop"
        assert len(output.token_ids) <= 150
        assert output.reasoning
        if tools:
            check(output.tool_calls)
            assert output.tool_calls
        else:
            jsonschema.validate(json.loads(output.text), SCHEMA)


def test_the_tokens_that_are_needed_are_those_of_the_answer_and_of_the_end_of_its_thought(llms: dict[str, LLM]) -> None:
    always_thinks = llms[NAMES[1]]
    structured = StructuredOutput(json=SCHEMA)

    def needed(llm: LLM) -> int:
        with pytest.raises(RequestError, match="give at least") as refused:
            llm.chat(MESSAGES, params(max_tokens=1, structured=structured))
        return int(str(refused.value).rpartition(" ")[2])

    closing = always_thinks.tokenizer.encode("\n</think>\n\n", add_special_tokens=False)
    assert needed(always_thinks) == needed(llms[NAMES[2]]) + len(closing)
    enough = params(max_tokens=needed(always_thinks), structured=structured)
    output = always_thinks.chat(MESSAGES, enough)[0].outputs[0]
    assert output.finish_reason == "stop"
    jsonschema.validate(json.loads(output.text), SCHEMA)


def test_where_the_prompt_has_closed_the_thought_a_mark_says_nothing(thinker: LLM) -> None:
    (opening,) = thinker.tokenizer.encode("<think>", add_special_tokens=False)
    asked = params(max_tokens=20, logit_bias={opening: 50.0}, thinking_token_budget=2, ignore_eos=True)
    output = thinker.chat(MESSAGES, asked, chat_template_kwargs={"enable_thinking": False})[0].outputs[0]
    assert output.token_ids == [opening] * 20, "nothing is closed"


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_budget_closes_the_thought_as_the_template_does(llms: dict[str, LLM], budget: int) -> None:
    always_thinks, thinker = llms[NAMES[1]], llms[NAMES[0]]
    assert always_thinks.tokenizer is not None
    encode = always_thinks.tokenizer.encode
    closing = encode("\n</think>\n\n", add_special_tokens=False)
    output = always_thinks.chat(MESSAGES, params(3, thinking_token_budget=budget, max_tokens=30))[0].outputs[0]
    assert output.token_ids[budget : budget + 3] == closing
    assert output.num_reasoning_tokens == budget + 2  # the line end and the mark
    free = always_thinks.chat(MESSAGES, params(3, max_tokens=30))[0].outputs[0]
    assert free.token_ids[:budget] == output.token_ids[:budget], "up to there nothing is changed"
    (opening,) = encode("<think>", add_special_tokens=False)
    begun = params(3, thinking_token_budget=budget, max_tokens=30, logit_bias={opening: 50.0})
    output = thinker.chat(MESSAGES, begun)[0].outputs[0]
    assert output.token_ids[: budget + 4] == [opening, *output.token_ids[1 : budget + 1], *closing]


def test_efforts(llms: dict[str, LLM]) -> None:
    always_thinks, thinker, plain = llms[NAMES[1]], llms[NAMES[0]], llms[NAMES[2]]
    off = always_thinks.chat(MESSAGES, params(max_tokens=9), reasoning_effort="none")[0].outputs[0]
    assert off.reasoning == ""
    for effort, switch in (("none", False), ("high", True)):
        by_effort = thinker.encode_chat(MESSAGES, reasoning_effort=effort).token_ids
        assert by_effort == thinker.encode_chat(MESSAGES, chat_template_kwargs={"enable_thinking": switch}).token_ids
    assert thinker.encode_chat(MESSAGES, reasoning_effort="low").reading.budget == 1024
    assert plain.encode_chat(MESSAGES, reasoning_effort="none").reading.budget is None
    for llm in (plain, thinker):
        as_it_likes = llm.encode_chat(MESSAGES, reasoning_effort="auto")
        assert as_it_likes.reading.budget is None
        switched_on = llm.encode_chat(MESSAGES, chat_template_kwargs={"enable_thinking": True})
        assert as_it_likes.token_ids == switched_on.token_ids
    by_default = thinker.encode_chat(MESSAGES, reasoning_effort="default")
    assert by_default.reading.budget is None
    assert by_default.token_ids == thinker.encode_chat(MESSAGES, reasoning_effort="auto").token_ids
    for llm, effort in ((plain, "low"), (plain, "default"), (thinker, "extreme")):
        with pytest.raises(RequestError) as refused:
            llm.encode_chat(MESSAGES, reasoning_effort=effort)
        assert refused.value.param == "reasoning_effort"
    for ask in (
        lambda: plain.chat(MESSAGES, params(thinking_token_budget=5)),
        lambda: plain.generate("x", params(thinking_token_budget=5)),
    ):
        with pytest.raises(RequestError) as refused:
            ask()
        assert refused.value.param == "thinking_token_budget"


def test_stop_strings_are_for_the_content(llms: dict[str, LLM]) -> None:
    always_thinks = llms[NAMES[1]]
    free = always_thinks.chat(MESSAGES, params(5, thinking_token_budget=20, max_tokens=60))[0].outputs[0]
    in_both = next(letter for letter in free.text if letter in free.reasoning and letter.isprintable())
    stopped = always_thinks.chat(MESSAGES, params(5, thinking_token_budget=20, max_tokens=60, stop=in_both))[0].outputs[
        0
    ]
    assert stopped.reasoning == free.reasoning
    assert stopped.text == free.text[: free.text.index(in_both)]
    assert stopped.stop_reason == in_both


def test_what_cannot_be_done_is_refused(llms: dict[str, LLM]) -> None:
    with pytest.raises(RequestError, match="knows no tools"):
        llms[NAMES[1]].chat(MESSAGES, params(), tools=TOOLS)
    with pytest.raises(RequestError, match="give at least") as refused:
        llms[NAMES[2]].chat(MESSAGES, params(max_tokens=9), tools=TOOLS, tool_choice="required")
    assert refused.value.param == "max_tokens"


def test_streams_say_the_same_as_the_whole(thinker: LLM) -> None:
    for seed in range(3):
        whole = thinker.chat(MESSAGES, params(seed), tools=TOOLS, tool_choice="required")[0].outputs[0]
        chunks = list(thinker.stream_chat(MESSAGES, params(seed), tools=TOOLS, tool_choice="required"))
        pieces = [delta for chunk in chunks for delta in chunk.tool_calls]
        for index, call in enumerate(whole.tool_calls):
            own = [delta for delta in pieces if delta.index == index]
            assert own[0].name == call.name
            assert "".join(delta.arguments for delta in own) == call.arguments
        assert "".join(chunk.reasoning for chunk in chunks) == whole.reasoning


@pytest.fixture(scope="module")
def client(folder: Path, templates: Path) -> Iterator[openai.OpenAI]:
    config = EngineConfig(kv_memory=16 * 2**20, threads=1)
    llm = AsyncLLM(folder, config, chat_template=templates / f"{NAMES[0]}.jinja")
    with serving(llm, "random") as base:
        yield openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "random", "messages": MESSAGES, "seed": 1, **HOT, **fields})


def test_the_official_client_calls_tools(client: openai.OpenAI) -> None:
    answer = ask(client, tools=TOOLS, tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    first = answer.message.tool_calls[0]
    assert first.type == "function"
    jsonschema.validate(json.loads(first.function.arguments), SCHEMA)
    named = ask(client, tools=TOOLS, tool_choice=NAMED).choices[0]
    assert named.finish_reason == "stop"
    assert {call.function.name for call in named.message.tool_calls} == {"get_weather"}
    history = [
        *MESSAGES,
        answer.message.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": call.id, "content": "3 degrees"} for call in answer.message.tool_calls),
    ]
    with_history = ask(client, messages=history, tools=TOOLS, max_tokens=5)
    assert with_history.usage.prompt_tokens > ask(client, tools=TOOLS, max_tokens=5).usage.prompt_tokens + 60


def test_the_official_client_streams_tool_calls(client: openai.OpenAI) -> None:
    whole = ask(client, tools=TOOLS, tool_choice="required").choices[0].message
    calls: dict[int, list[str]] = {}
    for chunk in ask(client, tools=TOOLS, tool_choice="required", stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            assert (delta.id is None) == (delta.index in calls)
            calls.setdefault(delta.index, []).append(delta.function.arguments)
    assert ["".join(parts) for parts in calls.values()] == [call.function.arguments for call in whole.tool_calls]
    assert len(calls[0]) > 1
    with client.chat.completions.stream(
        model="random", messages=MESSAGES, seed=1, **HOT, tools=TOOLS, tool_choice="required"
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in events
    assert final.finish_reason == "tool_calls"
    assert [c.function.arguments for c in final.message.tool_calls] == [c.function.arguments for c in whole.tool_calls]


def test_the_official_client_sees_thoughts(client: openai.OpenAI) -> None:
    fields = {
        "max_tokens": 40,
        "logit_bias": {"260": 50},  # <think>
        "extra_body": {"thinking_token_budget": 6},
    }
    answer = ask(client, **fields)
    message = answer.choices[0].message
    assert message.reasoning_content == message.reasoning != ""
    assert answer.usage.completion_tokens_details.reasoning_tokens == 9
    chunks = list(ask(client, stream=True, **fields))
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks]
    assert "".join(filter(None, thoughts)) == message.reasoning_content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == (message.content or "")
    hidden = ask(client, **{**fields, "extra_body": {**fields["extra_body"], "include_reasoning": False}})
    assert not hasattr(hidden.choices[0].message, "reasoning_content")
    assert hidden.choices[0].message.content == message.content


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]},
         "tools[0].function.parameters"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"extra_body": {"thinking_token_budget": -2}}, "thinking_token_budget"),
    ],
)  # fmt: skip
def test_mistakes_name_their_field(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert refused.value.param == param


def test_the_official_client_calls_functions_in_older_words(client: openai.OpenAI) -> None:
    fields = {"functions": [TOOLS[0]["function"]], "function_call": {"name": "look"}}
    answer = ask(client, **fields).choices[0]
    assert (answer.finish_reason, answer.message.content, answer.message.tool_calls) == ("stop", None, None)
    called = answer.message.function_call
    assert called.name == "look"
    jsonschema.validate(json.loads(called.arguments), SCHEMA)
    deltas = [chunk.choices[0].delta.function_call for chunk in ask(client, stream=True, **fields)]
    pieces = [delta for delta in deltas if delta is not None]
    assert [delta.name for delta in pieces] == ["look", *[None] * (len(pieces) - 1)]
    assert len(pieces) > 1
    assert "".join(delta.arguments for delta in pieces) == called.arguments
    history = [
        *MESSAGES,
        answer.message.model_dump(exclude_none=True),
        {"role": "function", "name": "look", "content": "3 degrees"},
    ]
    assert ask(client, messages=history, functions=fields["functions"], max_tokens=5).usage.prompt_tokens > 60
    wrong = {"functions": [{"name": "f", "parameters": {"type": "objekt"}}]}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **wrong)
    assert refused.value.param == "functions[0].parameters"


def test_the_official_client_predicts(client: openai.OpenAI) -> None:
    plain = ask(client, max_tokens=40)
    text = plain.choices[0].message.content or plain.choices[0].message.reasoning
    answer = ask(client, max_tokens=40, prediction={"type": "content", "content": text})
    assert answer.choices == plain.choices
    details = answer.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 10
    assert details.rejected_prediction_tokens is not None
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens is None
