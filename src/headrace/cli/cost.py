"""What a step must read and compute at the least: the roofline that a benchmark's percentages are of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.cli.machine import Limits
from headrace.model.decoder import Decoder
from headrace.model.spec import ModelSpec
from headrace.model.weights import MlpWeights
from headrace.ops.base import MoeWeights, Weight


@dataclass(frozen=True, slots=True)
class Work:
    """What one step reads and computes."""

    nbytes: float
    flops: float
    """Operations in float32"""
    int8_operations: float = 0
    """Operations on bytes: quantised weights times activations of 8 bits"""

    @staticmethod
    def of_matrix(weight: Weight, tokens: int) -> Work:
        """A matrix that is read once, for some tokens."""
        operations = 2 * tokens * weight.shape[0] * weight.shape[1]
        return Work(weight.nbytes, 0, operations) if is_integer(weight) else Work(weight.nbytes, operations)

    @property
    def operations(self) -> float:
        """Multiplications and additions of all kinds."""
        return self.flops + self.int8_operations

    def least_seconds(self, limits: Limits) -> float:
        """The time of a machine that only its limits hold back."""
        return max(self.nbytes / limits.read_bandwidth, self._arithmetic_seconds(limits))

    def bound(self, limits: Limits) -> str:
        """The limit that holds it back: `bandwidth` or `arithmetic`."""
        is_read = self.nbytes / limits.read_bandwidth >= self._arithmetic_seconds(limits)
        return "bandwidth" if is_read else "arithmetic"

    def _arithmetic_seconds(self, limits: Limits) -> float:
        return self.flops / limits.peak_flops + self.int8_operations / limits.peak_int8


@dataclass(frozen=True, slots=True)
class Matrices:
    """Some of a model's matrices together."""

    nbytes: int
    parameters: int
    integers: int = 0
    """Those of the parameters that are multiplied as bytes"""


@dataclass(frozen=True, slots=True)
class Cost:
    """A loaded model's matrices by how a step uses them, and its attention."""

    layers: Matrices
    """Used by every token"""
    head: Matrices
    """Used by every row of logits"""
    experts: Matrices
    """All experts of all layers"""
    expert_share: float
    """Part of the experts that one token uses; 0 without any"""
    windows: tuple[int | None, ...]
    """For each layer, how many positions a token attends to at most"""
    kv_bytes: int
    """Keys and values of one position in one layer"""
    attention_flops: int
    """Of one token with one position in one layer"""

    def decode(self, batch: int, context: float) -> Work:
        """A step that decodes `batch` sequences of `context` tokens.

        Of the experts, those are read that `batch` tokens with independent choices are expected to touch.
        """
        touched = 1 - (1 - self.expert_share) ** batch
        positions = batch * self._positions(context)
        nbytes = self.layers.nbytes + self.head.nbytes + touched * self.experts.nbytes + positions * self.kv_bytes
        used = self.layers.parameters + self.head.parameters + self.expert_share * self.experts.parameters
        integers = self.layers.integers + self.head.integers + self.expert_share * self.experts.integers
        flops = 2 * batch * (used - integers) + positions * self.attention_flops
        return Work(nbytes, flops, 2 * batch * integers)

    def prefill(self, tokens: int) -> Work:
        """A step that computes a prompt, with logits for its last token."""
        touched = 1 - (1 - self.expert_share) ** tokens
        nbytes = self.layers.nbytes + self.head.nbytes + touched * self.experts.nbytes
        used = self.layers.parameters + self.expert_share * self.experts.parameters
        positions = sum(self._positions(length) for length in range(1, tokens + 1))
        integers = self.layers.integers + self.expert_share * self.experts.integers
        int8_operations = 2 * (tokens * integers + self.head.integers)
        flops = 2 * (tokens * used + self.head.parameters) - int8_operations + positions * self.attention_flops
        return Work(nbytes, flops, int8_operations)

    def _positions(self, context: float) -> float:
        """Positions that a token attends to, summed over the layers."""
        return sum(context if window is None else min(context, window) for window in self.windows)


def cost_of(decoder: Decoder, kv_bytes: int, *, integers: bool = True) -> Cost:
    """The cost of a loaded model whose cache takes kv_bytes for a token in one layer.

    `integers` says that quantised weights are multiplied as bytes.
    """
    spec = decoder.spec
    mixtures = [layer.mlp for layer in decoder.weights.layers if isinstance(layer.mlp, MoeWeights)]
    return Cost(
        layers=_together(_dense_matrices(decoder), integers=integers),
        head=_together([] if decoder.weights.head is None else [decoder.weights.head], integers=integers),
        experts=_together(
            (matrix for mixture in mixtures for matrix in (*mixture.gate_up, *mixture.down)), integers=integers
        ),
        expert_share=0.0 if spec.moe is None else spec.moe.top_k / spec.moe.num_experts,
        windows=tuple(layer.window for layer in spec.layers),
        kv_bytes=kv_bytes,
        attention_flops=4 * spec.num_heads * spec.head_dim,
    )


def num_parameters(spec: ModelSpec) -> int:
    """All weights of a model; a tied embedding counts once."""
    return sum(math.prod(shape) for shape in spec.expected_weights().values())


def _dense_matrices(decoder: Decoder) -> Iterator[Weight]:
    for layer in decoder.weights.layers:
        yield from (layer.qkv.weight, layer.output.weight)
        if isinstance(layer.mlp, MlpWeights):
            yield from (layer.mlp.up.weight, layer.mlp.down.weight)
        else:
            yield layer.mlp.router


def is_integer(weight: Weight) -> bool:
    """Whether the kernels multiply it as integers; by default, not with exact activations."""
    return any(name not in ("f32", "f16", "bf16") for name in weight.format.split("+"))


def _together(matrices: Iterable[Weight], *, integers: bool) -> Matrices:
    listed = list(matrices)

    def count(some: list[Weight]) -> int:
        return sum(matrix.shape[0] * matrix.shape[1] for matrix in some)

    return Matrices(
        sum(matrix.nbytes for matrix in listed),
        count(listed),
        count([matrix for matrix in listed if is_integer(matrix)]) if integers else 0,
    )
