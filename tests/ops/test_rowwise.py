"""Linear, embed, norms, activations and softcap against the reference and against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from ops_cases import assert_close, dense, floats

from headrace.ops.cpu import CpuOps
from headrace.ops.kinds import Activation, NormKind
from headrace.ops.reference import ReferenceOps


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 8), (16, 64), (33, 100), (70, 600), (20, 2049)])
@pytest.mark.parametrize("tokens", [1, 3, 70])
def test_linear(ops: CpuOps, rows: int, columns: int, tokens: int) -> None:
    x, w = floats(1, tokens, columns, spikes=True), floats(2, rows, columns)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    assert_close(ops.linear(x, dense(ops, w)), exact.astype(np.float32), 2e-6)


def test_linear_with_bias_scale_and_addition(ops: CpuOps, reference: ReferenceOps) -> None:
    x, w, bias, add = floats(1, 5, 48), floats(2, 21, 48), floats(3, 21), floats(4, 5, 21)
    expected = reference.linear(x, dense(reference, w), bias, 0.5, add)
    assert_close(ops.linear(x, dense(ops, w), bias, 0.5, add), expected, 1e-6)


def test_embed(ops: CpuOps, reference: ReferenceOps) -> None:
    table, ids, add = floats(1, 50, 37), np.array([49, 0, 7, 7], np.int32), floats(2, 4, 37)
    expected = reference.embed(dense(reference, table), ids, 3.0, add)
    assert (ops.embed(dense(ops, table), ids, 3.0, add) == expected).all()


@pytest.mark.parametrize("kind", list(NormKind))
@pytest.mark.parametrize("columns", [1, 8, 64, 100, 2050])
def test_norm(ops: CpuOps, reference: ReferenceOps, kind: NormKind, columns: int) -> None:
    x, weight, bias, add = (
        floats(1, 6, columns, spikes=True),
        floats(2, columns),
        floats(3, columns),
        floats(4, 6, columns),
    )
    for optional in ((None, None), (bias, add)):
        expected = reference.norm(x, weight, optional[0], kind, 1e-5, optional[1])
        assert_close(ops.norm(x, weight, optional[0], kind, 1e-5, optional[1]), expected, 3e-6)


_EXACT: dict[Activation, Callable[[float], float]] = {
    Activation.SILU: lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
    Activation.GELU: lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    Activation.GELU_TANH: lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    Activation.RELU: lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("kind", list(Activation))
def test_activations_against_float64(ops: CpuOps, kind: Activation) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-3e4, -200.0, -88.5, 0.0, 88.5, 200.0, 3e4]]).astype(np.float32)[
        None
    ]
    exact = np.array([_EXACT[kind](float(value)) for value in x[0]])
    ours = ops.activate(x, kind, gated=False)[0]
    assert np.max(np.abs(ours - exact) / np.maximum(1, np.abs(exact))) < 4e-7


@pytest.mark.parametrize("kind", list(Activation))
def test_gated_activation(ops: CpuOps, reference: ReferenceOps, kind: Activation) -> None:
    x = floats(1, 5, 2 * 77)
    assert_close(ops.activate(x, kind, gated=True), reference.activate(x, kind, gated=True), 1e-6)


def test_softcap_is_tanh_to_float32(ops: CpuOps) -> None:
    x = np.concatenate([np.linspace(-30, 30, 6001), [-1e30, 1e-30, -1e-5, 1e-3, 1e30, np.inf]]).astype(np.float32)[None]
    exact = np.tanh(x.astype(np.float64))
    ours = ops.softcap(x, 1.0)
    assert np.max(np.abs(ours - exact) / np.maximum(np.abs(exact), 1e-30)) < 4e-7
    assert_close(
        ops.softcap(x[:, :6001], 7.5), (7.5 * np.tanh(x[:, :6001].astype(np.float64) / 7.5)).astype(np.float32), 4e-7
    )


def test_nan_comes_out_as_nan(ops: CpuOps) -> None:
    x = np.array([[1.0, np.nan, 2.0]], np.float32)
    for kind in (Activation.SILU, Activation.GELU, Activation.GELU_TANH):
        assert np.isnan(ops.activate(x, kind, gated=False)).tolist() == [[False, True, False]]
    assert np.isnan(ops.softcap(x, 3.0)).tolist() == [[False, True, False]]


def test_inputs_are_left_as_they_are(ops: CpuOps) -> None:
    x = floats(1, 4, 64)
    before = x.copy()
    ones = np.ones(64, np.float32)
    ops.linear(x, dense(ops, floats(2, 8, 64)))
    ops.norm(x, ones, None, NormKind.RMS, 1e-5, x)
    ops.activate(x, Activation.SILU, gated=True)
    ops.softcap(x, 2.0)
    ops.select(x, np.array([1], np.int32))
    assert (x == before).all()
