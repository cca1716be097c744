"""The official `anthropic` client on the real engine: the bundled model, and a random one with thoughts and tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pytest
from fake_llm import serving
from pydantic import BaseModel
from test_tools_and_thoughts import NAMES, SCHEMA, save_tokenizer
from tiny_models import make_tiny
from waiting import wait_until

from headrace import AsyncLLM, EngineConfig
from headrace.server.dialects.anthropic.thoughts import SHOWN, reveal

TEMPLATE = "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"
MESSAGES = [{"role": "user", "content": "Once upon a time"}]
GREEDY = {"extra_body": {"temperature": 0}}
TOOLS = [{"name": name, "description": "Look", "input_schema": SCHEMA} for name in ("look", "get_weather")]
QUESTION = [{"role": "user", "content": "How is it there?"}]


def client_of(base: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncLLM:
    template = tmp_path_factory.mktemp("template") / "story.jinja"
    template.write_text(TEMPLATE)
    return AsyncLLM("stories", EngineConfig(threads=1, kv_memory=16 * 2**20), chat_template=template)


@pytest.fixture(scope="module")
def stories(llm: AsyncLLM) -> Iterator[anthropic.Anthropic]:
    with serving(llm, "stories") as base:
        yield client_of(base)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    size = save_tokenizer(folder)
    return make_tiny(
        "llama", folder, vocab_size=size, eos_token_id=256, bos_token_id=None, max_position_embeddings=4096
    )


def serve_random(folder: Path, template: Path) -> Iterator[anthropic.Anthropic]:
    llm = AsyncLLM(folder, EngineConfig(kv_memory=16 * 2**20, threads=1), chat_template=template)
    with serving(llm, "random") as base:
        yield client_of(base)


@pytest.fixture(scope="module")
def caller(random_model: Path, shared: Path) -> Iterator[anthropic.Anthropic]:
    yield from serve_random(random_model, shared / f"data/chat_templates/{NAMES[0]}.jinja")


@pytest.fixture(scope="module")
def thinker(random_model: Path, shared: Path) -> Iterator[anthropic.Anthropic]:
    """Its template opens a thought in each answer."""
    yield from serve_random(random_model, shared / f"data/chat_templates/{NAMES[1]}.jinja")


def story(client: anthropic.Anthropic, **fields: Any) -> anthropic.types.Message:
    ask: dict[str, Any] = {"model": "stories", "messages": MESSAGES, "max_tokens": 60, **GREEDY}
    return client.messages.create(**{**ask, **fields})


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def shown(message: Any) -> Any:
    usage = {"input_tokens", "cache_read_input_tokens"}  # the second time from the cache
    return message.model_dump(exclude={"id": True, "usage": usage}, exclude_none=True)


def test_a_stream_is_the_whole_and_the_cache_is_used(stories: anthropic.Anthropic) -> None:
    long = [{"role": "user", "content": "The big dog ran to the park. " * 12}]
    whole = story(stories, messages=long)
    with stories.messages.stream(model="stories", messages=long, max_tokens=60, **GREEDY) as stream:
        final = stream.get_final_message()
    assert shown(final) == shown(whole)
    assert final.usage.cache_read_input_tokens > 0
    usages = [message.usage for message in (whole, final)]
    count = stories.messages.count_tokens(model="stories", messages=long).input_tokens
    assert [usage.input_tokens + usage.cache_read_input_tokens for usage in usages] == [count, count]


def test_a_stop_sequence_is_named(stories: anthropic.Anthropic) -> None:
    text = text_of(story(stories))
    word = text.split()[5]
    stopped = story(stories, stop_sequences=["never in it", word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert text_of(stopped) == text[: text.index(word)]


def test_an_answer_goes_on_from_the_last_message(stories: anthropic.Anthropic) -> None:
    text = text_of(story(stories))
    begun, rest = text[:20], text[20:]
    prefilled = [*MESSAGES, {"role": "assistant", "content": begun}]
    on = story(stories, messages=prefilled)
    assert text_of(on).startswith(rest[:30])
    blocks = [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": begun}]}]
    assert text_of(story(stories, messages=blocks)) == text_of(on)


class Animal(BaseModel):
    name: str
    legs: int


def test_structured_output(stories: anthropic.Anthropic) -> None:
    parsed = stories.messages.parse(model="stories", messages=MESSAGES, max_tokens=60, output_format=Animal)
    assert isinstance(parsed.parsed_output, Animal)
    assert parsed.stop_reason == "end_turn"
    form = {"type": "json_schema", "schema": Animal.model_json_schema()}
    for fields in ({"output_config": {"format": form}}, {"extra_body": {"output_format": form}}):
        Animal.model_validate_json(text_of(story(stories, **fields)))
    impossible = {"type": "json_schema", "schema": {"type": "string", "pattern": "(?=a)b"}}
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format"):
        story(stories, output_config={"format": impossible})


def test_what_the_model_cannot_do_is_refused_by_its_name_here(stories: anthropic.Anthropic) -> None:
    for fields, name in (
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, r"thinking\.budget_tokens"),
        ({"output_config": {"effort": "low"}}, r"output_config\.effort"),
        ({"tools": TOOLS}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=name):
            story(stories, **fields)
    for kind in ("adaptive", "disabled"):
        assert text_of(story(stories, thinking={"type": kind})) == text_of(story(stories))


def test_leaving_frees_the_engine(stories: anthropic.Anthropic, llm: AsyncLLM) -> None:
    before = llm.stats().generation_tokens
    for _ in range(3):
        with stories.messages.stream(model="stories", messages=MESSAGES, max_tokens=400) as stream:
            next(stream.text_stream)
    wait_until(lambda: not llm.stats().num_running)
    assert llm.stats().generation_tokens - before < 3 * 400


def ask(client: anthropic.Anthropic, **fields: Any) -> anthropic.types.Message:
    return client.messages.create(
        **{"model": "random", "messages": QUESTION, "max_tokens": 300, **GREEDY, **fields}
    )  # fmt: skip


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tools_are_called(caller: anthropic.Anthropic, choice: dict[str, Any]) -> None:
    only_one = {**choice, "disable_parallel_tool_use": True}
    message = ask(caller, tools=TOOLS, tool_choice=only_one)
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert call.name == choice.get("name", call.name)
    jsonschema.validate(call.input, SCHEMA)
    with caller.messages.stream(
        model="random", messages=QUESTION, max_tokens=300, tools=TOOLS, tool_choice=only_one, **GREEDY
    ) as stream:
        partial = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(partial)) == call.input
    assert len(partial) > 1
    alike = [{**block.model_dump(), "id": ""} for block in final.content]
    assert alike == [{**block.model_dump(), "id": ""} for block in message.content]


def test_results_go_back_and_errors_are_told(caller: anthropic.Anthropic) -> None:
    message = ask(caller, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    call = next(block for block in message.content if block.type == "tool_use")
    counts = []
    for is_error in (False, True):
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "3 degrees", "is_error": is_error}
        history = [*QUESTION, message.to_param(), {"role": "user", "content": [result]}]
        counts.append(caller.messages.count_tokens(model="random", messages=history, tools=TOOLS).input_tokens)
        assert ask(caller, messages=history, tools=TOOLS, max_tokens=5).usage.output_tokens <= 5
    assert counts[1] - counts[0] == len("Error: "), "a byte is a token"


def test_thoughts_have_a_budget_and_come_first(thinker: anthropic.Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 7}
    message = ask(thinker, thinking=thinking, max_tokens=30)
    assert message.content[0].type == "thinking"
    assert message.usage.output_tokens_details.thinking_tokens == 9, "the line end and the mark count"
    assert message.content[0].signature == SHOWN
    with thinker.messages.stream(
        model="random", messages=QUESTION, max_tokens=30, thinking=thinking, **GREEDY
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert {"thinking", "signature"} <= set(kinds)
    assert shown(final) == shown(message)
    hidden = ask(thinker, thinking={**thinking, "display": "omitted"}, max_tokens=30).content[0]
    assert (hidden.thinking, reveal(hidden.signature, "")) == ("", message.content[0].thinking)
    off = ask(thinker, thinking={"type": "disabled"}, max_tokens=10)
    assert "thinking" not in [block.type for block in off.content]


def test_thoughts_of_the_conversation_reach_the_template(caller: anthropic.Anthropic) -> None:
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"place": "x"}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "3"}]}

    def count(*thoughts: dict[str, Any]) -> int:
        turn = {"role": "assistant", "content": [*thoughts, call]}
        return caller.messages.count_tokens(
            model="random", messages=[*QUESTION, turn, result], tools=TOOLS
        ).input_tokens

    whole = {"type": "thinking", "thinking": "let me see", "signature": SHOWN}
    hidden = {"type": "thinking", "thinking": "", "signature": "headrace:bGV0IG1lIHNlZQ=="}
    written = ["<think>", *"\nlet me see\n", "</think>", "\n\n"]
    assert count(whole) == count(hidden) == count() + len(written)
    assert count({"type": "redacted_thinking", "data": "abc"}) == count()
