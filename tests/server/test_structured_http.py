"""Structured output through the official client, on the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import openai
import pytest
from fake_llm import serving
from pydantic import BaseModel

from headrace import AsyncLLM, EngineConfig

TEMPLATE = "{%- for message in messages -%}{{ message.content }}{%- endfor -%}"
MESSAGES = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    template = tmp_path_factory.mktemp("template") / "story.jinja"
    template.write_text(TEMPLATE)
    with serving(AsyncLLM("stories", EngineConfig(threads=1), chat_template=template), "stories") as base:
        yield base


@pytest.fixture
def client(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Animal(BaseModel):
    name: str
    legs: int
    colour: Colour
    friends: list[Animal] | None


@pytest.mark.parametrize("seed", range(4))
def test_a_pydantic_model_comes_back_parsed(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="stories", messages=MESSAGES, response_format=Animal, max_tokens=80, seed=seed, temperature=1.3
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Animal)
    assert answer.usage.completion_tokens <= 80


def test_any_json_object_streamed(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="stories", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=40, stream=True
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert isinstance(json.loads(text), dict)
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "(left|right) [12]"}, {"left 1", "left 2", "right 1", "right 2"}),
        ({"grammar": 'start: "a" ("b" | "c")'}, {"ab", "ac"}),
        ({"json": {"enum": ["x", 7]}}, {'"x"', "7"}),
        ({"json_object": True, "disable_any_whitespace": True}, None),
    ],
)
def test_structured_outputs_of_both_endpoints(client: openai.OpenAI, asked: dict[str, Any], expected: Any) -> None:
    extra = {"extra_body": {"structured_outputs": asked}, "max_tokens": 12, "n": 3}
    chat = client.chat.completions.create(model="stories", messages=MESSAGES, **extra)
    plain = client.completions.create(model="stories", prompt="Once upon a time", **extra)
    for text in (*(c.message.content for c in chat.choices), *(c.text for c in plain.choices)):
        assert text in expected if expected else isinstance(json.loads(text), dict)
    assert {c.finish_reason for c in (*chat.choices, *plain.choices)} == {"stop"}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "regex and choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs", "missing )"),
        ({"structured_outputs": {"regex": "[a-z]{90}"}, "max_tokens": 3}, "max_tokens", "needs"),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 2}, "min_tokens", "exclude"),
        ({"guided_regex": "("}, "guided_regex", ""),
    ],
)
def test_what_cannot_be_is_a_400_that_names_it(
    client: openai.OpenAI, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="stories", messages=MESSAGES, extra_body=fields)
    assert caught.value.param == param
    assert words in caught.value.message
