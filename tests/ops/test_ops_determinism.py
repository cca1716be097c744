"""The contract of ops/base.py, bit for bit: a row's result is its own, however the work is cut up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import batch_on, dense, floats, qkv_width, rope_table, same_bits, tensor_of

from headrace import _core  # noqa: TID251
from headrace.config import CacheType
from headrace.formats.codecs import CODECS
from headrace.ops.base import HeadLayout, MoeWeights, Ops
from headrace.ops.cpu import CpuOps, instruction_sets
from headrace.ops.kinds import Activation, NormKind
from headrace.types import FloatArray

LAYOUT = HeadLayout(6, 2, 40)
CODECS_OF_KERNELS = [name for name, _, _ in _core.codecs()]


@pytest.mark.parametrize("codec", list(CODECS_OF_KERNELS))
def test_linear_alone_and_in_any_batch(ops: CpuOps, codec: str) -> None:
    weight = ops.pack([tensor_of(CODECS[codec], 75, 768)])
    x = floats(1, 150, 768, spikes=True)
    whole = ops.linear(x, weight)
    for t in (0, 33, 149):
        assert same_bits(ops.linear(x[t : t + 1], weight)[0], whole[t])
    for count in (2, 3, 5, 33, 64, 65):
        assert same_bits(ops.linear(x[7 : 7 + count], weight), whole[7 : 7 + count])


def test_sums_too_small_for_a_float_have_one_sign(ops: CpuOps) -> None:
    x = np.full((13, 16), -1e-30, np.float32)
    weight = dense(ops, np.full((75, 16), 1e-30, np.float32))
    whole = ops.linear(x, weight)
    for count in (1, 2, 4, 5):
        assert same_bits(ops.linear(x[:count], weight), whole[:count])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_library_that_flushes_subnormals_changes_nothing(threads: int) -> None:
    """Training does (`torch.set_flush_denormal`), for its thread and those that are started from there."""
    torch = pytest.importorskip("torch")
    x, weights = floats(1, 64, 512) * np.float32(1e-22), floats(2, 600, 512) * np.float32(1e-22)

    def result() -> FloatArray:
        ops = CpuOps(threads)
        return ops.linear(x, dense(ops, weights))

    whole = result()
    assert 0 < np.abs(whole).max() < np.finfo(np.float32).tiny, "all of them are subnormal"
    assert torch.set_flush_denormal(True)
    try:
        flushed = result()
        caller_flushes = np.float64(5e-324) * 1.0 == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(flushed, whole)
    assert caller_flushes, "the caller's thread is as it was"


@given(rows=st.integers(1, 40), columns=st.integers(1, 300), tokens=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_linear_of_every_shape(rows: int, columns: int, tokens: int, seed: int) -> None:
    x, w = floats(seed, tokens, columns), floats(seed + 1, rows, columns)
    results = []
    for name in [name for name in instruction_sets() if name != "baseline"] or ["baseline"]:
        ops = CpuOps(1, name)
        whole = ops.linear(x, dense(ops, w))
        last = ops.linear(x[-1:], dense(ops, w[-1:]))
        assert same_bits(last, whole[-1:, -1:].copy())
        results.append(whole)
    assert all(same_bits(result, results[0]) for result in results)


def _run(ops: Ops, cuts: list[int], blocks: list[int], *, window: int | None, beside: bool) -> FloatArray:
    """Attention outputs of one sequence of 150 tokens, computed in chunks, alone or beside another sequence."""
    qkv, other = floats(1, 150, qkv_width(LAYOUT), spikes=True), floats(2, 33, qkv_width(LAYOUT))
    cache, rope = ops.new_kv_cache(1, 40, 16, LAYOUT), rope_table(200, 20)
    table = np.array([blocks], np.int32)
    outs = []
    for first, last in zip([0, *cuts], [*cuts, 150], strict=True):
        batch, rows = batch_on([(first, last)], table), qkv[first:last]
        if beside:
            free = [block for block in range(40) if block not in blocks][: len(blocks)]
            batch = batch_on([(0, 33), (first, last)], np.array([free, blocks], np.int32))
            rows = np.concatenate([other, rows])
        q = ops.rope_write(rows.copy(), cache, 0, batch, LAYOUT, rope, None)
        outs.append(ops.attention(q, cache, 0, batch, LAYOUT, 0.3, window, None)[33 if beside else 0 :])
    return np.concatenate(outs)


@pytest.mark.parametrize("window", [None, 29])
def test_attention_in_chunks_beside_others_and_in_other_blocks(ops: CpuOps, window: int | None) -> None:
    in_order = list(range(10))
    whole = _run(ops, [], in_order, window=window, beside=False)
    for size in (1, 2, 3, 7, 16, 31, 64, 100):
        cuts = list(range(size, 150, size))
        assert same_bits(_run(ops, cuts, in_order, window=window, beside=False), whole), size
    shuffled = np.random.default_rng(0).permutation(40)[:10].tolist()
    assert same_bits(_run(ops, [40, 41, 120], shuffled, window=window, beside=True), whole)
    assert np.isfinite(whole).all()


def _long_context(
    ops: Ops, layout: HeadLayout, cuts: list[int], window: int | None, softcap: float | None
) -> FloatArray:
    """Attention outputs of tokens 1,000 to 1,059 of one sequence beside another, in chunks, over three spans."""
    qkv, other = floats(1, 1060, qkv_width(layout), spikes=True), floats(2, 600, qkv_width(layout))
    cache = ops.new_kv_cache(1, 140, 32, layout)
    table = np.random.default_rng(0).permutation(140)[:68].reshape(2, 34).astype(np.int32)
    ops.rope_write(np.concatenate([qkv, other]), cache, 0, batch_on([(0, 1060), (0, 600)], table), layout, None, None)
    outs = []
    for first, last in zip([1000, *cuts], [*cuts, 1060], strict=True):
        batch = batch_on([(first, last), (599, 600)], table)
        q = np.concatenate([qkv[first:last], other[-1:]])[:, : layout.num_heads * layout.head_dim].copy()
        outs.append(ops.attention(q, cache, 0, batch, layout, 0.02, window, softcap)[:-1])
    return np.concatenate(outs)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1), (7, 1), (30, 2)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (530, 8.0)])
def test_attention_to_several_spans_on_any_number_of_threads(
    heads: int, kv_heads: int, window: int | None, softcap: float | None
) -> None:
    layout = HeadLayout(heads, kv_heads, 40)
    sets = [name for name in instruction_sets() if name != "baseline"] or ["baseline"]
    whole = _long_context(CpuOps(1, sets[0]), layout, [], window, softcap)
    assert np.isfinite(whole).all()
    for size in (1, 2, 5, 13, 24, 59):
        cuts = list(range(1000 + size, 1060, size))
        for threads in (1, 2, 3, 5):
            name = sets[threads % len(sets)]
            assert same_bits(_long_context(CpuOps(threads, name), layout, cuts, window, softcap), whole), (
                size,
                threads,
            )
    baseline = _long_context(CpuOps(1, "baseline"), layout, [], window, softcap)
    assert same_bits(_long_context(CpuOps(3, "baseline"), layout, [1001, 1020], window, softcap), baseline)


def _everything(ops: CpuOps) -> list[FloatArray]:
    """Every operation on inputs that are large enough to be shared between threads."""
    x, w = floats(1, 130, 256, spikes=True), floats(2, 300, 256)
    ones = np.ones(256, np.float32)
    experts = [(dense(ops, floats(e, 128, 256)), dense(ops, floats(e + 9, 256, 64))) for e in range(4)]
    moe = MoeWeights(
        dense(ops, floats(77, 4, 256)),
        [up for up, _ in experts],
        [down for _, down in experts],
        2,
        True,
        Activation.GELU,
    )
    layout = HeadLayout(8, 2, 32)
    batch = batch_on([(0, 100), (0, 30)], np.arange(14, dtype=np.int32).reshape(2, 7))
    cache = ops.new_kv_cache(1, 14, 16, layout)
    exact = ops.new_kv_cache(1, 14, 16, layout, CacheType.F32)
    q = ops.rope_write(floats(3, 130, qkv_width(layout)), cache, 0, batch, layout, rope_table(100, 16), None)
    ops.rope_write(floats(3, 130, qkv_width(layout)), exact, 0, batch, layout, rope_table(100, 16), None)
    logits = ops.linear(x, dense(ops, w), None, 0.01)
    return [
        ops.embed(dense(ops, x), np.arange(130, dtype=np.int32), 0.3, x),
        logits,
        ops.linear(x, ops.pack([tensor_of(CODECS["q6_k"], 300, 256)]), floats(4, 300)),
        *(ops.norm(x, ones, None, kind, 1e-5, x) for kind in NormKind),
        *(ops.activate(x, kind, gated=True) for kind in Activation),
        ops.softcap(x, 30.0),
        q,
        ops.attention(q, cache, 0, batch, layout, 0.2, None, 20.0),
        ops.attention(q, exact, 0, batch, layout, 0.2, None, 20.0),
        ops.moe(x, moe, 0.5, x),
        *ops.logprobs(logits, np.zeros(130, np.int32), 5),
    ]


@pytest.mark.parametrize("name", instruction_sets())
def test_any_number_of_threads(name: str) -> None:
    one, two, five = (_everything(CpuOps(threads, name)) for threads in (1, 2, 5))
    for a, b, c in zip(one, two, five, strict=True):
        assert same_bits(a, b)
        assert same_bits(a, c)


@pytest.mark.skipif("avx512" not in instruction_sets(), reason="this machine has no AVX-512")
def test_avx2_and_avx512_give_the_same_bits() -> None:
    expected = _everything(CpuOps(1, "avx2"))
    for name in ("avx512", "avx512vnni"):
        if name in instruction_sets():
            assert all(same_bits(a, b) for a, b in zip(_everything(CpuOps(1, name)), expected, strict=True)), name
