"""The forward pass of every family, written once against `headrace.ops.base.Ops`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.model.adapters import Adapters
from headrace.model.rope import RopeTables
from headrace.model.spec import ModelSpec, NormPlacement
from headrace.model.weights import DecoderWeights, LayerWeights, Linear, MlpWeights, Norm
from headrace.ops.base import Array, Forward, ForwardOps, HeadLayout, KVCache, Ops, RecordableForward
from headrace.types import IntArray


class Decoder:
    """A model ready to run: what to compute (`spec`), with what (`weights`), on what (`ops`).

    Holds no state of any sequence; keys and values live in the cache that the caller keeps. Encoders are the same pass
    with attention that is not causal: their sequences are computed whole, and no key outlives its layer.
    """

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, ops: Ops) -> None:
        self.spec = spec
        self.weights = weights
        self.ops = ops
        self.adapters = Adapters(spec, weights, ops)
        self.layout = HeadLayout(spec.num_heads, spec.num_kv_heads, spec.head_dim)
        self._rope = RopeTables(spec, ops)
        self._compiled: dict[str, Forward] = {}

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
        num_layers = self.spec.num_layers if self.spec.causal else 1
        return self.ops.new_kv_cache(num_layers, num_blocks, block_size, self.layout, dtype)

    def cache_block_bytes(self, block_size: int, dtype: CacheType = CacheType.F16) -> int:
        """Memory of one block of the cache, over all layers, keys and values."""
        return int(self.new_cache(1, block_size, dtype).nbytes)

    def forward(self, batch: Batch, cache: KVCache) -> Array:
        """Compute the batch's tokens, write their keys and values into the cache: logits [R, V] float32.

        Tokens before the batch's must be in the cache already, except those that the batch holds itself.
        """
        return self._run("logits", self._logits, batch, cache)

    def hidden(self, batch: Batch, cache: KVCache) -> Array:
        """`forward`, but what the head would get: hidden states [R, H] float32 after the last norm."""
        return self._run("hidden", self._hidden, batch, cache)

    def classify(self, pooled: Array) -> Array:
        """The classifier's logits [N, labels] for hidden states [N, H]; each row's depend on that row only."""
        spec, weights, ops = self.spec.classifier, self.weights.classifier, self.ops
        assert spec is not None
        assert weights is not None
        if spec.pooler is not None and weights.pooler is not None:
            x = ops.linear(pooled, weights.pooler.weight, weights.pooler.bias)
            kind = spec.pooler.activation
            x = ops.softcap(x, 1.0) if kind is None else ops.activate(x, kind, False)  # a cap of 1 is tanh
            pooled = self._norm(ops, x, weights.pooler_norm)
        return ops.linear(pooled, weights.scores.weight, weights.scores.bias)

    def _run(self, result: str, forward: RecordableForward, batch: Batch, cache: KVCache) -> Array:
        if self._rope.grow(int(batch.rope_rows.max()) + 1 if len(batch.rope_rows) else 0):
            self._compiled.clear()
        compiled = self._compiled.get(result)
        if compiled is None:
            compiled = self._compiled[result] = self.ops.compile(forward)
        return compiled(batch, cache)

    def _logits(self, ops: ForwardOps, batch: Batch, cache: KVCache) -> Array:
        """`forward` on the given operations; see `RecordableForward`."""
        spec, weights = self.spec, self.weights
        assert weights.head is not None, "the model has no language head"
        x = self._hidden(ops, batch, cache)
        logits = ops.linear(x, weights.head, scale=spec.logit_scale)
        logits = ops.adapt(logits, x, weights.head_deltas, batch.logit_adapters, spec.logit_scale)
        return logits if spec.logit_softcap is None else ops.softcap(logits, spec.logit_softcap)

    def _embed(self, ops: ForwardOps, batch: Batch) -> Array:
        """The tokens' embeddings, with all that is added to them, [T, H]."""
        spec, weights = self.spec, self.weights
        added = None
        if spec.positions is not None and weights.positions is not None:
            added = ops.embed(weights.positions, batch.positions, offset=spec.positions.offset)
        if weights.token_types is not None:
            added = ops.embed(weights.token_types, batch.token_types, add=added)
        x = ops.embed(weights.embed, batch.token_ids, spec.embedding_scale, added)
        deltas = weights.embed_deltas
        x = ops.adapt_embedding(x, batch.token_ids, deltas, batch.adapters, spec.embedding_scale, added)
        return self._norm(ops, x, weights.embed_norm)

    def _hidden(self, ops: ForwardOps, batch: Batch, cache: KVCache) -> Array:
        """`hidden` on the given operations."""
        spec, weights = self.spec, self.weights
        x, slots = self._embed(ops, batch), batch.adapters
        last = spec.num_layers - 1
        for index, of_layer in enumerate(weights.layers):
            attended = self._attention(ops, self._norm(ops, x, of_layer.attention_norm), index, of_layer, batch, cache)
            if index == last:  # what is left to do only serves the logits
                x, attended = ops.select(x, batch.logit_rows), ops.select(attended, batch.logit_rows)
                slots = batch.logit_adapters
            x = self._after_attention(ops, x, attended, of_layer, slots)
        return self._norm(ops, x, weights.norm)

    def _attention(
        self, ops: ForwardOps, x: Array, index: int, weights: LayerWeights, batch: Batch, cache: KVCache
    ) -> Array:
        """x [T, H] → what the heads read [T, heads * D], before the output projection."""
        spec, layer, layout = self.spec, self.spec.layers[index], self.layout
        rope = None if layer.rope is None else self._rope.tables[layer.rope]
        qkv = _linear(ops, x, weights.qkv, batch.adapters)
        cached = index if spec.causal else 0
        q = ops.rope_write(qkv, cache, cached, batch, layout, rope, weights.qk_norm)
        scale, softcap = spec.attention_scale, spec.attention_softcap
        return ops.attention(q, cache, cached, batch, layout, scale, layer.window, softcap, spec.causal)

    def _after_attention(
        self, ops: ForwardOps, x: Array, attended: Array, weights: LayerWeights, slots: IntArray
    ) -> Array:
        """x [T, H] before the layer, attended [T, heads * D] → [T, H], the residual stream after the layer."""
        after = self._add(ops, x, attended, weights.output, weights.attention_post_norm, slots)
        source = x if self.spec.norm_placement is NormPlacement.PARALLEL else after
        return self._mlp(ops, self._norm(ops, source, weights.mlp_norm), after, weights, slots)

    def _mlp(self, ops: ForwardOps, x: Array, residual: Array, weights: LayerWeights, slots: IntArray) -> Array:
        """residual + MLP(x), both [T, H]."""
        mlp, post_norm, scale = weights.mlp, weights.mlp_post_norm, self.spec.residual_scale
        if isinstance(mlp, MlpWeights):
            inner = ops.activate(_linear(ops, x, mlp.up, slots), self.spec.activation, self.spec.gated)
            return self._add(ops, residual, inner, mlp.down, post_norm, slots)
        if post_norm is None:
            return ops.moe(x, mlp, scale, residual)
        assert self.spec.norm_placement is not NormPlacement.AFTER
        return self._norm(ops, ops.moe(x, mlp, scale), post_norm, residual)

    def _add(
        self, ops: ForwardOps, residual: Array, x: Array, linear: Linear, post_norm: Norm | None, slots: IntArray
    ) -> Array:
        """residual + the projection of x, through the norm that comes after it where there is one."""
        scale = self.spec.residual_scale
        if post_norm is None:
            return _linear(ops, x, linear, slots, scale, residual)
        if self.spec.norm_placement is NormPlacement.AFTER:
            return self._norm(ops, _linear(ops, x, linear, slots, scale, residual), post_norm)
        return self._norm(ops, _linear(ops, x, linear, slots, scale), post_norm, residual)

    def _norm(self, ops: ForwardOps, x: Array, norm: Norm | None, add: Array | None = None) -> Array:
        if norm is None:
            return x
        return ops.norm(x, norm.weight, norm.bias, self.spec.norm, self.spec.norm_eps, add)


def _linear(
    ops: ForwardOps, x: Array, linear: Linear, slots: IntArray, scale: float = 1.0, add: Array | None = None
) -> Array:
    """scale * linear(x) (+ add) for rows [T, columns], each with its adapter."""
    y = ops.linear(x, linear.weight, linear.bias, scale, add)
    return ops.adapt(y, x, linear.deltas, slots, scale)
