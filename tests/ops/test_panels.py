"""Weights in panels times activations of 8 bits, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from ops_cases import INSTRUCTION_SETS, floats, same_bits, tensor_of

from headrace import _core  # noqa: TID251
from headrace.formats.codecs import CODECS
from headrace.formats.tensor import Tensor
from headrace.ops.cpu import CpuOps
from headrace.types import FloatArray

FUSED = [name for name in INSTRUCTION_SETS if name != "baseline"]
QUANTISED = [name for name, values, _ in _core.codecs() if values > 1]


def rounded(x: FloatArray) -> NDArray[np.float64]:
    """x as the kernels see it: 8 bits for each 32 columns."""
    blocks = x.reshape(len(x), -1, 32).astype(np.float64)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    safe = np.where(scales == 0, 1, scales)
    return (np.rint(blocks / safe) * scales).reshape(x.shape)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("tokens", [1, 2, 3, 12, 13, 31])
def test_linear_of_rounded_activations(ops: CpuOps, name: str, tokens: int) -> None:
    tensor = tensor_of(CODECS[name], 37, 768, seed=3)
    x = floats(tokens, tokens, 768, spikes=True)
    weights = tensor.decode().astype(np.float64)
    expected = rounded(x) @ weights.T
    ours = ops.linear(x, ops.pack([tensor]))
    size = np.abs(rounded(x)) @ np.abs(weights).T  # what the terms add up to without their signs
    assert np.max(np.abs(ours - expected) / size) < 2e-6
    assert np.max(np.abs(ours - x.astype(np.float64) @ weights.T) / size) > 1e-5  # rounded, not exact


@pytest.mark.parametrize("name", QUANTISED)
def test_instruction_sets_give_the_same_bits(name: str) -> None:
    tensor = tensor_of(CODECS[name], 50, 512, seed=5)
    x, bias, add = floats(1, 29, 512, spikes=True), floats(2, 50), floats(3, 29, 50)
    results = [ops.linear(x, ops.pack([tensor]), bias, 0.7, add) for ops in (CpuOps(1, each) for each in FUSED)]
    assert all(same_bits(result, results[0]) for result in results)


def test_largest_weights_and_activations_do_not_overflow(ops: CpuOps) -> None:
    """Sums of bytes that would not fit 16 bits: the extremes of every sign."""
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        data = np.zeros((16, 8, 34), np.uint8)
        data[..., :2] = np.float16(1).tobytes()[0], np.float16(1).tobytes()[1]
        data[..., 2:] = np.array(-128 if signs[0] < 0 else 127, np.int8).view(np.uint8)
        x = np.full((5, 256), signs[1], np.float32)
        ours = ops.linear(x, ops.pack([Tensor("w", CODECS["q8_0"], (16, 256), data.reshape(16, -1))]))
        assert np.allclose(ours, 256 * (-128 if signs[0] < 0 else 127) * signs[1], rtol=1e-6)


def test_a_row_that_is_no_number_stays_alone(ops: CpuOps) -> None:
    tensor = tensor_of(CODECS["q4_0"], 20, 64)
    weight, x = ops.pack([tensor]), floats(1, 14, 64)
    expected = ops.linear(x, weight)
    for bad in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[5, 40] = bad
        ours = ops.linear(broken, weight)
        assert not np.isfinite(ours[5]).any()
        assert same_bits(np.delete(ours, 5, axis=0), np.delete(expected, 5, axis=0))


def test_tiny_and_zero_activations(ops: CpuOps) -> None:
    weight = ops.pack([tensor_of(CODECS["q8_0"], 20, 64)])
    x = np.zeros((3, 64), np.float32)
    x[1] = 1e-40
    x[2] = 1e-30
    ours = ops.linear(x, weight)
    assert (ours[:2] == 0).all()
    assert np.isfinite(ours).all()
    assert np.abs(ours[2]).max() > 0


def test_exact_activations_are_exact(exact_ops: CpuOps) -> None:
    tensor = tensor_of(CODECS["q4_k"], 40, 512)
    x = floats(1, 3, 512, spikes=True)
    expected = x.astype(np.float64) @ tensor.decode().astype(np.float64).T
    size = np.abs(x).astype(np.float64) @ np.abs(tensor.decode()).T
    assert np.max(np.abs(exact_ops.linear(x, exact_ops.pack([tensor])) - expected) / size) < 1e-6


def in_chains(x: FloatArray, weights: FloatArray) -> FloatArray:
    """The float32 sequence that docs/determinism.md promises: a chain of 256 columns at a time, and their sum in order.

    float64 holds a product exactly; rounding its sum to float32 is what a fused multiply-add gives, but for ties that
    random values do not meet.
    """
    total = np.zeros((len(x), len(weights)), np.float32)
    for start in range(0, x.shape[1], 256):
        chain = np.zeros_like(total, np.float64)
        for k in range(start, min(start + 256, x.shape[1])):
            chain = (chain + np.outer(x[:, k].astype(np.float64), weights[:, k])).astype(np.float32).astype(np.float64)
        total += chain.astype(np.float32)
    return total


@pytest.mark.skipif(not FUSED, reason="no instruction set with a fused multiply-add")
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (17, 255), (33, 257), (49, 300), (70, 600), (130, 33)])
@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_float_weights_are_chains_of_256_columns(name: str, rows: int, columns: int) -> None:
    tensor = tensor_of(CODECS[name], rows, columns, seed=rows)
    x = floats(columns, 97, columns, spikes=True)
    expected = in_chains(x, tensor.decode())
    for each in FUSED:
        ops = CpuOps(1, each)
        weight = ops.pack([tensor])
        for tokens in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 97):
            assert same_bits(ops.linear(x[:tokens], weight), expected[:tokens]), (each, tokens)


@pytest.mark.skipif(not FUSED, reason="no instruction set with a fused multiply-add")
@pytest.mark.parametrize("name", QUANTISED)
def test_exact_activations_are_chains_of_256_columns(name: str) -> None:
    tensor = tensor_of(CODECS[name], 50, 768, seed=5)
    x = floats(1, 14, 768, spikes=True)
    expected = in_chains(x, tensor.decode())
    for each in FUSED:
        ops = CpuOps(1, each, exact_activations=True)
        weight = ops.pack([tensor])
        for tokens in (1, 2, 12, 14):
            assert same_bits(ops.linear(x[:tokens], weight), expected[:tokens]), (each, tokens)
