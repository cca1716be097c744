"""A quick comparison of a backend with the reference, for `headrace doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.batch import Batch, SamplingBatch
from headrace.formats.tensor import Tensor
from headrace.ops.base import Array, HeadLayout, KVCache, LowRankPart, MoeWeights, Ops, RopeTable, Weight
from headrace.ops.kinds import Activation, NormKind
from headrace.ops.reference import ReferenceOps
from headrace.types import FloatArray

_LAYOUT = HeadLayout(num_heads=4, num_kv_heads=2, head_dim=24)
_TOLERANCE = 2e-4
"""Of the largest value: float32 sums in another order, and attention's float16 cache, stay far below."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    x: FloatArray
    matrix: FloatArray
    experts: FloatArray
    qkv: FloatArray
    batch: Batch
    rope: RopeTable


def self_test(ops: Ops) -> list[tuple[str, float, bool]]:
    """Run every operation of `ops` and of the reference on the same small inputs.

    Returns (operation, largest error relative to the largest value, whether that is within tolerance).
    """
    inputs = _inputs()
    results = []
    for (name, ours), (_, expected) in zip(_outputs(ops, inputs), _outputs(ReferenceOps(), inputs), strict=True):
        error = float(np.max(np.abs(ours - expected)) / max(float(np.max(np.abs(expected))), 1e-9))
        results.append((name, error, error <= _TOLERANCE))
    return results


def _inputs() -> _Inputs:
    random = np.random.default_rng(7)
    angles = np.outer(np.arange(40), 0.5 ** np.arange(12)).astype(np.float32)
    positions = np.concatenate([np.arange(5), np.arange(17)]).astype(np.int32)
    batch = Batch(
        token_ids=positions,
        positions=positions,
        rope_rows=positions,
        query_start=np.array([0, 5, 22], np.int32),
        block_tables=np.array([[3, 0], [1, 2]], np.int32),
        logit_rows=np.array([4, 21], np.int32),
    )
    qkv = _normal(random, 22, (_LAYOUT.num_heads + 2 * _LAYOUT.num_kv_heads) * _LAYOUT.head_dim)
    rope = RopeTable(np.cos(angles), np.sin(angles))
    return _Inputs(
        x=_normal(random, 22, 100),
        matrix=_normal(random, 64, 100),
        experts=_normal(random, 4, 200, 100) * np.float32(0.1),
        qkv=qkv,
        batch=batch,
        rope=rope,
    )


def _normal(random: np.random.Generator, *shape: int) -> FloatArray:
    return random.standard_normal(shape, np.float32)


def _weight(ops: Ops, values: FloatArray) -> Weight:
    return ops.pack([Tensor.from_array("self-test", values)])


def _outputs(ops: Ops, inputs: _Inputs) -> Iterator[tuple[str, Array]]:
    x, matrix = inputs.x, _weight(ops, inputs.matrix)
    ones = ops.vector(np.ones(100, np.float32))
    yield "embed", ops.embed(matrix, inputs.batch.positions, 0.5)
    for kind in NormKind:
        yield f"norm {kind}", ops.norm(x, ones, None, kind, 1e-5)
    yield "linear", ops.linear(x, matrix, None, 2.0)
    slots = np.array([*[-1, 0] * 11], np.int32)
    low_rank = LowRankPart(_weight(ops, inputs.experts[0, :3]), _weight(ops, inputs.experts[1, :40, :3]), 20, 2.0)
    deltas = ops.new_deltas(64, 100)
    deltas.set(0, [low_rank])
    yield "adapt", ops.adapt(ops.linear(x, matrix), x, deltas, slots)
    for activation in Activation:
        yield f"activate {activation}", ops.activate(x, activation, gated=True)
    yield "softcap", ops.softcap(x, 2.0)
    cache: KVCache = ops.new_kv_cache(1, 4, 16, _LAYOUT)
    q = ops.rope_write(inputs.qkv.copy(), cache, 0, inputs.batch, _LAYOUT, inputs.rope, None)
    yield "rope_write", q
    yield "attention", ops.attention(q, cache, 0, inputs.batch, _LAYOUT, 0.2, None, None)
    yield "moe", ops.moe(x, _experts(ops, inputs))
    logits = inputs.x[:, :64] * np.float32(3)
    yield "sample", ops.sample(logits, _sampling(len(logits)))
    yield "logprobs", ops.logprobs(logits, inputs.batch.positions, 3)[3]


def _experts(ops: Ops, inputs: _Inputs) -> MoeWeights:
    down = [_weight(ops, np.ascontiguousarray(expert[:100].T)) for expert in inputs.experts]
    return MoeWeights(
        router=_weight(ops, inputs.matrix[:4]),
        gate_up=[_weight(ops, expert) for expert in inputs.experts],
        down=down,
        top_k=2,
        normalize=True,
        activation=Activation.SILU,
    )


def _sampling(rows: int) -> SamplingBatch:
    order = np.arange(rows)
    return SamplingBatch.of(
        rows,
        **{"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": order, "position": order},
        **{"typical_p": 0.95, "xtc_probability": 0.5, "repetition_penalty": 1.1, "dry_multiplier": 0.8},
        history=np.tile(np.arange(5, dtype=np.int32), 3),
        history_end=13,
    )
