"""The server on the real engine, with a real model: what clients read is what the engine says, alone or in a crowd."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_llm import serving
from waiting import wait_until

from headrace import AsyncLLM, EngineConfig

OPENING = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Lily"}]
TEMPLATE = """{%- for message in messages -%}
{{ "Once upon a time, there was a girl named " + message.content if message.role == "user" else message.content }}
{%- endfor -%}"""


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "models/stories260k"


@pytest.fixture(scope="module")
def llm(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncLLM:
    template = tmp_path_factory.mktemp("template") / "story.jinja"
    template.write_text(TEMPLATE)
    return AsyncLLM(stories, EngineConfig(kv_memory=8 * 2**20, threads=1), chat_template=template)


@pytest.fixture(scope="module")
def base(llm: AsyncLLM) -> Iterator[str]:
    with serving(llm, "stories260k") as base:
        yield base
    assert llm.trouble is not None, "the server closes the engine"


@pytest.fixture
def client(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


def text_of(client: openai.OpenAI, **fields: Any) -> str:
    return client.completions.create(model="stories260k", **fields).choices[0].text


def test_golden_text(client: openai.OpenAI, stories: Path) -> None:
    golden = json.loads((stories / "golden.json").read_text())["text"]
    text = text_of(client, prompt=OPENING, temperature=0, max_tokens=150, echo=True)
    assert len(text) > 300
    assert golden.startswith(text)


def test_chat_through_the_template(client: openai.OpenAI) -> None:
    [choice] = client.chat.completions.create(
        model="stories260k", messages=MESSAGES, temperature=0, max_tokens=20
    ).choices
    prompt = "Once upon a time, there was a girl named Lily"
    ids = {"extra_body": {"add_special_tokens": False}}
    assert choice.message.content == text_of(client, prompt=prompt, temperature=0, max_tokens=20, **ids)
    begun = [*MESSAGES, {"role": "assistant", "content": ". She"}]
    extra = {"add_generation_prompt": False, "continue_final_message": True}
    [continued] = client.chat.completions.create(
        model="stories260k", messages=begun, temperature=0, max_tokens=20, extra_body=extra
    ).choices
    assert continued.message.content == text_of(client, prompt=f"{prompt}. She", temperature=0, max_tokens=20, **ids)


def test_stop_seed_and_reason(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": OPENING, "seed": 11, "temperature": 0.8, "max_tokens": 60}
    text = text_of(client, **fields)
    assert text == text_of(client, **fields)
    word = text.split()[5]
    result = client.completions.create(model="stories260k", stop=[word], **fields).choices[0]
    assert (result.text, result.finish_reason) == (text[: text.index(word)], "stop")
    assert result.stop_reason == word
    pieces = client.completions.create(model="stories260k", stop=[word], stream=True, **fields)
    assert "".join(piece.choices[0].text for piece in pieces) == result.text


def test_echo_scores_the_prompt_as_it_was_generated(client: openai.OpenAI) -> None:
    """A greedy continuation, then the same text as a prompt: the same log-probabilities at the same places."""
    fields: dict[str, Any] = {"model": "stories260k", "temperature": 0, "logprobs": 3}
    made = client.completions.create(prompt=OPENING, max_tokens=12, echo=True, **fields).choices[0]
    scored = client.completions.create(prompt=made.text, max_tokens=0, echo=True, **fields).choices[0]
    assert scored.text == made.text
    assert scored.logprobs.tokens == made.logprobs.tokens
    assert scored.logprobs.token_logprobs == made.logprobs.token_logprobs
    assert scored.logprobs.top_logprobs == made.logprobs.top_logprobs
    assert scored.logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in scored.logprobs.token_logprobs[1:])


def test_several_prompts_and_choices_streamed(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": [OPENING, "Tom and Lily"], "n": 3, "seed": 5, "max_tokens": 30}
    whole = client.completions.create(model="stories260k", **fields)
    texts = [""] * 6
    for chunk in client.completions.create(model="stories260k", stream=True, **fields):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert len(set(texts)) == 6
    assert whole.usage.completion_tokens == 180


def test_a_repeated_prompt_is_cached(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "stories260k", "prompt": "The big dog ran " * 12, "max_tokens": 1}
    client.completions.create(**fields)
    usage = client.completions.create(**fields).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_completion_tokens": 600}, "max_completion_tokens"),
        ({"max_tokens": 600}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "Lily " * 600}]}, "messages"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_engine_refuses_names_the_clients_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "stories260k", "messages": MESSAGES} | fields)
    assert refused.value.param == param


def test_token_ids_out_of_range(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="99999"):
        text_of(client, prompt=[1, 99999])


async def test_sixty_four_streams_equal_one_by_one(base: str, client: openai.OpenAI) -> None:
    def fields(number: int) -> dict[str, Any]:
        prompt = OPENING[: 4 + number % 12] if number % 3 else [1, 300 + number, 40]
        return {"prompt": prompt, "seed": number, "temperature": number % 4 / 3, "max_tokens": 16 + number}

    alone = [text_of(client, **fields(number)) for number in range(64)]
    crowd = openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)

    async def streamed(number: int) -> str:
        chunks = await crowd.completions.create(model="stories260k", stream=True, **fields(number))
        return "".join([chunk.choices[0].text async for chunk in chunks])

    assert await asyncio.gather(*(streamed(number) for number in range(64))) == alone
    await crowd.close()
    assert len(set(alone)) > 50


def test_leaving_frees_the_engine(base: str, llm: AsyncLLM) -> None:
    body = {"model": "stories260k", "prompt": OPENING, "max_tokens": 480, "n": 4, "stream": True}
    body |= {"ignore_eos": True}
    before = llm.stats()
    for _ in range(3):
        with httpx.stream("POST", f"{base}/v1/completions", json=body) as response:
            next(response.iter_raw())
    wait_until(lambda: not llm.stats().num_running and not llm.stats().kv_blocks_used)
    assert llm.stats().generation_tokens - before.generation_tokens < 3 * 4 * 480


def test_metrics_agree_with_the_engine(base: str, llm: AsyncLLM) -> None:
    stats = llm.stats()
    text = httpx.get(f"{base}/metrics").text
    labels = '{engine="0",model_name="stories260k"}'
    assert f"vllm:generation_tokens_total{labels} {float(stats.generation_tokens)}" in text
    assert f"vllm:prompt_tokens_total{labels} {float(stats.prompt_tokens)}" in text
    assert f"vllm:kv_cache_usage_perc{labels} 0.0" in text


def test_steps_and_waits_are_counted(llm: AsyncLLM, client: openai.OpenAI, base: str) -> None:
    before = llm.stats()
    client.completions.create(model="stories260k", prompt=OPENING, max_tokens=12)
    after = llm.stats()
    assert sum(after.step_sizes) == after.num_steps > before.num_steps
    computed = after.step_tokens - before.step_tokens
    assert computed >= 12
    assert sum(after.accepted_by_position) == after.accepted_tokens
    metrics = httpx.get(f"{base}/metrics").text
    labels = '{engine="0",model_name="stories260k"}'
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(values[f"vllm:iteration_tokens_total_count{labels}"]) == after.num_steps
    assert float(values[f"vllm:request_queue_time_seconds_sum{labels}"]) > 0
    phases = sum(float(values[f"vllm:request_{phase}_time_seconds_sum{labels}"]) for phase in ("prefill", "decode"))
    assert phases == pytest.approx(float(values[f"vllm:request_inference_time_seconds_sum{labels}"]), rel=0.01)
