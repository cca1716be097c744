"""rope_write and attention against the reference, over head sizes, groups, windows, caps and long contexts."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ops_cases import all_cpu_ops, assert_close, batch_on, floats, make_batch, qkv_width, rope_table, same_bits

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.ops.base import HeadLayout, Ops, QkNormWeights, RopeTable
from headrace.ops.cpu import CpuOps
from headrace.ops.kinds import QkNorm
from headrace.ops.reference import ReferenceOps
from headrace.types import FloatArray


def _attend(
    ops: Ops,
    layout: HeadLayout,
    steps: list[tuple[Batch, FloatArray]],
    *,
    block_size: int = 16,
    num_blocks: int = 64,
    rope: RopeTable | None = None,
    qk_norm: QkNormWeights | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dtype: CacheType = CacheType.F16,
    causal: bool = True,
) -> FloatArray:
    """The attention of the last of several steps, on layer 1 of 2."""
    cache = ops.new_kv_cache(2, num_blocks, block_size, layout, dtype)
    out = np.zeros(0, np.float32)
    for batch, qkv in steps:
        q = ops.rope_write(qkv.copy(), cache, 1, batch, layout, rope, qk_norm)
        out = ops.attention(q, cache, 1, batch, layout, layout.head_dim**-0.5, window, softcap, causal)
    return out


@pytest.mark.parametrize("dim", [8, 24, 64, 72, 80, 96, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (5, 1), (14, 2)])
@pytest.mark.parametrize("dtype", list(CacheType))
def test_prompts_of_several_sequences(
    ops: CpuOps, reference: ReferenceOps, dim: int, heads: int, kv_heads: int, dtype: CacheType
) -> None:
    layout = HeadLayout(heads, kv_heads, dim)
    batch = make_batch([(0, 37), (0, 1), (0, 70)], 16)
    qkv = floats(dim, 108, qkv_width(layout))
    rope = rope_table(80, dim // 2)
    ours, theirs = (_attend(each, layout, [(batch, qkv)], rope=rope, dtype=dtype) for each in (ops, reference))
    assert_close(ours, theirs, 2e-5)


@pytest.mark.parametrize("window", [1, 15, 16, 17, 64, 100, 500])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", list(CacheType))
def test_windows_and_caps(
    ops: CpuOps, reference: ReferenceOps, window: int, softcap: float | None, dtype: CacheType
) -> None:
    layout = HeadLayout(4, 2, 24)
    first, second = make_batch([(0, 90), (0, 130)], 32), make_batch([(90, 140), (130, 131)], 32)
    second = replace(second, block_tables=first.block_tables)
    steps = [(first, floats(1, 220, qkv_width(layout))), (second, floats(2, 51, qkv_width(layout)))]
    options = {"block_size": 32, "window": window, "softcap": softcap, "dtype": dtype}
    assert_close(_attend(ops, layout, steps, **options), _attend(reference, layout, steps, **options), 2e-5)


@pytest.mark.parametrize("window", [None, 1, 16, 65, 500])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(3, 3, 32), (4, 2, 24), (12, 12, 64)])
@pytest.mark.parametrize("dtype", [CacheType.F16, CacheType.F32])
def test_attention_to_both_sides(
    ops: CpuOps, reference: ReferenceOps, window: int | None, heads: int, kv_heads: int, dim: int, dtype: CacheType
) -> None:
    layout = HeadLayout(heads, kv_heads, dim)
    batch = make_batch([(0, 37), (0, 1), (0, 700), (0, 128), (0, 129)], 16)
    qkv = floats(7, len(batch.positions), qkv_width(layout))
    options = {"window": window, "dtype": dtype, "num_blocks": 256, "causal": False}
    ours, theirs = (_attend(each, layout, [(batch, qkv)], **options) for each in (ops, reference))
    assert_close(ours, theirs, 2e-5)
    threads = CpuOps(2, ops.instruction_set)
    assert same_bits(_attend(threads, layout, [(batch, qkv)], **options), ours)
    alone = _attend(ops, layout, [(make_batch([(0, 700)], 16), qkv[38:738])], **options)
    assert same_bits(alone, ours[38:738])


def test_keys_behind_a_symmetric_window_are_never_read(ops: CpuOps) -> None:
    layout = HeadLayout(2, 2, 16)
    qkv, batch = floats(1, 300, qkv_width(layout)), make_batch([(0, 300)], 16)
    clean = _attend(ops, layout, [(batch, qkv)], window=20, causal=False)
    qkv[150, 32:] = np.nan
    poisoned = _attend(ops, layout, [(batch, qkv)], window=20, causal=False)
    far = np.abs(np.arange(300) - 150) >= 20
    assert same_bits(poisoned[far], clean[far])
    assert np.isnan(poisoned[~far]).all()


@pytest.mark.parametrize("kind", list(QkNorm))
def test_query_and_key_norms_with_partial_rotation(ops: CpuOps, reference: ReferenceOps, kind: QkNorm) -> None:
    layout = HeadLayout(4, 2, 40)
    sizes = (40, 40) if kind is QkNorm.HEAD else (160, 80)
    norm = QkNormWeights(kind, floats(3, sizes[0]), floats(4, sizes[1]), 1e-6)
    batch = make_batch([(0, 20), (5, 9)], 16)
    batch.rope_rows = (batch.positions[::-1] + 3).astype(np.int32)
    qkv = floats(5, 24, qkv_width(layout), spikes=True)
    rope = rope_table(40, 10)
    ours = ops.rope_write(qkv.copy(), ops.new_kv_cache(1, 4, 16, layout), 0, batch, layout, rope, norm)
    cache = reference.new_kv_cache(1, 4, 16, layout)
    assert_close(ours, reference.rope_write(qkv.copy(), cache, 0, batch, layout, rope, norm), 1e-6)
    steps = [(replace(batch, positions=batch.positions), qkv / np.float32(100))]
    ours_out = _attend(ops, layout, steps, rope=rope, qk_norm=norm)[:20]
    assert_close(ours_out, _attend(reference, layout, steps, rope=rope, qk_norm=norm)[:20], 2e-5)


def test_a_long_context_with_outliers(ops: CpuOps, reference: ReferenceOps) -> None:
    layout = HeadLayout(4, 1, 16)
    tables = np.random.default_rng(0).permutation(300)[:260].reshape(1, 260).astype(np.int32)
    prompt, decode = batch_on([(0, 4100)], tables), batch_on([(4100, 4103)], tables)
    keys = floats(1, 4100, qkv_width(layout), spikes=True) * np.float32(0.3)
    outs = []
    for backend in (ops, reference):
        cache = backend.new_kv_cache(1, 300, 16, layout)
        backend.rope_write(keys.copy(), cache, 0, prompt, layout, None, None)
        q = backend.rope_write(floats(2, 3, qkv_width(layout)), cache, 0, decode, layout, None, None)
        outs.append(backend.attention(q, cache, 0, decode, layout, 0.25, None, None))
    assert_close(outs[0], outs[1], 2e-5)


@pytest.mark.parametrize("dtype", list(CacheType))
def test_what_earlier_sequences_left_in_a_block_is_never_read(ops: CpuOps, dtype: CacheType) -> None:
    layout = HeadLayout(2, 1, 32)
    table = np.array([[1, 0]], np.int32)
    poison = np.full((32, qkv_width(layout)), np.inf, np.float32)
    qkv = floats(1, 19, qkv_width(layout))
    batch = batch_on([(0, 19)], table)
    clean = _attend(ops, layout, [(batch, qkv)], num_blocks=2, dtype=dtype)
    steps = [(batch_on([(0, 32)], table), poison), (batch, qkv)]
    assert same_bits(_attend(ops, layout, steps, num_blocks=2, dtype=dtype), clean)
    assert np.isfinite(clean).all()


def test_keys_are_stored_as_numpys_float16(reference: ReferenceOps) -> None:
    """Attention to one key is that key's value: halves of every size, ties, subnormals and infinity."""
    layout = HeadLayout(1, 1, 64)
    bits = np.random.default_rng(0).integers(0, 1 << 32, (512, 64), np.uint32)
    bits[:256] = (bits[:256] & 0x8FFFFFFF) | 0x30000000  # around float16's range
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 1.0
    values[0, :4] = [65519.99, 65520.0, 2.0**-25, 2.0**-24 * 1.5]
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
    qkv = np.concatenate([np.zeros((512, 128), np.float32), values], axis=1)
    batch = batch_on([(0, 1)] * 512, np.arange(512, dtype=np.int32)[:, None])
    for ops in all_cpu_ops():
        out = _attend(ops, layout, [(batch, qkv)], num_blocks=512)
        assert np.array_equal(out, halves)


@pytest.mark.parametrize(("dim", "spread"), [(72, 1), (64, 4), (96, 2)])
def test_values_in_8_bits_are_half_a_step_away_at_most(dim: int, spread: int) -> None:
    """Attention to one key is that key's value: of every size, denormals, zeros, one outlier among small numbers."""
    layout = HeadLayout(1, 1, dim)
    values = floats(3, 200, dim) * np.exp2(np.arange(-100, 100, dtype=np.float32))[:, None]
    values[7] = 0
    values[8] = 1e-40
    values[9, 5] = 1e30
    qkv = np.concatenate([np.zeros((200, 2 * dim), np.float32), values], axis=1)
    batch = batch_on([(0, 1)] * 200, np.arange(200, dtype=np.int32)[:, None])
    outs = [_attend(ops, layout, [(batch, qkv)], num_blocks=200, dtype=CacheType.Q8) for ops in all_cpu_ops()]
    step = spread * np.abs(values).max(axis=1, keepdims=True) / 127
    assert (np.abs(outs[0] - values) <= np.maximum(0.5001 * step, 1e-36)).all()
    assert np.abs(outs[0] - values).max() > 0
    assert all(np.array_equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none_in_8_bits(ops: CpuOps, wrong: float) -> None:
    layout = HeadLayout(1, 1, 16)
    qkv = floats(1, 2, qkv_width(layout))
    for at in (17, 47):  # of the first token's key, of its value
        broken = qkv.copy()
        broken[0, at] = wrong
        out = _attend(ops, layout, [(batch_on([(0, 2)], np.zeros((1, 1), np.int32)), broken)], dtype=CacheType.Q8)
        assert np.isnan(out).all()


def test_8_bits_take_half_the_memory_of_16(ops: CpuOps) -> None:
    layout = HeadLayout(16, 8, 128)
    full, half = (ops.new_kv_cache(28, 10, 16, layout, dtype).nbytes for dtype in (CacheType.F16, CacheType.Q8))
    assert half / full == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 2), (7, 1), (16, 1), (40, 1)])
@pytest.mark.parametrize("window", [None, 60, 700])
def test_contexts_of_several_spans(ops: CpuOps, heads: int, kv_heads: int, window: int | None) -> None:
    """The last tokens of 1,600, with outliers at both sides of the borders where sums begin anew (512 and 1,024)."""
    layout = HeadLayout(heads, kv_heads, 24)
    tables = np.random.default_rng(0).permutation(100).reshape(1, 100).astype(np.int32)
    qkv = floats(1, 1600, qkv_width(layout))
    for at in (0, 127, 128, 511, 512, 1023, 1024, 1599):
        qkv[at] *= 6
    chunks = [(0, 1530), (1530, 1567), (1567, 1600)]
    outs = []
    for backend in (ops, ReferenceOps()):
        cache = backend.new_kv_cache(1, 100, 16, layout)
        for first, last in chunks:
            batch = batch_on([(first, last)], tables)
            q = backend.rope_write(qkv[first:last].copy(), cache, 0, batch, layout, None, None)
        outs.append(backend.attention(q, cache, 0, batch, layout, 0.5, window, None))
    assert_close(outs[0], outs[1], 2e-5)


def test_scores_far_below_the_largest_count_for_nothing(ops: CpuOps, reference: ReferenceOps) -> None:
    """Exponentials that underflow, in the tile of the largest score, in earlier and in later spans."""
    layout = HeadLayout(2, 1, 16)
    tables = np.arange(70, dtype=np.int32).reshape(1, 70)
    for peak in (3, 600, 1100):
        qkv = floats(peak, 1120, qkv_width(layout))
        qkv[:, :32] = 1
        qkv[:, 32:48] = -40
        qkv[peak, 32:48] = 40
        batch, last = batch_on([(0, 1120)], tables), batch_on([(1119, 1120)], tables)
        outs = []
        for backend in (ops, reference):
            cache = backend.new_kv_cache(1, 70, 16, layout)
            q = backend.rope_write(qkv.copy(), cache, 0, batch, layout, None, None)[-1:].copy()
            outs.append(backend.attention(q, cache, 0, last, layout, 0.25, None, None))
        assert_close(outs[0], outs[1], 1e-6)
        assert np.array_equal(outs[0][0, :16], qkv[peak, 48:].astype(np.float16).astype(np.float32))


def test_later_tokens_that_are_not_finite_leave_earlier_ones_alone(ops: CpuOps) -> None:
    """Rows that share a register tile see different keys: what one must not see may be infinite or NaN."""
    layout = HeadLayout(4, 2, 40)
    qkv = floats(1, 300, qkv_width(layout))
    batch = make_batch([(0, 300)], 16)
    for window in (None, 20):
        clean = _attend(ops, layout, [(batch, qkv)], window=window)
        for at in (1, 127, 129, 250):
            poisoned = qkv.copy()
            poisoned[at, 160:] = [np.inf, np.nan] * 80
            assert same_bits(_attend(ops, layout, [(batch, poisoned)], window=window)[:at], clean[:at])
            if window is not None:
                later = _attend(ops, layout, [(batch, poisoned)], window=window)[at + window :]
                assert same_bits(later, clean[at + window :])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_a_cache_costs_what_is_written(ops: CpuOps) -> None:
    """A cache of 1 GiB with 64 tokens in each of its layers: 4 blocks of 1 MiB, rounded up to huge pages."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    layout = HeadLayout(1, 1, 64)
    batch, qkv = batch_on([(0, 64)], np.arange(4, dtype=np.int32)[None]), floats(1, 64, qkv_width(layout))
    before = resident()
    cache = ops.new_kv_cache(256, 1024, 16, layout)
    for layer in range(256):
        ops.rope_write(qkv.copy(), cache, layer, batch, layout, None, None)
    assert 1024 << 20 <= cache.nbytes < 1050 << 20
    assert resident() - before < 16 << 20
