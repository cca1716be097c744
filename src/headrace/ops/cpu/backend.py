"""`headrace.ops.base.Ops` on the native kernels: allocates outputs and hands numpy arrays down, nothing else.

The kernels check types (TypeError), shapes and indices (ValueError) of everything that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from headrace import _core
from headrace.batch import SAMPLING_ROW, Batch, SamplingBatch
from headrace.config import CacheType, available_threads
from headrace.errors import ConfigError, UnsupportedModel
from headrace.formats.tensor import Tensor
from headrace.ops.base import (
    Deltas,
    Forward,
    HeadLayout,
    MoeWeights,
    QkNormWeights,
    RecordableForward,
    RopeTable,
    Weight,
)
from headrace.ops.cpu.tape import Clock, record
from headrace.ops.cpu.weight import CpuDeltas, CpuWeight, native_deltas, native_weight
from headrace.ops.kinds import Activation, NormKind
from headrace.types import FloatArray, IntArray

_CODECS: Final = MappingProxyType({name: (values, size) for name, values, size in _core.codecs()})

_NO_ROWS: Final = np.empty(0, np.int32)
_NO_ROWS.setflags(write=False)


def instruction_sets() -> list[str]:
    """Names of the instruction sets that this machine has and the kernels know, best first."""
    return _core.instruction_sets()


def codec_names() -> tuple[str, ...]:
    """Names of the codecs that the kernels compute with."""
    return tuple(_CODECS)


class CpuOps:
    """`headrace.ops.base.Ops` on native kernels.

    `threads` is None for one thread on each core that this process may use; `instruction_set` is None for the best
    one. `linear` rounds activations to 8 bits for each 32 columns where a weight is quantised, unless
    `exact_activations` is set. Results do not depend on `threads`; every instruction set gives the same bits but
    `baseline` on x86-64 (no fused multiply-add), which may differ in the last ones. Calls from several Python threads
    wait for each other. In a forked child the operations run on the calling thread alone.

    Raises:
        ConfigError: this machine has no such instruction set.
    """

    name = "cpu"

    def __init__(
        self, threads: int | None = None, instruction_set: str | None = None, *, exact_activations: bool = False
    ) -> None:
        known = instruction_sets()
        if instruction_set is not None and instruction_set not in known:
            names = ", ".join(known)
            raise ConfigError(f"instruction set is {instruction_set!r}, expected one that this machine has: {names}")
        self._native = _core.Backend(threads or available_threads(), instruction_set or known[0], exact_activations)
        self.clock = Clock()
        """For those who want to know what a compiled forward pass spends its time on"""

    @property
    def threads(self) -> int:
        """Compute threads, the calling one included."""
        return self._native.threads

    @property
    def instruction_set(self) -> str:
        """The instruction set in use."""
        return self._native.instruction_set

    def pack(self, parts: Sequence[Tensor]) -> CpuWeight:
        """See `Ops.pack`. Copies everything."""
        columns = parts[0].shape[-1]
        native = _core.Weight(columns)
        for part in parts:
            _check_part(part, columns)
            self._native.pack(native, part.codec.name, np.ascontiguousarray(part.data))
        names = "+".join(dict.fromkeys(part.codec.name for part in parts))
        return CpuWeight(native, (native.rows, columns), names, native.nbytes)

    def pack_table(self, part: Tensor) -> CpuWeight:
        """See `Ops.pack_table`. Keeps a view of the part's memory; copies only what is not contiguous."""
        columns = part.shape[-1]
        _check_part(part, columns)
        native = _core.Weight(columns)
        native.add_rows(part.codec.name, np.ascontiguousarray(part.data))
        return CpuWeight(native, (native.rows, columns), part.codec.name, native.nbytes)

    def vector(self, values: FloatArray) -> FloatArray:
        return np.ascontiguousarray(values, dtype=np.float32)

    def new_deltas(self, rows: int, columns: int, *, is_table: bool = False) -> CpuDeltas:
        return CpuDeltas(_core.Deltas(rows, columns, is_table))

    def new_kv_cache(
        self, num_layers: int, num_blocks: int, block_size: int, layout: HeadLayout, dtype: CacheType = CacheType.F16
    ) -> _core.KVCache:
        return _core.KVCache(dtype, num_layers, num_blocks, block_size, layout.num_kv_heads, layout.head_dim)

    def copy_blocks(self, cache: _core.KVCache, sources: IntArray, targets: IntArray) -> None:
        cache.copy_blocks(sources, targets)

    def new_lookup(self, token_ids: Sequence[int]) -> _core.PromptLookup:
        return _core.PromptLookup(token_ids)

    def follow(self, lookups: list[_core.PromptLookup], texts: list[list[int]], least: float) -> list[int]:
        return _core.follow(lookups, texts, least)

    def compile(self, forward: RecordableForward) -> Forward:
        return record(self._native, forward, self.clock)

    def embed(
        self, table: Weight, ids: IntArray, scale: float = 1.0, add: FloatArray | None = None, offset: int = 0
    ) -> FloatArray:
        out = np.empty((len(ids), table.shape[1]), np.float32)
        self._native.embed(native_weight(table), ids, scale, add, offset, out)
        return out

    def norm(
        self,
        x: FloatArray,
        weight: FloatArray,
        bias: FloatArray | None,
        kind: NormKind,
        eps: float,
        add: FloatArray | None = None,
    ) -> FloatArray:
        out = np.empty(x.shape, np.float32)
        self._native.norm(x, weight, bias, kind, eps, add, out)
        return out

    def linear(
        self,
        x: FloatArray,
        weight: Weight,
        bias: FloatArray | None = None,
        scale: float = 1.0,
        add: FloatArray | None = None,
    ) -> FloatArray:
        out = np.empty((len(x), weight.shape[0]), np.float32)
        self._native.linear(x, native_weight(weight), bias, scale, add, out)
        return out

    def adapt(self, y: FloatArray, x: FloatArray, deltas: Deltas, slots: IntArray, scale: float = 1.0) -> FloatArray:
        if len(slots):
            self._native.adapt(y, x, native_deltas(deltas), slots, scale)
        return y

    def adapt_embedding(
        self,
        y: FloatArray,
        ids: IntArray,
        deltas: Deltas,
        slots: IntArray,
        scale: float = 1.0,
        add: FloatArray | None = None,
    ) -> FloatArray:
        if len(slots):
            self._native.adapt_embedding(y, ids, native_deltas(deltas), slots, scale, add)
        return y

    def rope_write(
        self,
        qkv: FloatArray,
        cache: _core.KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        rope: RopeTable | None,
        qk_norm: QkNormWeights | None,
    ) -> FloatArray:
        q = np.empty((len(qkv), layout.num_heads * layout.head_dim), np.float32)
        self._native.rope_write(
            qkv,
            q,
            cache,
            layer,
            layout.num_heads,
            batch.positions,
            batch.query_start,
            batch.block_tables,
            _NO_ROWS if rope is None else batch.rope_rows,
            None if rope is None else rope.cos,
            None if rope is None else rope.sin,
            "" if qk_norm is None else qk_norm.kind,
            None if qk_norm is None else qk_norm.q,
            None if qk_norm is None else qk_norm.k,
            0.0 if qk_norm is None else qk_norm.eps,
        )
        return q

    def attention(
        self,
        q: FloatArray,
        cache: _core.KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        scale: float,
        window: int | None,
        softcap: float | None,
        causal: bool = True,
    ) -> FloatArray:
        out = np.empty(q.shape, np.float32)
        self._native.attention(
            q,
            cache,
            layer,
            layout.num_heads,
            batch.positions,
            batch.query_start,
            batch.block_tables,
            scale,
            window or 0,
            softcap or 0.0,
            causal,
            out,
        )
        return out

    def activate(self, x: FloatArray, kind: Activation, gated: bool) -> FloatArray:
        rows, columns = x.shape
        out = np.empty((rows, columns // 2 if gated else columns), np.float32)
        self._native.activate(x, kind, gated, out)
        return out

    def moe(self, x: FloatArray, weights: MoeWeights, scale: float = 1.0, add: FloatArray | None = None) -> FloatArray:
        out = np.empty(x.shape, np.float32)
        self._native.moe(
            x,
            native_weight(weights.router),
            [native_weight(weight) for weight in weights.gate_up],
            [native_weight(weight) for weight in weights.down],
            weights.top_k,
            weights.normalize,
            weights.activation,
            scale,
            add,
            out,
        )
        return out

    def select(self, x: FloatArray, rows: IntArray) -> FloatArray:
        return x.take(rows, axis=0)

    def softcap(self, x: FloatArray, cap: float) -> FloatArray:
        out = np.empty(x.shape, np.float32)
        self._native.softcap(x, cap, out)
        return out

    def sample(self, logits: FloatArray, batch: SamplingBatch) -> IntArray:
        out = np.empty(len(logits), np.int32)
        self._native.sample(
            logits,
            batch.rows.view(np.uint8).reshape(-1, SAMPLING_ROW.itemsize),
            batch.history,
            batch.bias_ids,
            batch.bias_values,
            batch.phrase_ids,
            batch.phrase_start,
            batch.masks,
            batch.token_sets,
            out,
        )
        return out

    def logprobs(
        self, logits: FloatArray, token_ids: IntArray, top: int
    ) -> tuple[FloatArray, IntArray, IntArray, FloatArray]:
        rows = len(logits)
        top = min(top, logits.shape[1])
        logprob, rank = np.empty(rows, np.float32), np.empty(rows, np.int32)
        top_ids, top_logprobs = np.empty((rows, top), np.int32), np.empty((rows, top), np.float32)
        self._native.logprobs(logits, token_ids, logprob, rank, top_ids, top_logprobs)
        return logprob, rank, top_ids, top_logprobs

    def read_rate(self, buffer: FloatArray) -> float:
        """Bytes per second of one pass of all threads over `buffer`, which has at least 262,144 values."""
        return self._native.read_rate(buffer)

    def multiply_add_rate(self) -> float:
        """Float32 operations per second of all threads together, two for each multiply-add. Takes some milliseconds."""
        return self._native.multiply_add_rate()

    def dot_rate(self) -> float:
        """The same for products of bytes, added up in 32 bits as in the kernels of quantised weights."""
        return self._native.dot_rate()


def _check_part(part: Tensor, columns: int) -> None:
    codec = part.codec
    if _CODECS.get(codec.name) != (codec.block_size, codec.block_bytes):
        raise UnsupportedModel(f"{part.name} is stored as {codec.name}, expected one of {', '.join(_CODECS)}")
    if len(part.shape) != 2 or part.shape[1] != columns:
        raise ValueError(f"{part.name} has shape {part.shape}, expected two axes, the second of {columns}")
