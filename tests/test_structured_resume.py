"""A structured request that goes on after a restart, from any of its tokens, in an engine that knows nothing of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from headrace import LLM, SamplingParams, StructuredOutput
from headrace.engine.engine import Engine
from headrace.types import Emitted, Request

pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 3}
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 2}
STRUCTURES = {
    "an integer without bounds": StructuredOutput(
        json={
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 80}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
    "numbers": StructuredOutput(json={"type": "object", "properties": {"a": NUMBERS}, "required": ["a"]}),
    "texts": StructuredOutput(
        json={"type": "object", "properties": {"a": TEXTS, "b": NUMBERS}, "required": ["a", "b"]}
    ),
    "anything": StructuredOutput(json={}),
    "characters of several bytes": StructuredOutput(regex="([äöüß€😀][a-z]?){8,20}"),
    "forced characters of several bytes": StructuredOutput(regex="(Grüße an alle Bären|😀😀😀){3,9}"),
}
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("stories") as llm:
        yield llm


@pytest.fixture
def cold() -> Iterator[LLM]:
    with LLM("stories") as llm:
        yield llm


def run(engine: Engine, requests: list[Request]) -> dict[str, tuple[list[int], list[float]]]:
    """Token ids and the log-probability of each, by request."""
    found: dict[str, tuple[list[int], list[float]]] = {request.id: ([], []) for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for output in engine.step():
            token_ids, logprobs = found[output.request_id]
            token_ids += output.token_ids
            logprobs += [next(iter(each.values())).logprob for each in output.logprobs or []]
    return found


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("seed", "max_tokens"), [(7, 90), (8, 40)])
def test_goes_on_from_any_token(llm: LLM, cold: LLM, name: str, seed: int, max_tokens: int) -> None:
    params = SamplingParams(temperature=1.0, seed=seed, max_tokens=max_tokens, logprobs=0, structured=STRUCTURES[name])
    request = llm._requests.make(PROMPT, params).request
    token_ids, logprobs = run(llm._engine, [request])[request.id]
    resumed = [
        replace(request, id=f"from {cut}", resume=(Emitted(tuple(token_ids[:cut])),)) for cut in range(len(token_ids))
    ]
    found = run(cold._engine, random.Random(seed).sample(resumed, len(resumed)))
    for cut in range(len(token_ids)):
        assert found[f"from {cut}"] == (token_ids[cut:], logprobs[cut:])
