"""What a step must read and compute at the least: the numerators of a benchmark's percentages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.model.decoder import Decoder
from headrace.model.spec import ModelSpec
from headrace.model.weights import MlpWeights
from headrace.ops.base import MoeWeights, Weight

_KV_BYTES = 2  # float16


@dataclass(frozen=True, slots=True)
class Cost:
    """A model's matrices by how a step uses them, in bytes and in multiplications per token."""

    layer_bytes: int
    """Matrices that every token uses"""
    layer_parameters: int
    head_bytes: int
    head_parameters: int
    expert_bytes: int
    """All experts"""
    expert_parameters: int
    experts: int
    experts_per_token: int
    kv_bytes_per_position: int
    """Keys and values of one position, in all layers"""

    def decode_bytes(self, batch: int, context: float) -> float:
        """Bytes read by a step that decodes `batch` sequences of `context` tokens.

        Of a mixture of experts, as many as `batch` tokens with independent choices are expected to touch.
        """
        touched = 0.0 if not self.experts else 1 - (1 - self.experts_per_token / self.experts) ** batch
        weights = self.layer_bytes + self.head_bytes + touched * self.expert_bytes
        return weights + batch * context * self.kv_bytes_per_position

    def prefill_flops(self, tokens: int) -> float:
        """Floating-point operations of `tokens` prompt tokens with logits for the last; without attention's own."""
        share = self.experts_per_token / self.experts if self.experts else 0.0
        return 2 * (tokens * (self.layer_parameters + share * self.expert_parameters) + self.head_parameters)


def cost_of(decoder: Decoder) -> Cost:
    """The cost of a loaded model."""
    spec, weights = decoder.spec, decoder.weights
    dense = [*_dense_matrices(decoder)]
    experts = [matrix for moe in _mixtures(decoder) for matrix in (*moe.gate_up, *moe.down)]
    return Cost(
        layer_bytes=sum(matrix.nbytes for matrix in dense),
        layer_parameters=sum(_size(matrix) for matrix in dense),
        head_bytes=weights.head.nbytes,
        head_parameters=_size(weights.head),
        expert_bytes=sum(matrix.nbytes for matrix in experts),
        expert_parameters=sum(_size(matrix) for matrix in experts),
        experts=0 if spec.moe is None else spec.moe.num_experts,
        experts_per_token=0 if spec.moe is None else spec.moe.top_k,
        kv_bytes_per_position=2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * _KV_BYTES,
    )


def num_parameters(spec: ModelSpec) -> int:
    """All weights of the model; a tied embedding counts once."""
    total = 0
    for shape in spec.expected_weights().values():
        size = 1
        for extent in shape:
            size *= extent
        total += size
    return total


def _dense_matrices(decoder: Decoder) -> Iterator[Weight]:
    for layer in decoder.weights.layers:
        yield from (layer.qkv.weight, layer.output.weight)
        if isinstance(layer.mlp, MlpWeights):
            yield from (layer.mlp.up.weight, layer.mlp.down.weight)
        else:
            yield layer.mlp.router


def _mixtures(decoder: Decoder) -> Iterator[MoeWeights]:
    return (layer.mlp for layer in decoder.weights.layers if isinstance(layer.mlp, MoeWeights))


def _size(matrix: Weight) -> int:
    return matrix.shape[0] * matrix.shape[1]
