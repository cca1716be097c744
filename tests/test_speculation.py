"""Speculation from outside: the same outputs with and without, whatever is asked; which draft models are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from eager import speculating
from hypothesis import given
from hypothesis import strategies as st
from test_generation_properties import SETTINGS, byte_fallback, byte_level, requests
from tiny_models import make_tiny

from headrace import LLM, EngineConfig, SamplingParams
from headrace.errors import ConfigError


def tiny(folder: Path, tokenizer: bool = True, **changes: int) -> Path:
    folder.mkdir()
    vocab_size = byte_level(folder) if tokenizer else 300
    return make_tiny("llama", folder, **{"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 1, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tiny(tmp_path_factory.mktemp("models") / "byte-level")


@pytest.fixture(scope="module")
def plain(folder: Path) -> LLM:
    return LLM(folder, EngineConfig(threads=1, speculation="off"))


@pytest.fixture(scope="module", params=["looked up", "draft model"])
def eager(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    draft = None
    if request.param == "draft model":
        draft = str(tiny(tmp_path_factory.mktemp("drafts") / "smaller", num_hidden_layers=1))
    llm = LLM(folder, EngineConfig(threads=1, draft=draft, max_batch_tokens=40))
    speculating(llm._engine)
    return llm


REPETITIVE = dict.fromkeys((60, 61, 62), 20.0)


@SETTINGS
@given(requests(), st.booleans())
def test_the_same_outputs_whatever_is_asked(
    plain: LLM, eager: LLM, asked: list[tuple[object, SamplingParams]], repetitive: bool
) -> None:
    from dataclasses import replace

    prompts = [prompt for prompt, _ in asked]
    params = [
        replace(own, seed=own.seed or 3, logit_bias=REPETITIVE if repetitive else own.logit_bias, max_tokens=40)
        for _, own in asked
    ]
    expected = plain.generate(prompts, params)
    found = eager.generate(prompts, params)
    for one, other in zip(found, expected, strict=True):
        assert one.outputs == other.outputs
        assert one.prompt_logprobs == other.prompt_logprobs
        assert one.usage.completion_tokens == other.usage.completion_tokens


def test_guesses_were_computed(eager: LLM) -> None:
    params = SamplingParams(max_tokens=60, seed=1, logit_bias=REPETITIVE, ignore_eos=True)
    before = eager.stats()
    eager.generate(["here and there"], params)
    after = eager.stats()
    assert after.accepted_tokens > before.accepted_tokens
    assert after.draft_tokens > before.draft_tokens
    assert after.num_steps - before.num_steps < 60


def test_streams_say_the_same_in_fewer_chunks(plain: LLM, eager: LLM) -> None:
    params = SamplingParams(max_tokens=60, seed=1, logit_bias=REPETITIVE, ignore_eos=True, stop=["never"])
    chunks = list(eager.stream("here and there", params))
    assert "".join(map(str, chunks)) == plain.generate("here and there", params)[0].outputs[0].text
    assert len(chunks) < 60


def test_a_draft_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    make_tiny("llama", tmp_path, vocab_size=byte_fallback(tmp_path))
    with pytest.raises(ConfigError, match=r"another vocabulary: token 0 is '<unk>' there and '<s>' in the model"):
        LLM(folder, EngineConfig(draft=str(tmp_path)))


def test_without_a_tokenizer_only_the_number_of_ids_can_be_compared(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    bare = tiny(tmp_path / "a", tokenizer=False)
    with pytest.raises(ConfigError, match="no tokenizer"):
        LLM(folder, EngineConfig(draft=str(bare)))
    with pytest.raises(ConfigError, match="has 280 token ids"):
        LLM(bare, EngineConfig(draft=str(tiny(tmp_path / "b", tokenizer=False, vocab_size=280))))
    assert LLM(bare, EngineConfig(draft=str(bare))).generate([5, 6])[0].outputs


def test_a_draft_model_counts_in_the_memory(folder: Path, plain: LLM) -> None:
    memory = 1 << 22
    alone = LLM(folder, EngineConfig(kv_memory=memory)).kv_plan
    both = LLM(folder, EngineConfig(kv_memory=memory, draft=str(folder)))
    assert both.kv_plan.block_bytes == 2 * alone.block_bytes
    assert both.kv_plan.num_blocks == alone.num_blocks // 2
    assert any(line.startswith("draft ") for line in both.load_report)


def test_a_draft_and_no_speculation_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="speculation is off"):
        EngineConfig(draft="stories", speculation="off")
    with pytest.raises(ConfigError, match="expected one of auto, off"):
        EngineConfig(speculation="on")
