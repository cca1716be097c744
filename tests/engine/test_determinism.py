"""The same answer, bit for bit, on the real kernels: docs/determinism.md line by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from eager import speculating
from tiny_models import SWITCH, make_tiny
from toy import drain, ids

from headrace.config import CacheType, EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan
from headrace.engine.sequence import Sequence as EngineSequence
from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder
from headrace.ops.select import select_ops
from headrace.sampling_params import SamplingParams
from headrace.types import Emitted, Request

Answer = dict[tuple[str, int], tuple[list[int], list[float]]]
"""(request id, index) → token ids and the log-probability of each, exactly"""

FAMILIES = ("llama", "gemma2", "gpt2", "qwen3-moe")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine_of(model: Path) -> Callable[..., Engine]:
    """A fresh engine on the model; what it loads is kept for each (threads, quantize)."""

    @cache
    def decoder_of(threads: int, quantize: str | None):
        ops = select_ops(EngineConfig(threads=threads, quantize=quantize))
        return ops, load_decoder(ModelFiles("tiny", folder=model), ops, quantize=quantize)

    @cache
    def draft_of(threads: int, quantize: str | None):
        return load_decoder(ModelFiles("tiny", folder=model), decoder_of(threads, None)[0], quantize=quantize)

    def make(
        num_blocks: int = 256,
        threads: int = 1,
        quantize: str | None = None,
        dtype: CacheType = CacheType.F16,
        draft: str | None = None,
        **settings: object,
    ) -> Engine:
        """`draft`: the same model guesses for itself, "exact" or quantised."""
        ops, decoder = decoder_of(threads, quantize)
        config = EngineConfig(threads=threads, **settings)
        plan = KVPlan(num_blocks, 16, 1, num_blocks * 16, 0, dtype)
        drafts = None if draft is None else draft_of(threads, None if draft == "exact" else draft)
        return Engine(decoder, ops, config, plan, draft=drafts)

    return make


def a_request(id_: str, length: int, *, seed: int = 0, max_tokens: int = 12, **params: object) -> Request:
    prompt = np.random.default_rng(1000 * seed + length).integers(3, 90, length)
    sampling = SamplingParams(max_tokens=max_tokens, logprobs=0, **{"temperature": 0.9, "top_p": 0.95, **params})
    return Request(
        id=id_, prompt_token_ids=tuple(prompt.tolist()), params=sampling, seed=seed, max_tokens=max_tokens
    )  # fmt: skip


def answer(engine: Engine, requests: Sequence[Request]) -> Answer:
    for request in requests:
        engine.submit(request)
    found: Answer = {}
    for key, outputs in drain(engine).items():
        token_ids = ids(outputs)
        entries = [entry for output in outputs for entry in output.logprobs or []]
        found[key] = token_ids, [entry[i].logprob for entry, i in zip(entries, token_ids, strict=True)]
    return found


SAMPLERS = (
    {"typical_p": 0.8, "repetition_penalty": 1.1},
    {"xtc_probability": 0.5, "xtc_threshold": 0.01, "dry_multiplier": 0.8},
    {"mirostat": 2, "mirostat_tau": 3.0, "no_repeat_ngram_size": 2},
    {"dynatemp_range": 0.5, "top_n_sigma": 2.0, "allowed_token_ids": list(range(3, 80))},
)


@pytest.mark.parametrize("dtype", list(CacheType))
def test_alone_against_in_a_batch_of_33_in_any_order(engine_of: Callable[..., Engine], dtype: CacheType) -> None:
    requests = [
        a_request(f"r{i}", 1 + 3 * i, seed=i, temperature=(0.0, 0.7, 1.3)[i % 3], **SAMPLERS[i % 4]) for i in range(33)
    ]
    alone = {key: value for request in requests for key, value in answer(engine_of(dtype=dtype), [request]).items()}
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(33)
        assert answer(engine_of(max_batch_tokens=128, dtype=dtype), [requests[at] for at in order]) == alone


def test_whole_against_chunks_of_every_size(engine_of: Callable[..., Engine]) -> None:
    request = a_request("a", 65, max_tokens=4)
    whole = answer(engine_of(), [request])
    for budget in range(1, 65):
        assert answer(engine_of(max_batch_tokens=budget), [request]) == whole, f"chunks of {budget}"


def test_cold_against_prefix_hit(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of()
    request = a_request("a", 70)
    cold = answer(engine, [request])
    assert answer(engine, [request]) == cold
    assert engine.stats().prefix_hits == 64
    longer = Request(
        id="b", prompt_token_ids=(*request.prompt_token_ids[:50], 5, 6, 7), params=request.params, seed=1, max_tokens=12
    )
    assert answer(engine, [longer]) == answer(engine_of(), [longer])


def test_with_and_without_preemption(engine_of: Callable[..., Engine]) -> None:
    requests = [a_request(f"r{i}", 20 + i, seed=i, max_tokens=40, **SAMPLERS[i % 4]) for i in range(5)]
    ample = answer(engine_of(), requests)
    engine = engine_of(num_blocks=9)
    assert answer(engine, requests) == ample
    assert engine.stats().num_preemptions > 0


def test_1_thread_against_2(engine_of: Callable[..., Engine]) -> None:
    requests = [a_request(f"r{i}", 40 + i, seed=i) for i in range(4)]
    assert answer(engine_of(threads=2), requests) == answer(engine_of(threads=1), requests)


def test_quantised_weights_too(engine_of: Callable[..., Engine]) -> None:
    requests = [a_request(f"r{i}", 30 + i, seed=i) for i in range(9)]
    for quantize in ("q8", "q4"):
        alone = {k: v for r in requests for k, v in answer(engine_of(quantize=quantize), [r]).items()}
        together = answer(engine_of(quantize=quantize, threads=2, max_batch_tokens=24), requests)
        assert together == alone


def test_going_on_after_a_restart(engine_of: Callable[..., Engine]) -> None:
    request = a_request("a", 37, n=2)
    whole = answer(engine_of(), [request])
    emitted = (tuple(whole["a", 0][0][:5]), tuple(whole["a", 1][0][:9]))
    resumed = Request(
        id="a", prompt_token_ids=request.prompt_token_ids, params=request.params, seed=request.seed,
        max_tokens=request.max_tokens, resume=tuple(map(Emitted, emitted)),
    )  # fmt: skip
    rest = answer(engine_of(), [resumed])
    for index, begun in enumerate(emitted):
        token_ids, logprobs = whole["a", index]
        assert rest["a", index] == (token_ids[len(begun) :], logprobs[len(begun) :])


FEW = dict.fromkeys(range(10, 14), 9.0)
"""A bias to some tokens, so that the text repeats itself in part"""


def _repetitive_requests() -> list[Request]:
    kinds: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 1.0, "logit_bias": FEW},
        {"temperature": 1.7, "logit_bias": FEW, "top_p": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
        {"temperature": 1.0, "logit_bias": FEW, "presence_penalty": 0.7, "top_k": 3},
        {"temperature": 0.8, "logit_bias": FEW, "min_tokens": 20, "stop_token_ids": [11]},
        {"temperature": 0.8, "logit_bias": FEW, "stop_token_ids": [13]},
        {"temperature": 1.0, "logit_bias": FEW, "dry_multiplier": 0.3, "no_repeat_ngram_size": 9},
        {"temperature": 1.2, "logit_bias": FEW, "xtc_probability": 0.3, "typical_p": 0.95, "top_n_sigma": 2.0},
        {"temperature": 1.0, "logit_bias": FEW, "mirostat": 2},
        {"temperature": 0.5, "logit_bias": FEW, "n": 3, "prompt_logprobs": 1},
    ]
    return [a_request(f"s{at}", 7 + 11 * at, seed=at, max_tokens=48, **kind) for at, kind in enumerate(kinds)]


def test_with_and_without_speculation(engine_of: Callable[..., Engine]) -> None:
    requests = _repetitive_requests()
    plain = answer(engine_of(speculation="off"), requests)
    for settings in ({}, {"num_blocks": 24}, {"max_batch_tokens": 9}, {"prefix_cache": False, "threads": 2}):
        engine = speculating(engine_of(**settings))
        assert answer(engine, requests) == plain, settings
        stats = engine.stats()
        assert 0 < stats.accepted_tokens < stats.draft_tokens
        assert answer(engine, requests) == plain, settings  # what is in the prefix cache by now
        assert stats.num_preemptions > 0 or "num_blocks" not in settings
    assert {key: value for request in requests for key, value in answer(engine_of(), [request]).items()} == plain


def test_going_on_after_a_restart_with_speculation(engine_of: Callable[..., Engine]) -> None:
    request = _repetitive_requests()[1]
    token_ids, logprobs = answer(engine_of(speculation="off"), [request])["s1", 0]
    for begun in range(0, 48, 5):
        resumed = Request(
            id="s1", prompt_token_ids=request.prompt_token_ids, params=request.params, seed=request.seed,
            max_tokens=request.max_tokens, resume=(Emitted(tuple(token_ids[:begun])),),
        )  # fmt: skip
        rest = answer(speculating(engine_of()), [resumed])
        assert rest["s1", 0] == (token_ids[begun:], logprobs[begun:])


def test_with_and_without_a_draft_model(engine_of: Callable[..., Engine]) -> None:
    requests = _repetitive_requests()
    plain = answer(engine_of(speculation="off"), requests)
    cases: list[dict[str, object]] = [
        {},
        {"num_blocks": 24},
        {"max_batch_tokens": 9, "max_sequences": 5},
        {"prefix_cache": False, "threads": 2},
    ]
    for settings in cases:
        engine = speculating(engine_of(draft="q4", **settings))
        assert answer(engine, requests) == plain, settings
        assert engine._drafting._model is not None
        assert 0 < engine.stats().accepted_tokens < engine.stats().draft_tokens
        assert answer(engine, requests) == plain, settings
        assert engine.stats().num_preemptions > 0 or "num_blocks" not in settings


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.7])
def test_a_model_guesses_itself_at_any_temperature(engine_of: Callable[..., Engine], temperature: float) -> None:
    request = a_request("a", 100, max_tokens=60, temperature=temperature, repetition_penalty=1.1)
    plain = answer(engine_of(speculation="off"), [request])
    engine = speculating(engine_of(draft="exact", max_batch_tokens=32))
    assert answer(engine, [request]) == plain
    model, stats = engine._drafting._model, engine.stats()
    assert model is not None
    assert stats.draft_tokens > 40
    assert stats.accepted_tokens > 0.9 * stats.draft_tokens
    model.release_ended()
    assert model._blocks.num_used == 0
    assert len(model._free_rows) == 128


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """A fresh engine of a model whose keys are rotated otherwise in sequences of more than SWITCH tokens."""
    pytest.importorskip("transformers")
    ops = select_ops(EngineConfig(threads=1))
    files = ModelFiles("tiny", folder=make_tiny("phi3-longrope", tmp_path_factory.mktemp("longrope")))
    decoder, draft = load_decoder(files, ops), load_decoder(files, ops, quantize="q4")

    def make(has_draft: bool = False, **settings: object) -> Engine:
        plan = KVPlan(64, 16, 1, 512, 0, CacheType.F16)
        return Engine(decoder, ops, EngineConfig(threads=1, **settings), plan, draft=draft if has_draft else None)

    return make


@pytest.mark.parametrize("has_draft", [False, True], ids=["looked up", "draft model"])
def test_guesses_at_the_switch_of_ropes_tables(longrope: Callable[..., Engine], has_draft: bool) -> None:
    """While a sequence is within the short table no guess lies beyond it: its key would be rotated by the wrong one."""
    lengths = (SWITCH - 20, SWITCH - 9, SWITCH - 3, SWITCH - 1, SWITCH, SWITCH + 1)
    requests = [
        a_request(f"{kind}{length}", length, max_tokens=30, logit_bias=bias, n=2)
        for kind, bias in (("few", None), ("some", FEW), ("all", {10: 50.0}))  # guesses that are right
        for length in lengths
    ]
    plain = answer(longrope(speculation="off"), requests)
    for settings in ({}, {"max_batch_tokens": 11}, {"prefix_cache": False}):
        engine = speculating(longrope(has_draft, **settings))
        lasts = _last_positions(engine)
        assert answer(engine, requests) == plain, settings
        assert 0 < engine.stats().accepted_tokens < engine.stats().draft_tokens
        assert SWITCH - 1 in lasts  # guesses up to the last position of the short table
        assert max(lasts) > SWITCH + 5  # and behind it
    for request in requests:
        for cut in range(0, 30, 4):
            begun = tuple(Emitted(tuple(plain[request.id, index][0][:cut])) for index in range(2))
            resumed = replace(request, resume=begun)
            rest = answer(speculating(longrope(has_draft)), [resumed])
            for index in range(2):
                token_ids, logprobs = plain[request.id, index]
                assert rest[request.id, index] == (token_ids[cut:], logprobs[cut:])


def _last_positions(engine: Engine) -> set[int]:
    """Positions of the last guesses of every step, as they come in."""
    found: set[int] = set()
    draft = engine._drafting.draft

    def watched(sequences: Sequence[EngineSequence]) -> None:
        draft(sequences)
        found.update(len(each.token_ids) + len(each.drafts) - 1 for each in sequences if each.drafts)

    engine._drafting.draft = watched  # type: ignore[method-assign]
    return found
