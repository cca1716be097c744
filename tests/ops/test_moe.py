"""Mixture of experts against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from ops_cases import assert_close, dense, floats, same_bits

from headrace.ops.base import MoeWeights, Ops
from headrace.ops.cpu import CpuOps
from headrace.ops.kinds import Activation
from headrace.ops.reference import ReferenceOps


def _weights(ops: Ops, experts: int, top_k: int, *, normalize: bool, ties: bool = False) -> MoeWeights:
    hidden, inner = 40, 24
    router = np.zeros((experts, hidden), np.float32) if ties else floats(1, experts, hidden)
    return MoeWeights(
        router=dense(ops, router),
        gate_up=[dense(ops, floats(10 + e, 2 * inner, hidden)) for e in range(experts)],
        down=[dense(ops, floats(50 + e, hidden, inner)) for e in range(experts)],
        top_k=top_k,
        normalize=normalize,
        activation=Activation.SILU,
    )


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (4, 2), (9, 9)])
@pytest.mark.parametrize("normalize", [False, True])
def test_moe(ops: CpuOps, reference: ReferenceOps, experts: int, top_k: int, normalize: bool) -> None:
    x, add = floats(3, 33, 40), floats(4, 33, 40)
    expected = reference.moe(x, _weights(reference, experts, top_k, normalize=normalize), 0.5, add)
    ours = ops.moe(x, _weights(ops, experts, top_k, normalize=normalize), 0.5, add)
    assert_close(ours, expected, 3e-6)


def test_ties_go_to_the_lower_expert(ops: CpuOps, reference: ReferenceOps) -> None:
    x = floats(3, 3, 40)
    expected = reference.moe(x, _weights(reference, 5, 2, normalize=True, ties=True))
    assert_close(ops.moe(x, _weights(ops, 5, 2, normalize=True, ties=True)), expected, 3e-6)


def test_a_token_does_not_depend_on_the_others(ops: CpuOps) -> None:
    weights = _weights(ops, 6, 3, normalize=True)
    x = floats(3, 80, 40)
    whole = ops.moe(x, weights)
    for t in (0, 41, 79):
        assert same_bits(ops.moe(x[t : t + 1], weights)[0], whole[t])
    assert same_bits(ops.moe(np.ascontiguousarray(x[::-1]), weights)[::-1].copy(), whole)


def test_a_nan_row_spoils_only_itself(ops: CpuOps) -> None:
    weights = _weights(ops, 6, 3, normalize=True)
    x = floats(3, 4, 40)
    whole = ops.moe(x, weights)
    x[2] = np.nan
    spoilt = ops.moe(x, weights)
    assert np.isnan(spoilt[2]).all()
    assert same_bits(spoilt[[0, 1, 3]], whole[[0, 1, 3]])
