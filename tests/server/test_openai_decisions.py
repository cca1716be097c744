"""POST /v1/decisions, asked by the official client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_llm import serving
from features.service import TEMPLATE
from tiny_adapters import make_adapter
from tiny_models import reference

import headrace
from headrace import LLM, AsyncLLM, EngineConfig
from headrace.errors import RequestError
from headrace.server.dialects.openai.decisions import parse_decisions

EVIDENCE = "Tom saw a big red ball. He was very happy and wanted to play with it all day."
QUESTIONS: list[Any] = [
    {"type": "predicate", "name": "happy", "instructions": "Tom is happy."},
    {
        "type": "choice",
        "name": "toy",
        "instructions": "What did he see?",
        "choices": [{"value": "a ball"}, {"value": "a dog", "description": "an animal"}, {"value": True}],
    },
    {"type": "score", "instructions": "How big is it?", "levels": [{"label": x} for x in ("small", "big", "very big")]},
]


CONFIG = EngineConfig(kv_memory=32 * 2**20, threads=1)


@pytest.fixture(scope="module", params=["plain", "chat"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path | None]:
    """The bundled model's folder, without a chat template, and one to use."""
    folder = tmp_path_factory.mktemp("model") / "stories"
    shutil.copytree(Path(headrace.__file__).parent / "hub/stories", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, TEMPLATE if request.param == "chat" else None


@pytest.fixture(scope="module")
def server(model: tuple[Path, Path | None]) -> Iterator[str]:
    adapter = make_adapter(model[0] / "adapter", reference(model[0]))
    llm = AsyncLLM(model[0], CONFIG, chat_template=model[1], adapters={"adapted": adapter})
    with serving(llm, "stories") as base:
        yield base


def ask(base: str, **fields: Any) -> Any:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
    return client.decisions.create(**{"model": "stories", "input": EVIDENCE, "questions": QUESTIONS, **fields})


def test_an_adapter_by_its_name(server: str) -> None:
    before, adapted, after = (ask(server, model=name) for name in ("stories", "adapted", "stories"))
    assert (adapted.model, after.model) == ("adapted", "stories")
    assert before.answers == after.answers != adapted.answers
    with pytest.raises(openai.NotFoundError, match="'another'"):
        ask(server, model="another")


def test_answers_of_every_type(server: str) -> None:
    decision = ask(server)
    happy, toy, size = decision.answers
    assert (happy.type, happy.name, toy.type, toy.name, size.type, size.name) == (
        "predicate", "happy", "choice", "toy", "score", None,
    )  # fmt: skip
    assert 0 < happy.probability < 1
    assert [each.value for each in toy.probabilities] == ["a ball", "a dog", True]
    assert sum(each.probability for each in toy.probabilities) == pytest.approx(1)
    assert toy.choice == max(toy.probabilities, key=lambda each: each.probability).value
    assert [(each.label, each.value) for each in size.probabilities] == [("small", 0), ("big", 1), ("very big", 2)]
    assert size.score == pytest.approx(sum(each.value * each.probability for each in size.probabilities))
    assert 0 <= toy.confidence <= 1
    assert 0 <= size.confidence <= 1
    usage = decision.usage
    assert usage.input_tokens == usage.total_tokens > 0
    assert usage.output_tokens == 0
    assert usage.input_tokens_details.cached_tokens >= 2 * 16  # what all questions begin with
    assert ask(server).answers == decision.answers


def test_probabilities_are_those_of_decide(server: str, model: tuple[Path, Path | None]) -> None:
    _, toy, _ = ask(server).answers
    llm = LLM(model[0], CONFIG, chat_template=model[1])
    task = "What did he see?\nAnswer with one of these, and nothing else:\n- a ball\n- a dog: an animal\n- true"
    text = f"{EVIDENCE}\n\n{task}"
    if model[1] is None:
        found = llm.decide(f"{text}\nAnswer:", [" a ball", " a dog", " true"])
    else:
        kwargs = {"enable_thinking": False}
        message = {"role": "user", "content": text}
        found = llm.decide([message], ["a ball", "a dog", "true"], chat_template_kwargs=kwargs)
    assert [each.probability for each in toy.probabilities] == list(found.probabilities.values())


def test_inputs_of_every_kind(server: str) -> None:
    [plain, parts, several, data, talk] = [
        ask(server, input=given, questions=QUESTIONS[:1]).answers[0].probability
        for given in (
            "a\nb",
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "type": "message"}],
            [{"role": "user", "content": [{"type": "input_json", "data": {"a": ["b"]}}]}],
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            ],
        )
    ]
    assert plain == parts == several
    assert data == ask(server, input='{"a":["b"]}', questions=QUESTIONS[:1]).answers[0].probability
    assert talk == ask(server, input="user: a\nassistant: b", questions=QUESTIONS[:1]).answers[0].probability


def test_a_question_that_is_too_long(server: str) -> None:
    long = {"type": "predicate", "instructions": "very " * 800}
    with pytest.raises(openai.BadRequestError, match=r"exceed the context|the context is") as refused:
        ask(server, questions=[QUESTIONS[0], long])
    assert refused.value.param == "questions[1]"
    with pytest.raises(openai.NotFoundError):
        ask(server, model="other")
    assert httpx.get(f"{server}/v1/decisions").status_code == 405


CHOICE = {"type": "choice", "instructions": "x", "choices": [{"value": "a"}, {"value": "b"}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": " "}, "input"),
        ({"input": []}, "input"),
        ({"questions": []}, "questions"),
        ({"questions": [QUESTIONS[0]] * 401}, "questions"),
        ({"questions": [{"type": "riddle", "instructions": "x"}]}, "questions[0].type"),
        ({"questions": [{"type": "predicate"}]}, "questions[0].instructions"),
        ({"questions": [{"type": "predicate", "instructions": ""}]}, "questions[0].instructions"),
        ({"questions": [CHOICE, {**CHOICE, "choices": []}]}, "questions[1].choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}]}]}, "questions[0].choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}, {"value": "a"}]}]}, "questions[0].choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": True}, {"value": "true"}]}]}, "questions[0].choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": ""}, {"value": "b"}]}]}, "questions[0].choices"),
        ({"questions": [{**CHOICE, "levels": []}]}, "questions[0].levels"),
        ({"questions": [{"type": "score", "instructions": "x", "levels": [{"label": "a"}]}]}, "questions[0].levels"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "x"}]}, "input[0].type"),
        ({"prompt_cache_options": {"ttl": "30m"}}, "prompt_cache_options"),
        ({"temperature": 0.5}, "temperature"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    body = {"model": "m", "input": EVIDENCE, "questions": QUESTIONS, **fields}
    with pytest.raises(RequestError) as refused:
        parse_decisions(json.dumps(body).encode())
    assert refused.value.param == param
