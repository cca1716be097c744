"""Beam search: equal to transformers' on tiny models, on shared blocks, whatever happens around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VOCAB_SIZE, make_tiny, prompt, reference
from toy import VOCABULARY, drain, ids, make_engine, make_request

from headrace.config import CacheType, EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan
from headrace.errors import DoesNotFit
from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder
from headrace.ops.select import select_ops
from headrace.sampling_params import SamplingParams
from headrace.types import FinishReason, Request, StepOutput

FAMILIES = ("llama", "gemma2", "gpt2", "qwen3-moe", "mistral")
Found = list[tuple[list[int], float]]
"""Token ids and the sum of their log-probabilities, best first"""


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine_of(model: Path) -> Callable[..., Engine]:
    @cache
    def decoder_of():
        ops = select_ops(EngineConfig(threads=1))
        return ops, load_decoder(ModelFiles("tiny", folder=model), ops)

    def make(num_blocks: int = 256, **settings: object) -> Engine:
        ops, decoder = decoder_of()
        config = EngineConfig(threads=1, **settings)
        return Engine(decoder, ops, config, KVPlan(num_blocks, 16, 1, num_blocks * 16, 0, CacheType.F32))

    return make


def search(
    id_: str, token_ids: list[int], width: int, *, stops: tuple[int, ...] = (), max_tokens: int = 12, **params: object
) -> Request:
    sampling = SamplingParams(beam_width=width, max_tokens=max_tokens, temperature=0, **{"n": width, **params})
    return Request(
        id=id_, prompt_token_ids=tuple(token_ids), params=sampling, seed=0, max_tokens=max_tokens,
        eos_token_ids=frozenset(stops),
    )  # fmt: skip


def results(outputs: dict[tuple[str, int], list[StepOutput]], id_: str) -> Found:
    found: Found = []
    while (key := (id_, len(found))) in outputs:
        [output] = outputs[key]
        assert output.cumulative_logprob is not None
        found.append((output.token_ids, output.cumulative_logprob))
    return found


def expected(model: Path, request: Request) -> Found:
    """What transformers' generate finds, its scores without the length penalty."""
    import torch

    params, stops = request.params, sorted(request.eos_token_ids)
    given = torch.tensor([request.prompt_token_ids])
    out = reference(model).generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, num_beams=params.beam_width,
        num_return_sequences=params.n, max_new_tokens=request.max_tokens, length_penalty=params.length_penalty,
        early_stopping=params.early_stopping, eos_token_id=stops or None, pad_token_id=VOCAB_SIZE + 5,
        min_new_tokens=params.min_tokens or None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    found: Found = []
    for row, score in zip(out.sequences[:, given.shape[1] :].tolist(), out.sequences_scores.tolist(), strict=True):
        token_ids = [token_id for token_id in row if token_id < VOCAB_SIZE]
        found.append((token_ids, score * len(token_ids) ** params.length_penalty))
    return found


def assert_same(ours: Found, theirs: Found) -> None:
    assert [token_ids for token_ids, _ in ours] == [token_ids for token_ids, _ in theirs]
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in theirs], rtol=1e-4, atol=1e-3)


def likely_stops(model: Path, token_ids: list[int], count: int) -> tuple[int, ...]:
    """Tokens that come up in the search, so that many hypotheses end."""
    found = expected(model, search("a", token_ids, 4, max_tokens=8))
    common = [token_id for row, _ in found for token_id in row[2:]]
    return tuple(dict.fromkeys(common))[:count]


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_equal_to_transformers(
    model: Path, engine_of: Callable[..., Engine], early_stopping: bool | str, length_penalty: float
) -> None:
    requests = []
    for seed, (length, width, num_stops) in enumerate([(5, 2, 1), (16, 3, 2), (33, 5, 3), (20, 8, 1), (40, 4, 0)]):
        token_ids = prompt(length, seed)
        request = search(
            f"r{seed}",
            token_ids,
            width,
            stops=likely_stops(model, token_ids, num_stops),
            max_tokens=(12, 20, 9, 14, 18)[seed],
            early_stopping=early_stopping,
            length_penalty=length_penalty,
        )
        requests.append(request)
    engine = engine_of()
    for request in requests:
        engine.submit(request)
    outputs = drain(engine)
    for request in requests:
        assert_same(results(outputs, request.id), expected(model, request))


def test_the_search_ends_in_different_ways(model: Path, engine_of: Callable[..., Engine]) -> None:
    engine, token_ids = engine_of(), prompt(16, 1)
    request = search("a", token_ids, 4, stops=likely_stops(model, token_ids, 2), max_tokens=16, length_penalty=0.0)
    engine.submit(request)
    outputs = [each for [each] in drain(engine).values()]
    assert {each.finish_reason for each in outputs} & {FinishReason.STOP}
    for each in outputs:
        has_stopped = each.token_ids[-1] in request.eos_token_ids
        assert each.finish_reason is (FinishReason.STOP if has_stopped else FinishReason.LENGTH)
        assert each.stop_token_id == (each.token_ids[-1] if has_stopped else None)
        assert not request.eos_token_ids.intersection(each.token_ids[:-1])


def test_min_tokens_and_fewer_results_than_beams(model: Path, engine_of: Callable[..., Engine]) -> None:
    token_ids = prompt(21, 3)
    stops = likely_stops(model, token_ids, 3)
    request = search("a", token_ids, 6, stops=stops, n=3, min_tokens=7, max_tokens=15)
    engine = engine_of()
    engine.submit(request)
    found = results(drain(engine), "a")
    assert len(found) == 3
    assert_same(found, expected(model, request))


def test_beside_others_in_chunks_and_short_of_blocks(engine_of: Callable[..., Engine]) -> None:
    searches = [search(f"s{i}", prompt(30 + 9 * i, i), 2 + i, max_tokens=24, logprobs=2) for i in range(4)]
    plain = [
        Request(
            id=f"p{i}", prompt_token_ids=tuple(prompt(20 + i, 50 + i)), params=SamplingParams(max_tokens=30, n=2),
            seed=i, max_tokens=30,
        )
        for i in range(3)
    ]  # fmt: skip
    alone = {}
    for request in (*searches, *plain):
        engine = engine_of()
        engine.submit(request)
        alone |= drain(engine)
    preempted = 0
    for settings in (
        {},
        {"max_batch_tokens": 7},
        {"num_blocks": 22},
        {"num_blocks": 22, "prefix_cache": False, "max_batch_tokens": 64},
        {"max_sequences": 5},
        {"max_sequences": 6, "num_blocks": 24, "max_batch_tokens": 16},
        {"prefix_cache": False},
    ):
        engine = engine_of(**settings)
        early: dict[tuple[str, int], list[StepOutput]] = {}
        for at, request in enumerate([*plain, *searches]):
            engine.submit(request)
            for output in [output for _ in range(at) for output in engine.step()]:
                early.setdefault((output.request_id, output.index), []).append(output)
        late = drain(engine)
        outputs = {key: early.get(key, []) + late.get(key, []) for key in early | late}
        assert outputs.keys() == alone.keys()
        for key in alone:
            assert ids(outputs[key]) == ids(alone[key]), (settings, key)
            if key[0].startswith("s"):
                [output], [same] = outputs[key], alone[key]
                assert (output.logprobs, output.cumulative_logprob) == (same.logprobs, same.cumulative_logprob)
        preempted += engine.stats().num_preemptions
        assert engine.stats().kv_blocks_used == 0
    assert preempted > 0


def test_log_probabilities_of_each_token(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of()
    engine.submit(search("a", prompt(25), 3, logprobs=4, prompt_logprobs=0))
    outputs = drain(engine)
    assert len(outputs["a", 0][0].prompt_logprobs or ()) == 25
    for index in range(3):
        [output] = outputs["a", index]
        assert output.logprobs is not None
        assert output.cumulative_logprob is not None
        chosen = [entry[token_id] for token_id, entry in zip(output.token_ids, output.logprobs, strict=True)]
        assert sum(each.logprob for each in chosen) == pytest.approx(output.cumulative_logprob, abs=1e-6)
        assert output.token_ids == [next(iter(entry)) for entry in output.logprobs]
        assert all(4 <= len(entry) <= 5 for entry in output.logprobs)
        plain = Request(
            id="b", prompt_token_ids=(*prompt(25), *output.token_ids), seed=0, max_tokens=1,
            params=SamplingParams(max_tokens=1, prompt_logprobs=0),
        )  # fmt: skip
        engine.submit(plain)
        [[whole]] = drain(engine).values()
        for token_id, mine, entry in zip(output.token_ids, chosen, (whole.prompt_logprobs or [])[25:], strict=True):
            assert entry is not None
            assert entry[token_id] == mine  # to the bit


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_beams_share_their_blocks(prefix_cache: bool) -> None:
    width, length, max_tokens = 4, 16 * 12 + 5, 40
    engine, decoder = make_engine(num_blocks=64, prefix_cache=prefix_cache)
    engine.submit(make_request("a", list(range(60)) * 3 + [1] * 17, n=width, beam_width=width, max_tokens=max_tokens))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.stats().kv_blocks_used)
    assert decoder.num_tokens == length + width * (max_tokens - 1)  # each token once: what is half full is copied
    assert 12 + width <= most <= 12 + width * 3  # the prompt's full blocks once
    assert engine.stats().kv_blocks_used == 0
    if not prefix_cache:
        assert engine.stats().kv_blocks_cached == 0


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_search_comes_back_with_all_its_beams(prefix_cache: bool) -> None:
    width, length, max_tokens = 4, 16 * 12 + 5, 100
    engine, decoder = make_engine(num_blocks=40, prefix_cache=prefix_cache)
    engine.submit(make_request("plain", [1] * 200, max_tokens=250))  # it came first, and grows
    engine.submit(make_request("a", list(range(60)) * 3 + [1] * 17, n=width, beam_width=width, max_tokens=max_tokens))
    drain(engine)
    assert engine.stats().num_preemptions == width  # once, and not again before there is room for all
    once = 200 + 249 + length + width * (max_tokens - 1)
    assert decoder.num_tokens - once < (length if prefix_cache else 2 * length)  # the prompt at most once more


def test_cancelling_frees_all_beams() -> None:
    engine, _ = make_engine()
    for steps in range(12):
        engine.submit(make_request("a", [1, 2, 3] * 7, n=3, beam_width=5))
        for _ in range(steps):
            engine.step()
        engine.cancel("a", 1)  # one of the completions: they come together
        assert engine.has_work
        engine.cancel("a")
        assert not engine.has_work
        assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("seed", range(25))
def test_any_squeeze_gives_the_same_results(seed: int) -> None:
    random = np.random.default_rng(seed)
    requests = [
        make_request(
            f"r{i}", random.integers(0, VOCABULARY, random.integers(1, 60)).tolist(), n=int(width),
            beam_width=int(width), max_tokens=int(random.integers(1, 30)), stop_token_ids=[5, 6],
            early_stopping=bool(random.integers(2)),
        )
        for i, width in enumerate(random.integers(1, 7, 4))
    ]  # fmt: skip
    requests.append(make_request("plain", [1, 2, 3], n=3))
    roomy, _ = make_engine()
    for request in requests:
        roomy.submit(request)
    tight, _ = make_engine(
        num_blocks=int(random.integers(26, 40)), max_sequences=int(random.integers(6, 12)),
        max_batch_tokens=int(random.integers(1, 50)), prefix_cache=bool(random.integers(2)),
    )  # fmt: skip
    for request in random.permutation(np.array(requests, object)):
        tight.submit(request)
        for _ in range(random.integers(0, 6)):
            tight.step()
    wanted, found = drain(roomy), drain(tight)
    found = {key: value for key, value in found.items() if key[0] != "plain"}
    assert {key: [o.token_ids for o in value] for key, value in wanted.items() if key in found} == {
        key: [o.token_ids for o in value] for key, value in found.items()
    }
    assert tight.stats().kv_blocks_used == 0


def test_what_can_never_run_is_refused() -> None:
    engine, _ = make_engine(num_blocks=8, max_sequences=4)
    with pytest.raises(DoesNotFit, match="beam_width is 5 and 4 sequences run at once"):
        engine.plan.check_fits(4, 10, 10, 5)
    engine.plan.check_fits(4, 64, 16, 4)
    with pytest.raises(DoesNotFit, match=r"needs 192 tokens of KV cache and there are 128"):
        engine.plan.check_fits(4, 64, 17, 4)


def test_how_far_a_search_is_can_be_seen() -> None:
    engine, _ = make_engine(max_batch_tokens=16)
    engine.submit(make_request("plain", [1] * 40, max_tokens=30))
    engine.submit(make_request("a", [1, 2, 3] * 7, n=3, beam_width=3, max_tokens=20))
    seen = []
    while engine.has_work:
        outputs = engine.step()
        assert not engine.num_computed.keys() & {output.request_id for output in outputs}
        seen.append(engine.num_computed.get("a"))
    while seen[-1] is None:
        seen.pop()
    assert seen == sorted(seen)
    assert seen[-1] == 21 + 3 * 18  # the last of 19 is computed in the step that gives the results
    assert engine.num_computed == {}
