"""The engine on the toy decoder: scheduling must never show in the output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import drain, ids, make_engine, make_request

from headrace.engine.rows import Row
from headrace.engine.sampling import SamplingTable
from headrace.engine.sequence import Sequence
from headrace.errors import DoesNotFit
from headrace.types import Emitted, FinishReason, Request

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 64, length).tolist() for length in (1, 5, 15, 16, 17, 33, 64, 100)]


def alone(request: Request, **engine_settings: object) -> list[int]:
    engine, _ = make_engine(**engine_settings)
    engine.submit(request)
    return ids(drain(engine)[request.id, 0])


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_chunks_of_every_size_give_the_same(prompt: list[int]) -> None:
    request = make_request("a", prompt)
    whole = alone(request)
    assert len(whole) == 20
    for budget in (1, 2, 3, 15, 16, 17, 31, 64):
        assert alone(request, max_batch_tokens=budget) == whole


def test_batch_of_33_equals_each_alone_in_any_order() -> None:
    requests = [make_request(f"r{i}", PROMPTS[i % 8] + [i]) for i in range(33)]
    expected = {request.id: alone(request) for request in requests}
    for seed in range(3):
        engine, decoder = make_engine(num_blocks=512, max_batch_tokens=64)
        for at in np.random.default_rng(seed).permutation(33):
            engine.submit(requests[at])
        outputs = drain(engine)
        assert {id_: ids(o) for (id_, _), o in outputs.items()} == expected
        assert max(len(batch.query_start) - 1 for batch in decoder.batches) == 33


def test_a_prefix_hit_changes_nothing_and_saves_work() -> None:
    request = make_request("a", PROMPTS[-1])
    engine, decoder = make_engine()
    engine.submit(request)
    cold = drain(engine)["a", 0]
    computed = decoder.num_tokens
    engine.submit(request)
    warm = drain(engine)["a", 0]
    assert ids(warm) == ids(cold)
    assert (cold[0].num_cached_tokens, warm[0].num_cached_tokens) == (0, 96)
    assert decoder.num_tokens - computed == computed - 96
    assert engine.stats().prefix_hits == 96


@pytest.mark.parametrize("length", [15, 16, 17, 32, 64])
def test_a_hit_always_leaves_the_last_token_to_compute(length: int) -> None:
    request = make_request("a", list(range(length)))
    engine, _ = make_engine()
    for _ in range(2):
        engine.submit(request)
        outputs = drain(engine)["a", 0]
        assert ids(outputs) == alone(request)
    assert outputs[0].num_cached_tokens == (length - 1) // 16 * 16


def test_each_position_and_completion_has_a_draw_of_its_own() -> None:
    table = SamplingTable(4, 64)
    sequences = [Sequence(make_request("a", [1, 2], n=2, seed=3), index, index) for index in range(2)]
    for row, sequence in enumerate(sequences):
        sequence.row = row
    sequences[1].token_ids += [5, 6, 7]
    batch = table.batch([Row(sequence) for sequence in sequences])
    assert batch.rows["position"].tolist() == [0, 3]
    assert batch.rows["stream"].tolist() == [0, 1]
    assert batch.rows["seed"].tolist() == [7, 7]


def test_a_salt_keeps_prefixes_apart() -> None:
    engine, _ = make_engine()
    plain = make_request("a", PROMPTS[-1])
    salted = Request(
        id="b", prompt_token_ids=plain.prompt_token_ids, params=plain.params, seed=7, max_tokens=20, cache_salt="x"
    )
    for request in (plain, salted):
        engine.submit(request)
        assert drain(engine)[request.id, 0][0].num_cached_tokens == 0


def test_preemption_changes_nothing() -> None:
    requests = [make_request(f"r{i}", PROMPTS[4 + i % 3], max_tokens=60) for i in range(6)]
    expected = {request.id: alone(request) for request in requests}
    for prefix_cache in (True, False):
        engine, _ = make_engine(num_blocks=9, max_context=144, prefix_cache=prefix_cache)
        for request in requests:
            engine.submit(request)
        outputs = drain(engine)
        assert {id_: ids(o) for (id_, _), o in outputs.items()} == expected
        assert engine.stats().num_preemptions > 0
        assert engine.stats().kv_blocks_used == 0


def test_n_completions_share_the_prompt_and_differ() -> None:
    request = make_request("a", PROMPTS[-1], n=4)
    engine, decoder = make_engine()
    engine.submit(request)
    outputs = drain(engine)
    texts = [ids(outputs["a", index]) for index in range(4)]
    assert len({tuple(text) for text in texts}) == 4
    assert texts[0] == alone(make_request("a", PROMPTS[-1]))
    # 100 prompt tokens once, then 4 more for each sibling's partial block, and 19 decodes each
    assert decoder.num_tokens == 100 + 3 * 4 + 4 * 19


def test_going_on_after_a_restart_changes_nothing() -> None:
    request = make_request("a", PROMPTS[5], n=2)
    engine, _ = make_engine()
    engine.submit(request)
    whole = drain(engine)
    emitted = (tuple(ids(whole["a", 0])[:7]), tuple(ids(whole["a", 1])[:3]))
    again, _ = make_engine()
    again.submit(
        Request(
            id="a", prompt_token_ids=request.prompt_token_ids, params=request.params, seed=7, max_tokens=20,
            resume=tuple(map(Emitted, emitted)),
        )
    )  # fmt: skip
    rest = drain(again)
    for index in range(2):
        assert [*emitted[index], *ids(rest["a", index])] == ids(whole["a", index])


def test_a_completion_that_has_ended_is_not_run_again() -> None:
    request = make_request("a", PROMPTS[5], n=3)
    engine, _ = make_engine()
    engine.submit(request)
    whole = drain(engine)
    engine.submit(replace(request, resume=(Emitted(), Emitted((1, 2), has_ended=True), Emitted())))
    again = drain(engine)
    assert {key: ids(outputs) for key, outputs in again.items()} == {
        key: ids(outputs) for key, outputs in whole.items() if key != ("a", 1)
    }


def test_longrope_recomputes_at_the_switch() -> None:
    request = make_request("a", PROMPTS[5], max_tokens=40)  # 33 tokens
    engine, _ = make_engine(rope_switch=50)
    engine.submit(request)
    output = ids(drain(engine)["a", 0])
    history = list(request.prompt_token_ids)
    for token_id in output:  # the rows that a single forward of the whole history would have used
        shift = 1000 * (len(history) > 50)
        fresh, toy = make_engine(rope_switch=50)
        fresh.submit(make_request("b", history, max_tokens=1, temperature=0.0))
        drain(fresh)
        assert (toy.batches[-1].rope_rows == np.arange(len(history)) + shift).all()
        history.append(token_id)
    greedy = make_request("g", PROMPTS[5], max_tokens=40, temperature=0.0)
    engine, _ = make_engine(rope_switch=50)
    engine.submit(greedy)
    history = list(greedy.prompt_token_ids)
    for token_id in ids(drain(engine)["g", 0]):
        fresh, _ = make_engine(rope_switch=50)
        fresh.submit(make_request("b", history, max_tokens=1, temperature=0.0))
        assert ids(drain(fresh)["b", 0]) == [token_id]
        history.append(token_id)


def test_cancelling_frees_blocks_at_once() -> None:
    engine, _ = make_engine()
    for i, prompt in enumerate(PROMPTS):
        engine.submit(make_request(f"r{i}", prompt, n=2))
    for _ in range(3):
        engine.step()
    assert engine.stats().kv_blocks_used > 0
    engine.cancel("r7", 1)
    assert list(engine._sequences["r7"]) == [0]
    for i in range(8):
        engine.cancel(f"r{i}")
    engine.cancel("unknown")
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.num_running, stats.num_waiting, engine.has_work) == (0, 0, 0, False)


def test_what_can_never_fit_is_refused_with_both_numbers() -> None:
    engine, _ = make_engine(num_blocks=4)
    with pytest.raises(DoesNotFit, match=r"needs 80 tokens of KV cache and there are 64"):
        engine.submit(make_request("a", PROMPTS[6], max_tokens=16))
    assert not engine.has_work


def test_end_of_sequence_min_tokens_and_ignore_eos() -> None:
    free = alone(make_request("a", PROMPTS[3]))
    end = free[4]
    first = free.index(end)

    def run(**params: object) -> list[int]:
        request = make_request("a", PROMPTS[3], **params)
        engine, _ = make_engine()
        engine.submit(
            Request(
                id="a", prompt_token_ids=request.prompt_token_ids, params=request.params, seed=7, max_tokens=20,
                eos_token_ids=frozenset({end}),
            )
        )  # fmt: skip
        outputs = drain(engine)["a", 0]
        stopped = outputs[-1].finish_reason is FinishReason.STOP
        assert (outputs[-1].stop_token_id == end) == stopped
        return ids(outputs)

    assert run() == free[: first + 1]
    assert run(ignore_eos=True) == free
    longer = run(min_tokens=first + 3)
    assert end not in longer[: first + 3]
    assert len(longer) > first + 3
    stopped = make_request("a", PROMPTS[3], stop_token_ids=[end])
    assert alone(stopped) == free[: first + 1]


def test_prompt_logprobs_do_not_depend_on_chunks_or_preemption() -> None:
    request = make_request("a", PROMPTS[-1], prompt_logprobs=2, logprobs=3)
    results = []
    for settings_ in ({}, {"max_batch_tokens": 7}, {"num_blocks": 8, "max_context": 128}):
        engine, _ = make_engine(**settings_)
        engine.submit(make_request("warm", PROMPTS[-1], max_tokens=1))
        drain(engine)
        engine.submit(request)
        engine.submit(make_request("b", PROMPTS[3], max_tokens=60))
        outputs = drain(engine)["a", 0]
        results.append((outputs[0].prompt_logprobs, [o.logprobs for o in outputs]))
    prompt_logprobs, logprobs = results[0]
    assert prompt_logprobs is not None
    assert prompt_logprobs[0] is None
    assert len(prompt_logprobs) == 100
    for token_id, entry in zip(PROMPTS[-1][1:], prompt_logprobs[1:], strict=True):
        assert entry is not None
        assert next(iter(entry)) == token_id
        assert 2 <= len(entry) <= 3
    assert all(entries is not None and 3 <= len(entries[0]) <= 4 for entries in logprobs)
    assert results[1] == results[0]
    assert results[2] == results[0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=40),
            st.integers(1, 30),
            st.integers(1, 3),
            st.integers(0, 25),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(5, 12),
    st.integers(1, 40),
    st.data(),
)
def test_any_mix_of_arrivals_and_cancellations(
    arrivals: list[tuple[list[int], int, int, int]], num_blocks: int, budget: int, data: st.DataObject
) -> None:
    """Requests arrive between steps and are cancelled at random; the others' output is as alone, no block is lost."""
    engine, _ = make_engine(num_blocks=num_blocks, max_context=80, max_batch_tokens=budget, max_sequences=5)
    requests = [
        make_request(f"r{i}", prompt, max_tokens=tokens, n=n) for i, (prompt, tokens, n, _) in enumerate(arrivals)
    ]
    pending = sorted(zip((a[3] for a in arrivals), range(len(arrivals)), strict=True))
    cancelled: set[str] = set()
    found: dict[tuple[str, int], list[int]] = {}
    for step in range(5000):
        while pending and pending[0][0] <= step:
            engine.submit(requests[pending.pop(0)[1]])
        if step < 40 and data.draw(st.integers(0, 9)) == 0:
            victim = data.draw(st.sampled_from(requests)).id
            cancelled.add(victim)
            engine.cancel(victim)
        for output in engine.step():
            found.setdefault((output.request_id, output.index), []).extend(output.token_ids)
        if not pending and not engine.has_work:
            break
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.num_running, stats.num_waiting) == (0, 0, 0)
    engine.clear_prefix_cache()
    assert engine.stats().kv_blocks_cached == 0
    for request in requests:
        if request.id not in cancelled:
            reference, _ = make_engine(prefix_cache=False)
            reference.submit(request)
            for (_, index), outputs in drain(reference).items():
                assert found[request.id, index] == ids(outputs)
