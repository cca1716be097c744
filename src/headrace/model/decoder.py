"""The forward pass of every family, written once against `headrace.ops.base.Ops`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from headrace.model.rope import RopeTables
from headrace.model.spec import LayerSpec, ModelSpec, NormPlacement
from headrace.model.weights import DecoderWeights, LayerWeights, Linear, MlpWeights, Norm
from headrace.ops.base import Array, HeadLayout, KVCache, Ops
from headrace.ops.kinds import CacheType
from headrace.types import Batch, IntArray


class Decoder:
    """A model ready to run: what to compute (`spec`), with what (`weights`), on what (`ops`).

    Holds no state of any sequence; keys and values live in the cache that the caller keeps.
    """

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, ops: Ops) -> None:
        self.spec = spec
        self.weights = weights
        self.ops = ops
        self.layout = HeadLayout(spec.num_heads, spec.num_kv_heads, spec.head_dim)
        self._rope = RopeTables(spec, ops)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices, as packed."""
        return sum(matrix.nbytes for matrix in self.weights.matrices())

    @property
    def formats(self) -> str:
        """The matrices' formats, that with the most bytes first: "q8_0, f32"."""
        nbytes: Counter[str] = Counter()
        for matrix in self.weights.matrices():
            nbytes[matrix.format] += matrix.nbytes
        return ", ".join(name for name, _ in nbytes.most_common())

    def rope_rows(self, positions: IntArray, variants: IntArray | int) -> IntArray:
        """Batch.rope_rows of positions [T] whose sequences use the given variants [T].

        Variant 1 is for sequences of more than `spec.rope_switch` known tokens, prompt and output together; else 0.
        """
        return positions * np.int32(self.spec.num_rope_variants) + np.asarray(variants, np.int32)

    @property
    def natural_cache_type(self) -> CacheType:
        """float32 for a model in float32, so that nothing of it is lost; float16 for all others."""
        return CacheType.F32 if self.formats == "f32" else CacheType.F16

    def new_cache(self, num_blocks: int, block_size: int, dtype: CacheType = CacheType.F16) -> KVCache:
        """An empty key-value cache of num_blocks blocks of block_size tokens."""
        return self.ops.new_kv_cache(self.spec.num_layers, num_blocks, block_size, self.layout, dtype)

    def cache_block_bytes(self, block_size: int, dtype: CacheType = CacheType.F16) -> int:
        """Memory of one block of the cache, over all layers, keys and values."""
        return int(self.new_cache(1, block_size, dtype).nbytes)

    def forward(self, batch: Batch, cache: KVCache) -> Array:
        """Compute the batch's tokens, write their keys and values into the cache: logits [R, V] float32.

        Tokens before the batch's must be in the cache already, except those that the batch holds itself.
        """
        ops, spec = self.ops, self.spec
        self._rope.grow(int(batch.rope_rows.max()) + 1 if len(batch.rope_rows) else 0)
        x = ops.embed(self.weights.embed, batch.token_ids, spec.embedding_scale, self._positions(batch))
        for index, (layer, weights) in enumerate(zip(spec.layers, self.weights.layers, strict=True)):
            x = self._layer(x, index, layer, weights, batch, cache)
        x = self._norm(ops.select(x, batch.logit_rows), self.weights.norm)
        logits = ops.linear(x, self.weights.head, scale=spec.logit_scale)
        return logits if spec.logit_softcap is None else ops.softcap(logits, spec.logit_softcap)

    def _positions(self, batch: Batch) -> Array | None:
        if self.spec.positions is None or self.weights.positions is None:
            return None
        return self.ops.embed(self.weights.positions, batch.positions + self.spec.positions.offset)

    def _layer(
        self, x: Array, index: int, layer: LayerSpec, weights: LayerWeights, batch: Batch, cache: KVCache
    ) -> Array:
        """x [T, H] → [T, H], the residual stream after the layer."""
        attended = self._attention(self._norm(x, weights.attention_norm), index, layer, weights, batch, cache)
        after = self._add(x, attended, weights.output, weights.attention_post_norm)
        source = x if self.spec.norm_placement is NormPlacement.PARALLEL else after
        return self._mlp(self._norm(source, weights.mlp_norm), after, weights)

    def _attention(
        self, x: Array, index: int, layer: LayerSpec, weights: LayerWeights, batch: Batch, cache: KVCache
    ) -> Array:
        """x [T, H] → what the heads read [T, heads * D], before the output projection."""
        spec, layout = self.spec, self.layout
        rope = None if layer.rope is None else self._rope.tables[layer.rope]
        qkv = self.ops.linear(x, weights.qkv.weight, weights.qkv.bias)
        q = self.ops.rope_write(qkv, cache, index, batch, layout, rope, weights.qk_norm)
        return self.ops.attention(
            q, cache, index, batch, layout, spec.attention_scale, layer.window, spec.attention_softcap
        )

    def _mlp(self, x: Array, residual: Array, weights: LayerWeights) -> Array:
        """residual + MLP(x), both [T, H]."""
        mlp, post_norm, scale = weights.mlp, weights.mlp_post_norm, self.spec.residual_scale
        if isinstance(mlp, MlpWeights):
            up = self.ops.linear(x, mlp.up.weight, mlp.up.bias)
            inner = self.ops.activate(up, self.spec.activation, self.spec.gated)
            return self._add(residual, inner, mlp.down, post_norm)
        if post_norm is None:
            return self.ops.moe(x, mlp, scale, residual)
        return self._norm(self.ops.moe(x, mlp, scale), post_norm, residual)

    def _add(self, residual: Array, x: Array, linear: Linear, post_norm: Norm | None) -> Array:
        """residual + the projection of x, through the norm that comes after it where there is one."""
        scale = self.spec.residual_scale
        if post_norm is None:
            return self.ops.linear(x, linear.weight, linear.bias, scale, residual)
        return self._norm(self.ops.linear(x, linear.weight, linear.bias, scale), post_norm, residual)

    def _norm(self, x: Array, norm: Norm | None, add: Array | None = None) -> Array:
        if norm is None:
            return x
        return self.ops.norm(x, norm.weight, norm.bias, self.spec.norm, self.spec.norm_eps, add)
