"""The oracle: every operation in plain numpy, slow and obvious. Other backends are tested against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.batch import Batch, SamplingBatch
from headrace.config import CacheType
from headrace.formats.tensor import Tensor
from headrace.ops.base import (
    Forward,
    HeadLayout,
    LowRankPart,
    MoeWeights,
    QkNormWeights,
    RecordableForward,
    RopeTable,
)
from headrace.ops.kinds import Activation, NormKind, QkNorm
from headrace.ops.reference_lookup import ReferenceLookup
from headrace.ops.reference_sampling import sample_row
from headrace.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class DenseWeight:
    """A matrix decoded to float32 [rows, columns]."""

    values: FloatArray
    format: str

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@dataclass(frozen=True, slots=True)
class ReferenceCache:
    """keys and values: [layers, blocks, block_size, kv heads, D]; those of Q8 are kept multiplied out, in float32."""

    keys: NDArray[np.floating]
    values: NDArray[np.floating]
    block_size: int
    dtype: CacheType

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class ReferenceDeltas:
    """`headrace.ops.base.Deltas` as matrices [rows, columns], each with whether it is added or stands for the whole."""

    def __init__(self, rows: int, columns: int, *, is_table: bool) -> None:
        self._shape = rows, columns
        self._is_table = is_table
        self._slots: dict[int, list[tuple[FloatArray, bool]]] = {}

    @property
    def num_columns(self) -> int:
        return self._shape[1]

    def set(self, slot: int, parts: Sequence[LowRankPart]) -> None:
        self._slots[slot] = [self._matrix(part) for part in parts]

    def clear(self, slot: int) -> None:
        self._slots.pop(slot, None)

    def row(self, slot: int, y: FloatArray, x: FloatArray, scale: float, add: FloatArray | float) -> FloatArray:
        """One row: y with the adapter's share of x [columns]."""
        for matrix, is_added in self._slots.get(slot, ()):
            y = (y if is_added else add) + np.float32(scale) * (matrix @ x)
        return y

    def _matrix(self, part: LowRankPart) -> tuple[FloatArray, bool]:
        up: Any = part.up
        down: Any = part.down
        if down is None:
            whole = up.values.T if self._is_table else up.values
            if whole.shape != self._shape:
                raise ValueError(f"the part is {whole.shape}, expected {self._shape}")
            return whole, False
        update = up.values @ (down.values.T if self._is_table else down.values)
        matrix = np.zeros(self._shape, np.float32)
        matrix[part.first_row : part.first_row + len(update)] = np.float32(part.scale) * update
        return matrix, True


def _rms_norm(x: FloatArray, weight: FloatArray, eps: float) -> FloatArray:
    y: FloatArray = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps)) * weight
    return y


def _hadamard_size(dim: int) -> int:
    vectors = dim // 16 if dim % 16 == 0 else 1
    return vectors & -vectors


def _hadamard(heads: FloatArray) -> FloatArray:
    """A Walsh-Hadamard transform of each head [..., D] over numbers 16 apart, as many as a power of two allows."""
    *outer, dim = heads.shape
    size = _hadamard_size(dim)
    values = heads.reshape(*outer, -1, size, 16 if size > 1 else dim)
    half = 1
    while half < size:
        pairs = values.reshape(*values.shape[:-2], size // (2 * half), 2, half, values.shape[-1])
        low, high = pairs[..., 0, :, :], pairs[..., 1, :, :]
        values = np.stack([low + high, low - high], axis=-3).reshape(values.shape)
        half *= 2
    return values.reshape(heads.shape)


def _in_8_bits(heads: FloatArray) -> FloatArray:
    """Each head [..., D] mixed, rounded to 255 steps between plus and minus its largest number, and mixed back."""
    mixed = _hadamard(heads)
    most = np.abs(mixed).max(axis=-1, keepdims=True)
    inverse = np.float32(127) / np.where(most < 1e-36, np.float32(np.inf), most)
    rounded = np.rint(mixed * inverse) * (most * np.float32(1 / 127))
    return _hadamard(rounded) * np.float32(1 / _hadamard_size(heads.shape[-1]))


def _erf(x: FloatArray) -> FloatArray:
    from math import erf

    return np.vectorize(erf, otypes=[np.float32])(x) if x.size else x


_ACTIVATIONS: dict[Activation, Callable[[FloatArray], FloatArray]] = {
    Activation.SILU: lambda x: x / (1 + np.exp(-x)),
    Activation.GELU: lambda x: 0.5 * x * (1 + _erf(x / np.float32(np.sqrt(2)))),
    Activation.GELU_TANH: lambda x: (
        0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))
    ),
    Activation.RELU: lambda x: np.maximum(x, 0),
}


class ReferenceOps:
    """`headrace.ops.base.Ops` in numpy."""

    name = "reference"

    def pack(self, parts: Sequence[Tensor]) -> DenseWeight:
        values = np.concatenate([part.decode() for part in parts])
        return DenseWeight(values, "+".join(dict.fromkeys(part.codec.name for part in parts)))

    def pack_table(self, part: Tensor) -> DenseWeight:
        return self.pack([part])

    def vector(self, values: FloatArray) -> FloatArray:
        return np.ascontiguousarray(values, dtype=np.float32)

    def new_kv_cache(
        self, num_layers: int, num_blocks: int, block_size: int, layout: HeadLayout, dtype: CacheType = CacheType.F16
    ) -> ReferenceCache:
        shape = (num_layers, num_blocks, block_size, layout.num_kv_heads, layout.head_dim)
        element = np.float16 if dtype is CacheType.F16 else np.float32
        return ReferenceCache(np.zeros(shape, element), np.zeros(shape, element), block_size, dtype)

    def copy_blocks(self, cache: ReferenceCache, sources: IntArray, targets: IntArray) -> None:
        for source, target in zip(sources, targets, strict=True):
            cache.keys[:, target] = cache.keys[:, source]
            cache.values[:, target] = cache.values[:, source]

    def new_deltas(self, rows: int, columns: int, *, is_table: bool = False) -> ReferenceDeltas:
        return ReferenceDeltas(rows, columns, is_table=is_table)

    def new_lookup(self, token_ids: Sequence[int]) -> ReferenceLookup:
        return ReferenceLookup(token_ids)

    def follow(self, lookups: list[ReferenceLookup], texts: list[list[int]], least: float) -> list[int]:
        chances = [lookup.follow(text) for lookup, text in zip(lookups, texts, strict=True)]
        return [at for at, chance in enumerate(chances) if chance > 0 and chance >= least]

    def compile(self, forward: RecordableForward) -> Forward:
        return partial(forward, self)

    def embed(
        self, table: Any, ids: IntArray, scale: float = 1.0, add: FloatArray | None = None, offset: int = 0
    ) -> FloatArray:
        rows: FloatArray = table.values[ids + offset] * np.float32(scale)
        return rows if add is None else rows + add

    def norm(
        self,
        x: FloatArray,
        weight: FloatArray,
        bias: FloatArray | None,
        kind: NormKind,
        eps: float,
        add: FloatArray | None = None,
    ) -> FloatArray:
        if kind is NormKind.LAYER:
            centred = x - x.mean(axis=-1, keepdims=True)
            y: FloatArray = (
                centred / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + np.float32(eps)) * weight
            )
        else:
            y = _rms_norm(x, weight, eps)
        if bias is not None:
            y = y + bias
        return y if add is None else y + add

    def linear(
        self,
        x: FloatArray,
        weight: Any,
        bias: FloatArray | None = None,
        scale: float = 1.0,
        add: FloatArray | None = None,
    ) -> FloatArray:
        y: FloatArray = x @ weight.values.T
        if bias is not None:
            y = y + bias
        y = y * np.float32(scale)
        return y if add is None else y + add

    def adapt(self, y: FloatArray, x: FloatArray, deltas: Any, slots: IntArray, scale: float = 1.0) -> FloatArray:
        for t, slot in enumerate(slots.tolist()):
            y[t] = deltas.row(slot, y[t], x[t], scale, 0.0)
        return y

    def adapt_embedding(
        self,
        y: FloatArray,
        ids: IntArray,
        deltas: Any,
        slots: IntArray,
        scale: float = 1.0,
        add: FloatArray | None = None,
    ) -> FloatArray:
        for t, slot in enumerate(slots.tolist()):
            one_hot = np.zeros(deltas.num_columns, np.float32)
            one_hot[ids[t]] = 1
            y[t] = deltas.row(slot, y[t], one_hot, scale, 0.0 if add is None else add[t])
        return y

    def rope_write(
        self,
        qkv: FloatArray,
        cache: ReferenceCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        rope: RopeTable | None,
        qk_norm: QkNormWeights | None,
    ) -> FloatArray:
        tokens, heads, kv_heads, dim = len(qkv), layout.num_heads, layout.num_kv_heads, layout.head_dim
        q, k, v = np.split(qkv, [heads * dim, (heads + kv_heads) * dim], axis=1)
        if qk_norm is not None and qk_norm.kind is QkNorm.FULL:
            q, k = _rms_norm(q, qk_norm.q, qk_norm.eps), _rms_norm(k, qk_norm.k, qk_norm.eps)
        q, k, v = q.reshape(tokens, heads, dim), k.reshape(tokens, kv_heads, dim), v.reshape(tokens, kv_heads, dim)
        if qk_norm is not None and qk_norm.kind is QkNorm.HEAD:
            q, k = _rms_norm(q, qk_norm.q, qk_norm.eps), _rms_norm(k, qk_norm.k, qk_norm.eps)
        if rope is not None:
            cos, sin = rope.cos[batch.rope_rows][:, None], rope.sin[batch.rope_rows][:, None]
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if cache.dtype is CacheType.Q8:
            k, v = _in_8_bits(k), _in_8_bits(v)
        size = cache.block_size
        for s in range(len(batch.query_start) - 1):
            tokens_of_s = slice(batch.query_start[s], batch.query_start[s + 1])
            positions = batch.positions[tokens_of_s]
            blocks = batch.block_tables[s, positions // size]
            cache.keys[layer, blocks, positions % size] = k[tokens_of_s]
            cache.values[layer, blocks, positions % size] = v[tokens_of_s]
        return q.reshape(tokens, heads * dim)

    def attention(
        self,
        q: FloatArray,
        cache: ReferenceCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        scale: float,
        window: int | None,
        softcap: float | None,
        causal: bool = True,
    ) -> FloatArray:
        out = np.empty_like(q)
        group = layout.num_heads // layout.num_kv_heads
        for s in range(len(batch.query_start) - 1):
            for t in range(batch.query_start[s], batch.query_start[s + 1]):
                own = int(batch.positions[t])
                first = 0 if window is None else max(0, own - window + 1)
                last = own if causal else int(batch.positions[batch.query_start[s + 1] - 1])
                if not causal and window is not None:
                    last = min(last, own + window - 1)
                at = np.arange(first, last + 1)
                blocks, offsets = batch.block_tables[s, at // cache.block_size], at % cache.block_size
                keys = cache.keys[layer, blocks, offsets].astype(np.float32).repeat(group, axis=1)
                values = cache.values[layer, blocks, offsets].astype(np.float32).repeat(group, axis=1)
                scores = np.einsum("hd,khd->hk", q[t].reshape(layout.num_heads, -1), keys) * np.float32(scale)
                if softcap is not None:
                    scores = self.softcap(scores, softcap)
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                out[t] = np.einsum("hk,khd->hd", weights, values).reshape(-1)
        return out

    def activate(self, x: FloatArray, kind: Activation, gated: bool) -> FloatArray:
        if not gated:
            return _ACTIVATIONS[kind](x)
        half = x.shape[1] // 2
        return _ACTIVATIONS[kind](x[:, :half]) * x[:, half:]

    def moe(self, x: FloatArray, weights: MoeWeights, scale: float = 1.0, add: FloatArray | None = None) -> FloatArray:
        out = np.zeros_like(x)
        router: Any = weights.router
        logits = self.linear(x, router)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        order = np.argsort(-shares, axis=1, kind="stable")[:, : weights.top_k]
        for t, experts in enumerate(order):
            chosen = shares[t, experts]
            if weights.normalize:
                chosen = chosen / chosen.sum()
            for expert, share in zip(experts, chosen, strict=True):
                gate_up: Any = weights.gate_up[expert]
                down: Any = weights.down[expert]
                inner = self.activate(self.linear(x[t : t + 1], gate_up), weights.activation, gated=True)
                out[t] += share * self.linear(inner, down)[0]
        out = out * np.float32(scale)
        return out if add is None else out + add

    def select(self, x: FloatArray, rows: IntArray) -> FloatArray:
        return x[rows]

    def softcap(self, x: FloatArray, cap: float) -> FloatArray:
        y: FloatArray = np.float32(cap) * np.tanh(x / np.float32(cap))
        return y

    def sample(self, logits: FloatArray, batch: SamplingBatch) -> IntArray:
        return np.array([sample_row(logits[r], batch, batch.rows[r]) for r in range(len(logits))], np.int32)

    def logprobs(
        self, logits: FloatArray, token_ids: IntArray, top: int
    ) -> tuple[FloatArray, IntArray, IntArray, FloatArray]:
        shifted = logits - logits.max(axis=1, keepdims=True)
        table = shifted - np.log(np.exp(shifted.astype(np.float64)).sum(axis=1, keepdims=True))
        table = table.astype(np.float32)
        rows = np.arange(len(logits))
        chosen = logits[rows, token_ids]
        rank = 1 + (logits > chosen[:, None]).sum(axis=1)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        return (
            table[rows, token_ids],
            rank.astype(np.int32),
            best.astype(np.int32),
            np.take_along_axis(table, best, axis=1),
        )


def _rotate(x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
    """Rotate the first 2 * cos.shape[-1] dimensions of each head: x [T, heads, D], cos and sin [T, 1, rotated / 2]."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
