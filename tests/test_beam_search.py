"""Beam search through the public doors."""

from __future__ import annotations

import asyncio

import pytest

from headrace import LLM, AsyncLLM, BeamSearchParams, EngineConfig, SamplingParams
from headrace.errors import RequestError

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("stories", EngineConfig(kv_memory=64 * 2**20, threads=1, max_sequences=16))


def test_outputs_are_shaped_like_vllms(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=4, max_tokens=20)
    [first, second] = llm.beam_search([PROMPT, {"prompt": "One day"}], params)
    assert len(first.sequences) == len(second.sequences) == 4
    best, *rest = first.sequences
    assert llm.tokenizer is not None
    prompt = llm.tokenizer.encode(PROMPT)
    assert best.tokens[: len(prompt)] == prompt
    assert best.text is not None
    assert best.text.startswith(PROMPT)
    assert best.finish_reason == "length"
    assert len(best.tokens) == len(prompt) + 20
    assert len(best.logprobs) == 20
    assert all(len(entry) >= 8 for entry in best.logprobs)
    assert all(best.cum_logprob >= other.cum_logprob for other in rest)
    [[greedy]] = [
        output.outputs for output in llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=20, logprobs=0))
    ]
    assert greedy.cumulative_logprob is not None
    assert best.cum_logprob >= greedy.cumulative_logprob


def test_generate_and_stream_give_the_best_n(llm: LLM) -> None:
    wide = llm.beam_search(PROMPT, BeamSearchParams(beam_width=5, max_tokens=12))[0].sequences
    params = SamplingParams(n=2, beam_width=5, max_tokens=12)
    [output] = llm.generate(PROMPT, params)
    assert [PROMPT + each.text for each in output.outputs] == [each.text for each in wide[:2]]
    assert [each.cumulative_logprob for each in output.outputs] == [each.cum_logprob for each in wide[:2]]
    assert output.usage.completion_tokens == 24
    chunks = list(llm.stream(PROMPT, params))
    assert [(chunk.index, chunk.text) for chunk in chunks] == [(each.index, each.text) for each in output.outputs]

    async def ask() -> list[str]:
        async with AsyncLLM("stories", EngineConfig(kv_memory=64 * 2**20, threads=1)) as other:
            return [each.text for each in (await other.generate(PROMPT, params)).outputs]

    assert asyncio.run(ask()) == [each.text for each in output.outputs]


def test_stories_that_end(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=200, early_stopping=True, length_penalty=0.0)
    sequences = llm.beam_search("The end.", params)[0].sequences
    assert {each.finish_reason for each in sequences} == {"stop"}
    assert llm.stats().kv_blocks_used == 0
    ignoring = BeamSearchParams(beam_width=3, max_tokens=30, ignore_eos=True)
    assert {each.finish_reason for each in llm.beam_search("The end.", ignoring)[0].sequences} == {"length"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 3, "beam_width": 2}, "n"),
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": True}, "beam_width"),
        ({"beam_width": 2, "temperature": 0.7}, "temperature"),
        ({"beam_width": 2, "top_k": 5}, "top_k"),
        ({"beam_width": 2, "min_p": 0.1}, "min_p"),
        ({"beam_width": 2, "logit_bias": {5: 1.0}}, "logit_bias"),
        ({"beam_width": 2, "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"beam_width": 2, "stop": ["x"]}, "stop"),
        ({"beam_width": 2, "early_stopping": 1}, "early_stopping"),
        ({"beam_width": 2, "early_stopping": None}, "early_stopping"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"early_stopping": "never"}, "early_stopping"),
        ({"beam_width": 2, "length_penalty": float("nan")}, "length_penalty"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**fields)  # type: ignore[arg-type]
    assert refused.value.param == param


def test_other_parameters_than_a_searchs_are_refused(llm: LLM) -> None:
    with pytest.raises(RequestError, match="params is of type SamplingParams, expected BeamSearchParams"):
        llm.beam_search(PROMPT, SamplingParams(n=2))  # type: ignore[arg-type]


def test_too_wide_for_the_machine_or_the_vocabulary(llm: LLM) -> None:
    with pytest.raises(RequestError, match="beam_width is 17 and 16 sequences run at once"):
        llm.beam_search(PROMPT, BeamSearchParams(beam_width=17, max_tokens=5))
    with pytest.raises(RequestError, match=r"needs .* tokens of KV cache") as refused:
        LLM("stories", EngineConfig(kv_memory=2**20)).beam_search(
            PROMPT, BeamSearchParams(beam_width=16, max_tokens=400)
        )
    assert refused.value.param == "max_tokens"
    with pytest.raises(RequestError, match=r"the model has \d+ tokens"):
        llm.generate(PROMPT, SamplingParams(beam_width=16, stop_token_ids=range(llm.spec.vocab_size - 5), max_tokens=5))
