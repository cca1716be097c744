"""Structured output on the real engine: always whole and valid, the same whatever else runs, and quick where forced."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from headrace import LLM, AsyncLLM, EngineConfig, SamplingParams, StructuredOutput
from headrace.engine.engine import Engine
from headrace.errors import RequestError
from headrace.types import Emitted, Request, RequestOutput

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "quick"]}, "maxItems": 3},
        "friend": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["name", "age", "tags", "friend"],
    "additionalProperties": False,
}
PROMPT = "Once upon a time"
STRUCTURES = (
    StructuredOutput(json=PERSON),
    StructuredOutput(json_object=True),
    StructuredOutput(regex="[A-Z][a-z]+ (is|was) a (cat|dog)( and a (cat|dog))*\\."),
    StructuredOutput(grammar='start: "(" start ")" | WORD\nWORD: /[a-z]+/'),
    None,
)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("stories", EngineConfig(threads=1)) as model:
        yield model


def params(structured: StructuredOutput | None, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"structured": structured, "max_tokens": 70, "temperature": 1.2, "seed": 5} | changes)


def tokens(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    return [one.token_ids for output in outputs for one in output.outputs]


@pytest.mark.parametrize("temperature", [0.0, 1.5, 50.0])
@pytest.mark.parametrize("more", [0, 1, 3, 20])
def test_what_ends_is_valid(llm: LLM, temperature: float, more: int) -> None:
    with pytest.raises(RequestError) as refused:
        llm.generate(PROMPT, params(StructuredOutput(json=PERSON), max_tokens=3))
    needed = int(str(refused.value).rpartition(" ")[2])
    with pytest.raises(RequestError, match=f"at least {needed}"):
        llm.generate(PROMPT, params(StructuredOutput(json=PERSON), max_tokens=needed - 1))
    for seed in range(4):
        asked = params(StructuredOutput(json=PERSON), max_tokens=needed + more, temperature=temperature, seed=seed)
        [output] = llm.generate(PROMPT, asked)[0].outputs
        assert output.finish_reason == "stop"
        assert len(output.token_ids) <= needed + more
        jsonschema.validate(json.loads(output.text), PERSON)


def test_forced_tokens_cost_no_pass(llm: LLM) -> None:
    text = "This text is the only one that may be said here."
    before = llm.stats().num_steps
    [output] = llm.generate(PROMPT, params(StructuredOutput(choice=[text])))[0].outputs
    assert output.text == text
    assert len(output.token_ids) > 10
    assert llm.stats().num_steps - before <= 4
    before = llm.stats().num_steps
    [output] = llm.generate(PROMPT, params(StructuredOutput(json=PERSON), temperature=0))[0].outputs
    assert llm.stats().num_steps - before < 0.8 * len(output.token_ids)


def test_tokens_are_those_that_the_tokenizer_writes(llm: LLM) -> None:
    text = "This text is the only one that may be said here."
    [output] = llm.generate(PROMPT, params(StructuredOutput(choice=[text])))[0].outputs
    assert llm.tokenizer is not None
    behind = llm.tokenizer.encode(f"\n{text}", add_special_tokens=False)
    assert output.token_ids[1:] == behind[-len(output.token_ids) + 1 :]


def test_alone_as_in_a_crowd(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [params(structured, seed=seed, n=2) for seed, structured in enumerate((*STRUCTURES, *STRUCTURES))]
    together = tokens(llm.generate([PROMPT] * len(asked), asked))
    assert together == [each for one in asked for each in tokens(llm.generate(PROMPT, one))]
    with LLM("stories", EngineConfig(threads=1, kv_memory=2**19, max_batch_tokens=24)) as small:
        assert tokens(small.generate([PROMPT] * len(asked), asked)) == together
        assert small.stats().num_preemptions
    monkeypatch.setattr(llm._engine._drafting, "draft", lambda sequences: None)
    assert tokens(llm.generate([PROMPT] * len(asked), asked)) == together


@pytest.mark.parametrize("structured", STRUCTURES[:-1])
@pytest.mark.parametrize("max_tokens", [45, 80])
def test_a_request_goes_on_from_any_token(llm: LLM, structured: StructuredOutput, max_tokens: int) -> None:
    request = llm._requests.make(PROMPT, params(structured, max_tokens=max_tokens)).request
    whole = run(llm._engine, request)
    for cut in range(0, len(whole), 3):
        resumed = replace(request, id=f"{request.id}-{cut}", resume=(Emitted(tuple(whole[:cut])),))
        assert whole[:cut] + run(llm._engine, resumed) == whole


def run(engine: Engine, request: Request) -> list[int]:
    engine.submit(request)
    found: list[int] = []
    while engine.has_work:
        for output in engine.step():
            found.extend(output.token_ids)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"bad_words": ["cat", '"', "a", "1"]},
        {"no_repeat_ngram_size": 1},
        {"allowed_token_ids": [5, 6, 7]},
        {"logit_bias": dict.fromkeys(range(300), -100)},
        {"repetition_penalty": 5.0, "dry_multiplier": 9.0},
        {"mirostat": 2},
        {"top_k": 1},
    ],
)
def test_the_structure_holds_against_every_other_wish(llm: LLM, changes: dict[str, Any]) -> None:
    for seed in range(3):
        [output] = llm.generate(PROMPT, params(StructuredOutput(json=PERSON), seed=seed, **changes))[0].outputs
        assert output.finish_reason == "stop"
        jsonschema.validate(json.loads(output.text), PERSON)


def test_logprobs_are_of_the_tokens_that_stand(llm: LLM) -> None:
    asked = params(StructuredOutput(json=PERSON), max_tokens=40, temperature=3.0, logprobs=2)
    [output] = llm.generate(PROMPT, asked)[0].outputs
    assert output.logprobs is not None
    assert all(token_id in entry for token_id, entry in zip(output.token_ids, output.logprobs, strict=True))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"min_tokens": 3}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
    ],
)
def test_what_contradicts_a_structure_is_refused(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        params(StructuredOutput(json_object=True), **changes)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "asked",
    [
        *({}, {"json": {}, "regex": "a"}, {"json": [1]}, {"choice": []}, {"choice": "ab"}, {"regex": 3}, {"json": "{"}),
        *({"regex": "a", "disable_any_whitespace": True}, {"json_object": 1}),
    ],
)
def test_a_structure_is_one_and_well_formed(llm: LLM, asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        llm.generate(PROMPT, params(StructuredOutput(**asked)))
    assert refused.value.param == "structured"


THINKING = """{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{%- if message.reasoning_content -%}<think>{{ message.reasoning_content }}</think> {% endif -%}{{ message.content }}
{%- else -%}{{ message.content }}{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt and opened -%}<think>{%- endif -%}"""


@pytest.mark.parametrize("opened", [False, True])
def test_the_structure_begins_behind_the_thought(tmp_path: Path, opened: bool) -> None:
    (tmp_path / "think.jinja").write_text(THINKING)
    with LLM("stories", EngineConfig(threads=1), chat_template=tmp_path / "think.jinja") as model:
        assert model.answer_format.reasoning is not None
        for seed in range(3):
            asked = params(StructuredOutput(json=PERSON), max_tokens=60, seed=seed)
            [answer] = model.chat(
                [{"role": "user", "content": PROMPT}], asked, chat_template_kwargs={"opened": opened}
            )[0].outputs
            assert answer.finish_reason == "stop"
            jsonschema.validate(json.loads(answer.text), PERSON)
            assert answer.reasoning or not opened, "a thought that the prompt opened is one"


async def test_compiling_holds_up_no_other_stream() -> None:
    heavy = [StructuredOutput(regex=f"(a|b)*a(a|b){{{200 + at}}}") for at in range(3)] + [
        StructuredOutput(json={"enum": [f"number {at} {more}" for at in range(4_000)]}) for more in range(3)
    ]
    async with AsyncLLM("stories", EngineConfig(threads=1)) as model:
        await model.generate(PROMPT, params(StructuredOutput(json=PERSON)))  # the vocabulary is read once
        stream = model.stream(PROMPT, SamplingParams(max_tokens=400, seed=1))
        gaps, last = [], time.perf_counter()
        compiling = asyncio.gather(*(model.generate(PROMPT, params(each, max_tokens=400)) for each in heavy))
        started, num_before = time.perf_counter(), 0
        async for _ in stream:
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
            num_before += not compiling.done()
        spent = time.perf_counter() - started
        await compiling
    assert num_before > 20
    assert max(gaps) < max(1.0, spent / 2), "tokens go on while others compile"
