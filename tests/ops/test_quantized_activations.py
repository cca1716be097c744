"""Linear on quantised weights, whose activations are rounded to 8 bits: how far off it may be, and that what is not
finite stays in its row.

The bound: in each block of 32 columns a value is off by half a step at most, and a step is max|x| / 127, so an output
is off by at most the sum over blocks of |w|₁ · max|x| / 254. Float32 sums may add some rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import floats, same_bits, tensor_of

from headrace.config import EngineConfig
from headrace.formats.codecs import CODECS, Codec
from headrace.ops.cpu import CpuOps, instruction_sets
from headrace.ops.select import select_ops
from headrace.types import FloatArray

BLOCK = 32
QUANTISED = [name for name, codec in CODECS.items() if codec.block_size > 1]
TINY = 1e-35
"""Blocks of values no larger than this may count as zero."""


@pytest.fixture(params=QUANTISED)
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


def columns_of(codec: Codec) -> int:
    return max(512, 2 * codec.block_size) + codec.block_size


def in_blocks(x: FloatArray) -> np.ndarray:
    return x.astype(np.float64).reshape(len(x), -1, BLOCK)


def bound(x: FloatArray, w: FloatArray) -> np.ndarray:
    """The largest error that each output [tokens, rows] may have."""
    sizes = np.abs(in_blocks(w)).sum(axis=2)
    largest = np.abs(in_blocks(x)).max(axis=2)
    rounding = 2e-6 * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T)
    return (largest / 254 * 1.0001 + TINY) @ sizes.T + rounding


def rounded_product(x: FloatArray, w: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    """x @ w.T after rounding x to 8 bits, in float64, and how far off it may be.

    Values within a ten-thousandth of a tie may have gone either way, for the scale itself is rounded.
    """
    blocks, sizes = in_blocks(x), np.abs(w).astype(np.float64)
    step = np.abs(blocks).max(axis=2, keepdims=True) / 127
    scaled = blocks / np.where(step, step, 1)
    rounded = (np.rint(scaled) * step).reshape(x.shape)
    tie = np.where(np.abs(np.abs(scaled - np.floor(scaled)) - 0.5) < 1e-4, step, 0).reshape(x.shape)
    return rounded @ w.astype(np.float64).T, (tie + 1e-5 * np.abs(x)) @ sizes.T


def assert_within_bound(ops: CpuOps, codec: Codec, rows: int, x: FloatArray) -> None:
    tensor = tensor_of(codec, rows, x.shape[1])
    w = np.asarray(tensor.decode(), np.float32)
    ours = ops.linear(x, ops.pack([tensor]))
    error = np.abs(ours - x.astype(np.float64) @ w.astype(np.float64).T)
    assert np.isfinite(ours).all()
    excess = error - bound(x, w)
    assert (excess <= 0).all(), f"over the bound by {excess.max()} at {np.argwhere(excess > 0)[:3].tolist()}"


@pytest.mark.parametrize("spike", [1e4, -1e4, 1e-4])
def test_one_value_far_from_its_neighbours(ops: CpuOps, codec: Codec, spike: float) -> None:
    x = floats(1, 5, columns_of(codec))
    for token, at in enumerate((0, 31, 32, 300, x.shape[1] - 1)):
        x[token, at] *= spike
    assert_within_bound(ops, codec, 37, x)


def test_values_are_rounded_as_said(ops: CpuOps, codec: Codec) -> None:
    x = floats(10, 40, columns_of(codec), spikes=True)
    tensor = tensor_of(codec, 33, x.shape[1])
    w = np.asarray(tensor.decode())
    ours = ops.linear(x, ops.pack([tensor]))
    expected, tolerance = rounded_product(x, w)
    assert (np.abs(ours - expected) <= tolerance).all()
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    assert (np.abs(ours - exact) > tolerance).mean() > 0.5


def test_the_switch_to_exact_activations(ops: CpuOps, codec: Codec) -> None:
    x = floats(11, 40, columns_of(codec), spikes=True)
    tensor = tensor_of(codec, 33, x.shape[1])
    w = np.asarray(tensor.decode()).astype(np.float64)
    exact = CpuOps(2, ops.instruction_set, exact_activations=True)
    ours = exact.linear(x, exact.pack([tensor]))
    assert (np.abs(ours - x @ w.T) <= 1e-5 * (np.abs(x) @ np.abs(w).T)).all()


def test_the_engine_has_the_switch() -> None:
    tensor, x = tensor_of(CODECS["q8_0"], 16, 64), floats(12, 2, 64)
    results = {}
    for activations in ("int8", "f32"):
        ops = select_ops(EngineConfig(activations=activations, threads=1))
        results[activations] = np.asarray(ops.linear(x, ops.pack([tensor])))
    expected, tolerance = rounded_product(x, np.asarray(tensor.decode()))
    assert (np.abs(results["int8"] - expected) <= tolerance).all()
    assert not np.allclose(results["f32"], results["int8"], rtol=1e-5)


@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-37, 1e-40, 1e-45, 0.0])
def test_huge_tiny_denormal_and_zero(ops: CpuOps, codec: Codec, size: float) -> None:
    columns = columns_of(codec)
    everywhere = floats(2, 3, columns) * np.float32(size)
    assert_within_bound(ops, codec, 19, everywhere)
    among_others = floats(3, 3, columns)
    among_others[:, 32:96] = everywhere[:, 32:96]  # whole blocks of them
    among_others[:, 100] = everywhere[:, 100]
    assert_within_bound(ops, codec, 19, among_others)


def test_zeros_give_zeros(ops: CpuOps, codec: Codec) -> None:
    weight = ops.pack([tensor_of(codec, 20, columns_of(codec))])
    for zero in (0.0, -0.0):
        assert not ops.linear(np.full((3, columns_of(codec)), zero, np.float32), weight).any()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_row_that_is_not_finite_is_alone(ops: CpuOps, codec: Codec, bad: float) -> None:
    """Nothing of it reaches another token, and it comes out as what it is, not as plausible numbers."""
    columns = columns_of(codec)
    weight = ops.pack([tensor_of(codec, 37, columns)])
    good = floats(4, 17, columns, spikes=True)
    expected = ops.linear(good, weight)
    for row, at in ((0, 0), (5, 31), (11, 256), (16, columns - 1)):
        x = good.copy()
        x[row, at] = bad
        ours = ops.linear(x, weight)
        others = np.delete(np.arange(17), row)
        assert same_bits(ours[others].copy(), expected[others].copy())
        w = np.asarray(tensor_of(codec, 37, columns).decode())
        assert not np.isfinite(ours[row, w[:, at] != 0]).any()


@pytest.mark.parametrize("tokens", range(1, 41))
def test_any_number_of_tokens(tokens: int) -> None:
    """Also rows that do not fill a panel, alone against in a batch."""
    ops = CpuOps(2)
    x = floats(tokens, tokens, 768, spikes=True)
    for name in ("q4_0", "q8_0", "q4_k", "q6_k"):
        assert_within_bound(ops, CODECS[name], 1 + (tokens * 7) % 50, x)
        weight = ops.pack([tensor_of(CODECS[name], 50, 768)])
        assert same_bits(ops.linear(x[-1:], weight)[0], ops.linear(x, weight)[-1])


@given(
    name=st.sampled_from(QUANTISED),
    rows=st.integers(1, 70),
    blocks=st.integers(1, 9),
    tokens=st.integers(1, 40),
    size=st.floats(-20, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_shape_and_size(name: str, rows: int, blocks: int, tokens: int, size: float, seed: int) -> None:
    codec = CODECS[name]
    x = floats(seed, tokens, blocks * codec.block_size, spikes=True) * np.float32(10**size)
    results = []
    for instruction_set in instruction_sets():
        ops = CpuOps(1, instruction_set)
        assert_within_bound(ops, codec, rows, x)
        results.append(ops.linear(x, ops.pack([tensor_of(codec, rows, x.shape[1])])))
    fused = [y for y, one in zip(results, instruction_sets(), strict=True) if one != "baseline"]
    assert all(same_bits(y, fused[0]) for y in fused)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_memory_that_is_not_aligned(ops: CpuOps, codec: Codec, offset: int) -> None:
    """Activations that start at any float of a cache line, weights that start at any byte."""
    columns = columns_of(codec)
    x = floats(6, 9, columns)
    shifted = np.empty(x.size + offset, np.float32)[offset:].reshape(x.shape)
    shifted[:] = x
    tensor = tensor_of(codec, 33, columns)
    data = np.empty(tensor.data.size + offset, np.uint8)[offset:].reshape(tensor.data.shape)
    data[:] = tensor.data
    moved = type(tensor)(tensor.name, codec, tensor.shape, data)
    assert same_bits(ops.linear(shifted, ops.pack([moved])), ops.linear(x, ops.pack([tensor])))


def test_bias_scale_and_residual(ops: CpuOps, codec: Codec) -> None:
    """They are exact beside the product, whatever the activations are rounded to."""
    columns = columns_of(codec)
    x, bias, add = floats(7, 3, columns), floats(8, 21), floats(9, 3, 21)
    weight = ops.pack([tensor_of(codec, 21, columns)])
    product = ops.linear(x, weight)
    ours = ops.linear(x, weight, bias, 0.5, add)
    np.testing.assert_allclose(ours, (product + bias) * np.float32(0.5) + add, rtol=1e-6, atol=1e-5)
