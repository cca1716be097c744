"""Predicted outputs: the same tokens as without, sooner."""

from __future__ import annotations

from pathlib import Path

import pytest
from eager import speculating
from hypothesis import given
from hypothesis import strategies as st
from test_generation_properties import SETTINGS, byte_level
from tiny_models import make_tiny

from headrace import LLM, EngineConfig, SamplingParams
from headrace.errors import RequestError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("byte-level")
    return make_tiny("llama", folder, vocab_size=byte_level(folder), bos_token_id=0, eos_token_id=1)


@pytest.fixture(scope="module")
def plain(folder: Path) -> LLM:
    return LLM(folder, EngineConfig(threads=1, speculation="off"))


@pytest.fixture(scope="module")
def looking_up(folder: Path) -> LLM:
    llm = LLM(folder, EngineConfig(threads=1))
    speculating(llm._engine)
    return llm


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_is_predicted_is_guessed_from_the_first_token_on(plain: LLM, looking_up: LLM, temperature: float) -> None:
    params = SamplingParams(max_tokens=80, seed=5, temperature=temperature, ignore_eos=True)
    expected = plain.generate("here", params)[0].outputs[0]

    def steps(prediction: object) -> int:
        before = looking_up.stats().num_steps
        (found,) = looking_up.generate({"prompt": "here", "prediction": prediction}, params)
        output = found.outputs[0]
        assert (output.text, output.token_ids) == (expected.text, expected.token_ids)
        usage = found.usage
        assert usage.completion_tokens == 80
        assert usage.accepted_prediction_tokens + usage.rejected_prediction_tokens == len(prediction or ())
        return looking_up.stats().num_steps - before

    alone, ids = steps(None), expected.token_ids
    assert steps(ids) <= 16 < alone
    assert steps([*ids[:30], 7, 8, *ids[34:]]) < 30
    assert steps([7] * 50) <= 80


@SETTINGS
@given(st.lists(st.integers(0, 255), max_size=40), st.integers(0, 3))
def test_a_prediction_changes_no_output(plain: LLM, looking_up: LLM, prediction: list[int], seed: int) -> None:
    params = SamplingParams(max_tokens=30, seed=seed, n=2, logit_bias=dict.fromkeys(prediction[:6], 6.0))
    expected = plain.generate("here and there", params)[0]
    (found,) = looking_up.generate([{"prompt": "here and there", "prediction": prediction}], params)
    assert [output.token_ids for output in found.outputs] == [output.token_ids for output in expected.outputs]
    usage = found.usage
    assert usage.accepted_prediction_tokens + usage.rejected_prediction_tokens == 2 * len(prediction)


def test_wrong_predictions_are_refused(plain: LLM) -> None:
    too_long = "x" * (plain.max_context + 1)
    for prediction in (5, [1.5], [10**6], [-1], too_long):
        with pytest.raises(RequestError) as refused:
            plain.generate({"prompt": "here", "prediction": prediction}, SamplingParams(max_tokens=1))
        assert refused.value.param == "prediction"
