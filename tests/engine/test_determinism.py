"""The same answer, bit for bit, on the real kernels: docs/determinism.md line by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_tiny
from toy import drain, ids

from headrace.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan
from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder
from headrace.ops.kinds import CacheType
from headrace.ops.select import select_ops
from headrace.sampling_params import SamplingParams
from headrace.types import Request

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

    def make(
        num_blocks: int = 256,
        threads: int = 1,
        quantize: str | None = None,
        dtype: CacheType = CacheType.F16,
        **settings: object,
    ) -> Engine:
        ops, decoder = decoder_of(threads, quantize)
        config = EngineConfig(threads=threads, **settings)
        return Engine(decoder, ops, config, KVPlan(num_blocks, 16, 1, num_blocks * 16, 0, dtype))

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


@pytest.mark.parametrize("dtype", list(CacheType))
def test_alone_against_in_a_batch_of_33_in_any_order(engine_of: Callable[..., Engine], dtype: CacheType) -> None:
    requests = [
        a_request(f"r{i}", 1 + 3 * i, seed=i, temperature=(0.0, 0.7, 1.3)[i % 3], repetition_penalty=1 + 0.1 * (i % 2))
        for i in range(33)
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
    requests = [a_request(f"r{i}", 20 + i, seed=i, max_tokens=40) for i in range(5)]
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
        max_tokens=request.max_tokens, resume=emitted,
    )  # fmt: skip
    rest = answer(engine_of(), [resumed])
    for index, begun in enumerate(emitted):
        token_ids, logprobs = whole["a", index]
        assert rest["a", index] == (token_ids[len(begun) :], logprobs[len(begun) :])
