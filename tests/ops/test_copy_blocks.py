"""Copied blocks read like the blocks that they were copied from, in every layer and element type."""

from __future__ import annotations

import numpy as np
import pytest
from ops_cases import batch_on, floats, qkv_width, same_bits

from headrace.config import CacheType
from headrace.ops.base import HeadLayout, Ops
from headrace.ops.cpu import CpuOps
from headrace.ops.reference import ReferenceOps

LAYOUT = HeadLayout(4, 2, 24)
LAYERS = 3


@pytest.mark.parametrize("dtype", list(CacheType))
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("backend", [CpuOps, ReferenceOps])
def test_a_copy_reads_like_its_source(
    backend: type[CpuOps] | type[ReferenceOps], block_size: int, dtype: CacheType
) -> None:
    ops: Ops = backend()
    cache = ops.new_kv_cache(LAYERS, 8, block_size, LAYOUT, dtype)
    length = 2 * block_size + 7
    written = batch_on([(0, length)], np.array([[5, 0, 3]], np.int32))
    read = batch_on([(length, length + 1)], np.array([[5, 0, 3]], np.int32))
    copied = batch_on([(length, length + 1)], np.array([[1, 2, 7]], np.int32))
    queries = floats(9, 1, qkv_width(LAYOUT))
    for layer in range(LAYERS):
        ops.rope_write(floats(layer, length, qkv_width(LAYOUT)), cache, layer, written, LAYOUT, None, None)
    ops.copy_blocks(cache, np.array([5, 0, 3, 7], np.int32), np.array([1, 2, 7, 7], np.int32))
    for layer in range(LAYERS):
        outs = []
        for batch in (read, copied):
            q = ops.rope_write(queries.copy(), cache, layer, batch, LAYOUT, None, None)
            outs.append(ops.attention(q, cache, layer, batch, LAYOUT, 0.2, None, None))
        assert same_bits(*outs)
    ops.copy_blocks(cache, np.empty(0, np.int32), np.empty(0, np.int32))


def test_what_lies_outside_is_refused() -> None:
    ops = CpuOps(1)
    cache = ops.new_kv_cache(1, 4, 16, LAYOUT)
    for sources, targets in (([4], [0]), ([0], [4]), ([-1], [0]), ([0, 1], [2])):
        with pytest.raises(ValueError, match=r"outside of the cache|the same size"):
            ops.copy_blocks(cache, np.array(sources, np.int32), np.array(targets, np.int32))
