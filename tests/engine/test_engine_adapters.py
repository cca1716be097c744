"""Adapters in the engine, on real kernels: every request as if it were alone, prefixes apart, loaded and unloaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_determinism import a_request, answer
from tiny_adapters import make_adapter
from tiny_models import make_tiny, reference

from headrace.config import CacheType, EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan
from headrace.engine.stats import counting_on
from headrace.errors import UnknownModel
from headrace.hub.files import ModelFiles
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.loader import load_adapter, load_decoder
from headrace.ops.base import Ops
from headrace.ops.select import select_ops
from headrace.types import AdapterRef, Emitted, Request

NAMES = "abcdefgh"
REFS = [AdapterRef(name, number) for number, name in enumerate(NAMES, 1)]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    folder = make_tiny(request.param, tmp_path_factory.mktemp(request.param))
    for number, name in enumerate(NAMES):
        make_adapter(folder / name, reference(folder), rank=4 + 3 * number, seed=number)
    return folder


@pytest.fixture(scope="module")
def engine_of(model: Path) -> Callable[..., Engine]:
    """A fresh engine with the adapters of NAMES; the model and the adapters are loaded once for each setting."""
    loaded: dict[tuple[int, str | None], tuple[Ops, Decoder, list[PackedAdapter]]] = {}

    def make(num_blocks: int = 256, threads: int = 1, quantize: str | None = None, **settings: object) -> Engine:
        if (threads, quantize) not in loaded:
            ops, files = select_ops(EngineConfig(threads=threads)), ModelFiles("tiny", folder=model)
            decoder = load_decoder(files, ops, quantize=quantize)
            loaded[threads, quantize] = ops, decoder, [load_adapter(model / name, files, decoder) for name in NAMES]
        ops, decoder, packed = loaded[threads, quantize]
        for slot in list(decoder.adapters.slots):
            decoder.adapters.remove(slot)
        plan = KVPlan(num_blocks, 16, 1, num_blocks * 16, 0, CacheType.F16)
        engine = Engine(decoder, ops, EngineConfig(threads=threads, **settings), plan)
        for ref, adapter in zip(REFS, packed, strict=True):
            engine.load_adapter(ref, adapter)
        return engine

    return make


def with_adapters(requests: Sequence[Request]) -> list[Request]:
    """Every ninth request is the model's own."""
    return [replace(each, adapter=[*REFS, None][at % 9]) for at, each in enumerate(requests)]


@pytest.mark.parametrize("quantize", [None, "q8"])
def test_eight_adapters_in_a_batch_of_33_each_as_alone(engine_of: Callable[..., Engine], quantize: str | None) -> None:
    requests = with_adapters([a_request(f"r{i}", 1 + 2 * i, seed=i, max_tokens=6) for i in range(33)])
    alone = {k: v for each in requests for k, v in answer(engine_of(quantize=quantize), [each]).items()}
    assert answer(engine_of(max_batch_tokens=96, quantize=quantize), requests) == alone
    assert answer(engine_of(threads=2, quantize=quantize), requests[::-1]) == alone


def test_adapters_show(engine_of: Callable[..., Engine]) -> None:
    request = a_request("r", 12, temperature=0)
    answers = [answer(engine_of(), [replace(request, adapter=adapter)])["r", 0] for adapter in [*REFS, None]]
    assert len({str(each) for each in answers}) == 9


def test_chunks_prefix_hits_and_preemption(engine_of: Callable[..., Engine]) -> None:
    requests = with_adapters([a_request(f"r{i}", 20 + i, seed=i, max_tokens=40) for i in range(6)])
    ample = answer(engine_of(), requests)
    assert answer(engine_of(max_batch_tokens=7), requests) == ample
    engine = engine_of(num_blocks=10)
    assert answer(engine, requests) == ample
    assert engine.stats().num_preemptions > 0
    engine = engine_of()
    assert [answer(engine, requests) for _ in range(2)] == [ample, ample]
    assert engine.stats().prefix_hits >= 6 * 16


def test_prefixes_are_kept_apart(engine_of: Callable[..., Engine]) -> None:
    engine, request = engine_of(), a_request("r", 50)
    every = [replace(request, adapter=adapter) for adapter in [*REFS, None]]
    alone = [answer(engine_of(), [each]) for each in every]
    assert [answer(engine, [each]) for each in every] == alone
    assert engine.stats().prefix_hits == 0
    assert [answer(engine, [each]) for each in every] == alone
    assert engine.stats().prefix_hits == 9 * 48


def test_a_new_adapter_of_an_old_name_shares_nothing_with_it(engine_of: Callable[..., Engine]) -> None:
    engine, request = engine_of(), a_request("r", 50)
    expected = answer(engine_of(), [replace(request, adapter=REFS[1])])
    answer(engine, [replace(request, adapter=REFS[0])])
    packed = engine_adapters(engine)
    engine.unload_adapter(REFS[0])
    again = AdapterRef(REFS[0].name, 100)
    engine.load_adapter(again, packed[1])
    assert answer(engine, [replace(request, adapter=again)]) == expected
    assert engine.stats().prefix_hits == 0


def test_what_runs_goes_on_after_unloading(engine_of: Callable[..., Engine]) -> None:
    request = replace(a_request("r", 20, max_tokens=8, n=2), adapter=REFS[2])
    whole = answer(engine_of(), [request])
    engine = engine_of()
    num_loaded = len(engine_adapters(engine))
    engine.submit(request)
    got = {("r", index): ([], []) for index in range(2)}
    for step in itertools.count():
        if not engine.has_work:
            break
        for output in engine.step():
            ids, logprobs = got[output.request_id, output.index]
            ids += output.token_ids
            logprobs += [entry[i].logprob for entry, i in zip(output.logprobs or [], output.token_ids, strict=True)]
        if step == 2:
            engine.unload_adapter(REFS[2])
            with pytest.raises(UnknownModel, match="unloaded"):
                engine.submit(replace(request, id="late"))
            assert len(engine_adapters(engine)) == num_loaded
    assert got == whole
    assert len(engine_adapters(engine)) == num_loaded - 1
    with pytest.raises(UnknownModel, match="unloaded"):
        engine.submit(replace(request, id="later"))


def test_a_cancelled_request_lets_go_of_its_adapter(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of()
    engine.submit(replace(a_request("r", 20, n=2), adapter=REFS[2]))
    engine.step()
    engine.unload_adapter(REFS[2])
    engine.cancel("r", 0)
    assert len(engine_adapters(engine)) == 8
    engine.cancel("r")
    assert len(engine_adapters(engine)) == 7


def test_stats_name_the_adapters(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of(max_sequences=3)
    for number, adapter in enumerate((REFS[3], None, REFS[1], REFS[3], REFS[0])):
        engine.submit(replace(a_request(f"r{number}", 4), adapter=adapter))
    assert engine.stats().waiting_adapters == ("a", "b", "d")
    engine.step()
    stats = engine.stats()
    assert (stats.running_adapters, stats.waiting_adapters) == (("b", "d"), ("a", "d"))
    assert (stats.num_adapters, stats.max_adapters) == (8, 3)
    assert counting_on(stats, stats).running_adapters == ("b", "d")
    assert counting_on(stats, None).num_adapters == 0


def test_going_on_after_a_restart(engine_of: Callable[..., Engine]) -> None:
    request = replace(a_request("r", 37, max_tokens=12), adapter=REFS[5])
    token_ids, logprobs = answer(engine_of(), [request])["r", 0]
    rest = answer(engine_of(), [replace(request, resume=(Emitted(tuple(token_ids[:5])),))])
    assert rest["r", 0] == (token_ids[5:], logprobs[5:])


def engine_adapters(engine: Engine) -> Mapping[int, PackedAdapter]:
    return engine._runner._decoder.adapters.slots
