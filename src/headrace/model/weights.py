"""From a checkpoint's tensors to the decoder's weights: named, checked, normalised, quantised if asked, packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.config import QUANTIZE_CODECS
from headrace.errors import WeightsMismatch
from headrace.formats.codecs import CODECS, Codec
from headrace.formats.storage import release
from headrace.formats.tensor import Tensor
from headrace.model.recipes import NameTable
from headrace.model.spec import ClassifierSpec, LayerSpec, ModelSpec
from headrace.ops.base import Array, Deltas, MoeWeights, Ops, QkNormWeights, Weight

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm's parameters [H]."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix, its bias [rows], and what adapters add."""

    weight: Weight
    bias: Array | None
    deltas: Deltas


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """`up` is gate and up, stacked, when the MLP is gated."""

    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; qkv is the stacked [(heads + 2 kv heads) * D, H]. A norm that the placement lacks is None."""

    attention_norm: Norm | None
    attention_post_norm: Norm | None
    qkv: Linear
    qk_norm: QkNormWeights | None
    output: Linear
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    mlp: MlpWeights | MoeWeights


@dataclass(frozen=True, slots=True)
class ClassifierWeights:
    """A head on pooled states: pooler and its norm where there are such, then one row for each label."""

    pooler: Linear | None
    pooler_norm: Norm | None
    scores: Linear


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights of a model, in a backend's hands."""

    embed: Weight
    positions: Weight | None
    token_types: Weight | None
    embed_norm: Norm | None
    layers: tuple[LayerWeights, ...]
    norm: Norm | None
    head: Weight | None
    embed_deltas: Deltas
    head_deltas: Deltas
    """Apart from embed_deltas in tied models too: PEFT adapts the one or the other"""
    classifier: ClassifierWeights | None
    kept: tuple[str, ...]
    """Matrices that should have been quantised but could not be"""

    def matrices(self) -> list[Weight]:
        """Every matrix; a tied embedding once."""
        tables = [None if self.head is self.embed else self.head, self.positions, self.token_types]
        matrices = [self.embed, *(table for table in tables if table is not None)]
        if self.classifier is not None:
            pooler = self.classifier.pooler
            matrices += [self.classifier.scores.weight, *([] if pooler is None else [pooler.weight])]
        for layer in self.layers:
            matrices += [layer.qkv.weight, layer.output.weight]
            if isinstance(layer.mlp, MlpWeights):
                matrices += [layer.mlp.up.weight, layer.mlp.down.weight]
            else:
                matrices += [layer.mlp.router, *layer.mlp.gate_up, *layer.mlp.down]
        return matrices


# Names and shapes


def name_parts(tensors: Mapping[str, Tensor], spec: ModelSpec, table: NameTable, source: str) -> dict[str, Tensor]:
    """The checkpoint's tensors as canonical weights, exactly those that the spec expects.

    Raises:
        WeightsMismatch: weights are missing, left over or of the wrong shape; the message names them.
    """
    expected = spec.expected_weights()
    parts: dict[str, Tensor] = {}
    seen: set[str] = set()
    left_over, misshapen = list[str](), list[str]()
    for name, tensor in tensors.items():
        pattern, numbers = table.pattern(name)
        targets, recipe = table.targets(pattern, numbers, spec)
        is_unused = pattern in table.ignored and not any(each in expected for each in targets)
        if is_unused or (spec.tied_embeddings and targets == ["head.weight"]):
            continue
        if recipe is None or not targets or any(each not in expected or each in seen for each in targets):
            left_over.append(name)
            continue
        seen.update(targets)
        shapes = [expected[target] for target in targets]
        shape = recipe.source_shape(shapes)
        if tensor.shape == shape:
            parts |= zip(targets, recipe.cut(tensor, shapes, spec), strict=True)
        else:
            misshapen.append(f"{name} is {list(tensor.shape)}, expected {list(shape)}")
    missing = [name for name in expected if name not in seen]
    if misfit := describe_misfit(missing, left_over, misshapen):
        raise WeightsMismatch(f"{source}: the weights do not fit the config: {misfit}; download or export it again")
    return parts


def describe_misfit(missing: Sequence[str], left_over: Sequence[str], misshapen: Sequence[str]) -> str:
    """How a checkpoint's tensors differ from what was expected, with some names of each kind; empty if they do not."""

    def listed(what: str, names: Sequence[str]) -> str:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"

    kinds = (("missing", missing), ("left over", left_over), ("of the wrong shape", misshapen))
    return "; ".join(listed(what, names) for what, names in kinds if names)


# Packing


@dataclass(slots=True)
class _Packer:
    """Hands parts to the backend, each once, so that no more than one is held twice."""

    parts: dict[str, Tensor]
    ops: Ops
    quantize: str | None
    kept: list[str] = field(default_factory=list)

    def matrix(self, *names: str, codec: str | None = None) -> Weight:
        """One weight of the named parts, stacked; quantised to `codec` when quantisation is asked for."""
        tensors = [self.parts.pop(name) for name in names]
        if self.quantize is not None and codec is not None:
            tensors = [self._quantized(name, each, CODECS[codec]) for name, each in zip(names, tensors, strict=True)]
        packed = self.ops.pack(tensors)
        for tensor in tensors:
            release(tensor.data)
        return packed

    def table(self, name: str, codec: str | None = None) -> Weight:
        """The named matrix, of which only single rows are read."""
        tensor = self.parts.pop(name)
        if self.quantize is not None and codec is not None:
            tensor = self._quantized(name, tensor, CODECS[codec])
        return self.ops.pack_table(tensor)

    def vector(self, *names: str) -> Array | None:
        """The named vectors, joined; None when the model has none of them."""
        if names[0] not in self.parts:
            return None
        return self.ops.vector(np.concatenate([self.parts.pop(name).decode() for name in names]))

    def linear(self, prefix: str, *names: str) -> Linear:
        """The layer's matrices of those names, stacked, and their bias."""
        assert self.quantize is None or self.quantize in QUANTIZE_CODECS
        codec = None if self.quantize is None else QUANTIZE_CODECS[self.quantize]
        weight = self.matrix(*(f"{prefix}{name}.weight" for name in names), codec=codec)
        bias = self.vector(*(f"{prefix}{name}.bias" for name in names))
        return Linear(weight, bias, self.ops.new_deltas(*weight.shape))

    def exact_linear(self, name: str) -> Linear:
        """The matrix of that name as it is, and its bias."""
        weight = self.matrix(f"{name}.weight")
        return Linear(weight, self.vector(f"{name}.bias"), self.ops.new_deltas(*weight.shape))

    def norm(self, name: str) -> Norm | None:
        """The norm of that name, or None when the model has none there."""
        weight = self.vector(f"{name}.weight")
        return None if weight is None else Norm(weight, self.vector(f"{name}.bias"))

    def _quantized(self, name: str, tensor: Tensor, codec: Codec) -> Tensor:
        if tensor.codec.block_size > 1:
            return tensor  # quantised by whoever made the file
        if tensor.shape[-1] % codec.block_size:
            self.kept.append(name)
            return tensor
        assert codec.encode is not None
        return Tensor(tensor.name, codec, tensor.shape, codec.encode(tensor.decode()))


def pack_weights(spec: ModelSpec, parts: dict[str, Tensor], ops: Ops, quantize: str | None) -> DecoderWeights:
    """Pack what `name_parts` gave for a backend; `parts` is emptied on the way.

    `quantize` is a key of QUANTIZE_CODECS or None.
    """
    packer = _Packer(parts, ops, quantize)
    is_tied = spec.language_head and spec.tied_embeddings
    embed = (packer.matrix if is_tied else packer.table)("embed.weight", codec="q8_0")
    positions = packer.table("positions.weight") if spec.positions is not None else None
    token_types = packer.table("token_types.weight") if spec.token_types else None
    layers = tuple(_pack_layer(spec, layer, f"layers.{index}.", packer) for index, layer in enumerate(spec.layers))
    head = embed if is_tied else packer.matrix("head.weight", codec="q8_0") if spec.language_head else None
    classifier = _pack_classifier(spec.classifier, packer)
    norms = packer.norm("embed_norm"), packer.norm("norm")
    assert not parts
    return DecoderWeights(
        embed=embed,
        positions=positions,
        token_types=token_types,
        embed_norm=norms[0],
        layers=layers,
        norm=norms[1],
        head=head,
        classifier=classifier,
        embed_deltas=ops.new_deltas(spec.hidden_size, spec.vocab_size, is_table=True),
        head_deltas=ops.new_deltas(spec.vocab_size, spec.hidden_size),
        kept=tuple(packer.kept),
    )


def _pack_classifier(spec: ClassifierSpec | None, packer: _Packer) -> ClassifierWeights | None:
    if spec is None:
        return None
    pooler = None if spec.pooler is None else packer.exact_linear("pooler")
    return ClassifierWeights(pooler, packer.norm("pooler_norm"), packer.exact_linear("classifier"))


def _pack_layer(spec: ModelSpec, layer: LayerSpec, prefix: str, packer: _Packer) -> LayerWeights:
    return LayerWeights(
        attention_norm=packer.norm(f"{prefix}attention_norm"),
        attention_post_norm=packer.norm(f"{prefix}attention_post_norm"),
        qkv=packer.linear(prefix, "q", "k", "v"),
        qk_norm=_pack_qk_norm(spec, prefix, packer),
        output=packer.linear(prefix, "o"),
        mlp_norm=packer.norm(f"{prefix}mlp_norm"),
        mlp_post_norm=packer.norm(f"{prefix}mlp_post_norm"),
        mlp=_pack_moe(spec, prefix, packer) if layer.moe else _pack_mlp(spec, prefix, packer),
    )


def _pack_qk_norm(spec: ModelSpec, prefix: str, packer: _Packer) -> QkNormWeights | None:
    if spec.qk_norm is None:
        return None
    q, k = packer.vector(f"{prefix}q_norm.weight"), packer.vector(f"{prefix}k_norm.weight")
    return QkNormWeights(spec.qk_norm, q, k, spec.norm_eps)


def _pack_mlp(spec: ModelSpec, prefix: str, packer: _Packer) -> MlpWeights:
    up = packer.linear(prefix, "gate", "up") if spec.gated else packer.linear(prefix, "up")
    return MlpWeights(up, packer.linear(prefix, "down"))


def _pack_moe(spec: ModelSpec, prefix: str, packer: _Packer) -> MoeWeights:
    assert spec.moe is not None
    experts = [f"{prefix}experts.{index}." for index in range(spec.moe.num_experts)]
    return MoeWeights(
        router=packer.matrix(f"{prefix}router.weight"),
        gate_up=[packer.linear(expert, "gate", "up").weight for expert in experts],
        down=[packer.linear(expert, "down").weight for expert in experts],
        top_k=spec.moe.top_k,
        normalize=spec.moe.normalize,
        activation=spec.activation,
    )
