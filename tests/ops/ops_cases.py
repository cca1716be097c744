"""Inputs that the tests of operations share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.batch import Batch
from headrace.formats.codecs import Codec
from headrace.formats.tensor import Tensor
from headrace.ops.base import HeadLayout, Ops, RopeTable, Weight
from headrace.ops.cpu import CpuOps, instruction_sets
from headrace.types import FloatArray

INSTRUCTION_SETS = instruction_sets()


def floats(seed: int, *shape: int, spikes: bool = False) -> FloatArray:
    """Normal values; with spikes a hundredth of them a thousand times as large, as in real activations."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape, np.float32)
    if spikes:
        values[random.random(shape) < 0.01] *= 1000
    return values


HALF_SCALES = {
    **dict.fromkeys(("q8_0", "q4_0", "q5_0", "iq4_nl", "iq4_xs"), (0,)),
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q6_k": (208,),
    "mxfp4": (),
}
"""Where in its block a codec has float16 scales."""


def encoded_rows(codec: Codec, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes with scales that keep the values finite."""
    random = np.random.default_rng(seed)
    if codec.block_size == 1:
        assert codec.encode is not None
        return codec.encode(random.standard_normal((rows, columns), np.float32))
    data = random.integers(0, 256, (rows, columns // codec.block_size, codec.block_bytes), np.uint8)
    for at in HALF_SCALES[codec.name]:
        scales = random.standard_normal(data.shape[:2]).astype(np.float16)
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    if codec.name == "mxfp4":
        data[..., 0] = random.integers(100, 140, data.shape[:2])
    return data.reshape(rows, -1)


def tensor_of(codec: Codec, rows: int, columns: int, seed: int = 0) -> Tensor:
    return Tensor(codec.name, codec, (rows, columns), encoded_rows(codec, rows, columns, seed))


def dense(ops: Ops, values: FloatArray) -> Weight:
    return ops.pack([Tensor.from_array("w", values)])


def rope_table(rows: int, half: int) -> RopeTable:
    angles = np.outer(np.arange(rows), 10000.0 ** (-np.arange(half) / max(half, 1)))
    return RopeTable(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def make_batch(spans: list[tuple[int, int]], block_size: int, seed: int = 0, num_blocks: int | None = None) -> Batch:
    """Sequences that each compute positions first … last - 1, in blocks shuffled by the seed."""
    widest = max(-(-last // block_size) for _, last in spans)
    needed = len(spans) * widest
    blocks = np.random.default_rng(seed).permutation(num_blocks or needed)[:needed].astype(np.int32)
    return batch_on(spans, blocks.reshape(len(spans), widest))


def batch_on(spans: list[tuple[int, int]], tables: NDArray[np.int32]) -> Batch:
    positions = np.concatenate([np.arange(first, last) for first, last in spans]).astype(np.int32)
    start = np.cumsum([0, *(last - first for first, last in spans)]).astype(np.int32)
    return Batch(np.zeros_like(positions), positions, positions, start, tables, start[1:] - 1)


def qkv_width(layout: HeadLayout) -> int:
    return (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim


def all_cpu_ops() -> list[CpuOps]:
    """One for each instruction set of this machine."""
    return [CpuOps(1, name) for name in INSTRUCTION_SETS]


def assert_close(ours: FloatArray, expected: FloatArray, tolerance: float) -> None:
    """Within `tolerance` of the largest expected value."""
    assert ours.shape == expected.shape
    error = np.max(np.abs(ours - expected), initial=0)
    assert error <= tolerance * max(1e-9, float(np.max(np.abs(expected), initial=0))), f"off by {error}"


def same_bits(left: FloatArray, right: FloatArray) -> bool:
    return left.shape == right.shape and left.tobytes() == right.tobytes()
