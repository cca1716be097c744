"""What an architecture is, as frozen data: sizes, kinds and scales, nothing about brands.

A family (headrace.model.families) makes a ModelSpec from a config; the decoder computes what the spec says; the loader
checks a checkpoint against the weights that the spec expects. Canonical names of weights:

    embed.weight [V, H]    positions.weight [P, H]    token_types.weight [types, H]    embed_norm.{weight,bias} [H]
    norm.{weight,bias} [H]    head.weight [V, H]
    pooler.{weight [H, H],bias [H]}    pooler_norm.{weight,bias} [H]    classifier.{weight [labels, H],bias [labels]}
    layers.N.  attention_norm, attention_post_norm, mlp_norm, mlp_post_norm.{weight,bias} [H]
               q [heads * D, H]   k, v [kv heads * D, H]   o [H, heads * D]   gate, up [I, H]   down [H, I]
               q_norm, k_norm.weight [D] or [heads * D]
               router.weight [E, H]   experts.E.{gate,up,down}.weight
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from headrace.errors import DamagedFile
from headrace.ops.kinds import Activation, NormKind, QkNorm

Shape: TypeAlias = tuple[int, ...]


class NormPlacement(StrEnum):
    """Where the norms of a layer stand; A is attention, M the MLP, N a norm with its own weights.

    PRE: x += A(N(x)), x += M(N(x)). POST: x += N(A(x)), x += N(M(x)). SANDWICH: x += N(A(N(x))), x += N(M(N(x))).
    PARALLEL: x += A(N(x)) + M(N(x)). AFTER: x = N(x + A(x)), x = N(x + M(x)).
    """

    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"
    PARALLEL = "parallel"
    AFTER = "after"


# Rotary positions


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies divided by a factor (position interpolation, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's: low frequencies divided by the factor, high ones kept, a smooth passage between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): by-part interpolation; cos and sin are multiplied by `magnitude`."""

    factor: float
    original_context: int
    magnitude: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """LongRoPE (arXiv:2402.13753): a divisor for each frequency, one set for sequences of up to `original_context`
    tokens and another for longer ones; cos and sin are multiplied by `magnitude`."""

    short_divisors: tuple[float, ...]
    long_divisors: tuple[float, ...]
    original_context: int
    magnitude: float


@dataclass(frozen=True, slots=True)
class DivisorScaling:
    """A divisor for each frequency, computed by whoever made the file (GGUF's rope_freqs)."""

    divisors: tuple[float, ...]


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DivisorScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions of the first `rotated` dimensions of each head: frequency i is theta ** (-2i / rotated)."""

    rotated: int
    theta: float
    scaling: RopeScaling | None = None

    @property
    def num_variants(self) -> int:
        """Sets of frequencies: 2 for longrope (short, long), else 1."""
        return 2 if isinstance(self.scaling, LongRopeScaling) else 1


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """A learned vector for each position: row position + offset of a table of `rows` rows, added to the embedding."""

    rows: int
    offset: int = 0


# Layers


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A mixture of experts: gated MLPs of `inner_size`, of which each token uses `top_k`."""

    num_experts: int
    top_k: int
    inner_size: int
    normalize: bool
    """The chosen experts' shares are divided by their sum."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    window: int | None = None
    """Attend to this many last positions, the token's own included (and as many to the other side, where attention is
    not causal); None is all."""
    rope: int | None = 0
    """Index into ModelSpec.ropes; None is no rotation"""
    moe: bool = False
    """Mixture of experts instead of one MLP"""
    attention_norm: bool = True
    """False: attention reads the residual stream as it is, where the placement has a norm before it"""


# What a sequence as a whole is asked for


class Pooling(StrEnum):
    """Which hidden state stands for a sequence: that of its first token or its last, or the mean of all."""

    FIRST = "first"
    LAST = "last"
    MEAN = "mean"


class ScoreFunction(StrEnum):
    """What a classifier's logits go through."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolerSpec:
    """A dense layer before a classifier: H → H, activation (tanh where it is None), norm."""

    activation: Activation | None = None
    bias: bool = True
    norm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSpec:
    """A head on a pooled hidden state: one logit for each label."""

    labels: tuple[str, ...]
    function: ScoreFunction
    pooling: Pooling
    pooler: PoolerSpec | None = None
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything about an architecture that its forward pass depends on."""

    family: str
    """For messages only: nothing may be decided by it."""
    vocab_size: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner_size: int
    """Width of a dense layer's MLP; unused where every layer is a mixture of experts"""
    max_context: int
    """Positions that the model was made for"""
    layers: tuple[LayerSpec, ...]

    norm: NormKind = NormKind.RMS
    norm_eps: float
    norm_placement: NormPlacement = NormPlacement.PRE
    qk_norm: QkNorm | None = None
    ropes: tuple[RopeSpec, ...] = ()
    positions: LearnedPositions | None = None

    activation: Activation = Activation.SILU
    gated: bool = True
    """MLP is down(act(gate(x)) * up(x)); else down(act(up(x)))"""
    moe: MoeSpec | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection"""
    mlp_bias: bool = False
    tied_embeddings: bool = False

    causal: bool = True
    """A token attends to itself and those before it; False: to its whole sequence."""
    language_head: bool = True
    """There is a head that gives logits over the vocabulary; False: hidden states are all there is."""
    classifier: ClassifierSpec | None = None
    token_types: int = 0
    """Kinds of tokens (texts of a pair) that have a vector each, added to the embedding"""
    embedding_norm: bool = False
    """The embedding goes through a norm"""
    final_norm: bool = True
    norm_bias: bool = True
    """Norms of the LAYER kind have a bias"""

    embedding_scale: float = 1.0
    attention_scale: float
    """Multiplies q·k before the softmax"""
    residual_scale: float = 1.0
    """Multiplies what a layer adds to the residual stream"""
    logit_scale: float = 1.0
    """Multiplies the logits"""
    attention_softcap: float | None = None
    logit_softcap: float | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise DamagedFile(f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly")
        for rope in self.ropes:
            if rope.rotated % 2 or not 0 < rope.rotated <= self.head_dim:
                raise DamagedFile(f"rope rotates {rope.rotated} dimensions of heads of {self.head_dim}, expected pairs")
        if self.moe is not None and self.moe.top_k > self.moe.num_experts:
            raise DamagedFile(f"each token uses {self.moe.top_k} experts, but there are {self.moe.num_experts}")

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def num_rope_variants(self) -> int:
        """Sets of rope frequencies; 2 when the model switches them on long sequences."""
        return max((rope.num_variants for rope in self.ropes), default=1)

    @property
    def rope_switch(self) -> int | None:
        """Sequences of more than this many tokens use the long frequencies from position 0 on; None: no such switch.

        Keys in the cache were rotated with one set: a sequence that grows past the switch must be computed anew.
        """
        switches = [rope.scaling.original_context for rope in self.ropes if isinstance(rope.scaling, LongRopeScaling)]
        return switches[0] if switches else None

    def expected_weights(self) -> dict[str, Shape]:
        """Canonical name → shape of every weight that a checkpoint has to hold."""
        expected: dict[str, Shape] = {"embed.weight": (self.vocab_size, self.hidden_size)}
        if self.positions is not None:
            expected["positions.weight"] = (self.positions.rows, self.hidden_size)
        if self.token_types:
            expected["token_types.weight"] = (self.token_types, self.hidden_size)
        expected |= self._norm_weights("embed_norm") if self.embedding_norm else {}
        expected |= self._norm_weights("norm") if self.final_norm else {}
        if self.language_head and not self.tied_embeddings:
            expected["head.weight"] = (self.vocab_size, self.hidden_size)
        expected |= self._classifier_weights()
        for index, layer in enumerate(self.layers):
            parts = self._attention_weights(layer) | (self._moe_weights() if layer.moe else self._mlp_weights())
            expected |= {f"layers.{index}.{name}": shape for name, shape in parts.items()}
        return expected

    def _norm_weights(self, name: str) -> dict[str, Shape]:
        weights: dict[str, Shape] = {f"{name}.weight": (self.hidden_size,)}
        has_bias = self.norm is NormKind.LAYER and self.norm_bias
        return weights | ({f"{name}.bias": (self.hidden_size,)} if has_bias else {})

    def _placed_norms(self, block: str, *, before: bool = True) -> dict[str, Shape]:
        placement = self.norm_placement
        before = before and placement not in (NormPlacement.POST, NormPlacement.AFTER)
        after = placement in (NormPlacement.POST, NormPlacement.SANDWICH, NormPlacement.AFTER)
        weights = self._norm_weights(f"{block}_norm") if before else {}
        return weights | (self._norm_weights(f"{block}_post_norm") if after else {})

    def _classifier_weights(self) -> dict[str, Shape]:
        if self.classifier is None:
            return {}
        hidden, pooler = self.hidden_size, self.classifier.pooler
        weights = _linear("classifier", len(self.classifier.labels), hidden, self.classifier.bias)
        if pooler is not None:
            weights |= _linear("pooler", hidden, hidden, pooler.bias)
            weights |= self._norm_weights("pooler_norm") if pooler.norm else {}
        return weights

    def _attention_weights(self, layer: LayerSpec) -> dict[str, Shape]:
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        weights = self._placed_norms("attention", before=layer.attention_norm)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            weights |= _linear(name, rows, self.hidden_size, self.qkv_bias)
        weights |= _linear("o", self.hidden_size, queries, self.output_bias)
        if self.qk_norm is not None:
            full = self.qk_norm is QkNorm.FULL
            weights["q_norm.weight"] = (queries if full else self.head_dim,)
            weights["k_norm.weight"] = (keys if full else self.head_dim,)
        return weights

    def _mlp_weights(self) -> dict[str, Shape]:
        weights = self._placed_norms("mlp")
        for name in ("gate", "up") if self.gated else ("up",):
            weights |= _linear(name, self.inner_size, self.hidden_size, self.mlp_bias)
        return weights | _linear("down", self.hidden_size, self.inner_size, self.mlp_bias)

    def _moe_weights(self) -> dict[str, Shape]:
        assert self.moe is not None
        inner, hidden = self.moe.inner_size, self.hidden_size
        weights = self._placed_norms("mlp") | _linear("router", self.moe.num_experts, hidden, False)
        for expert in range(self.moe.num_experts):
            for name in ("gate", "up"):
                weights |= _linear(f"experts.{expert}.{name}", inner, hidden, False)
            weights |= _linear(f"experts.{expert}.down", hidden, inner, False)
        return weights


def _linear(name: str, rows: int, columns: int, bias: bool) -> dict[str, Shape]:
    weights: dict[str, Shape] = {f"{name}.weight": (rows, columns)}
    return weights | ({f"{name}.bias": (rows,)} if bias else {})
