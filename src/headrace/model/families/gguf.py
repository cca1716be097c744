"""Reading GGUF metadata: what the families share. Keys and tensor names are those of the gguf package's constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from headrace.errors import DamagedFile
from headrace.formats.tensor import Tensor
from headrace.model.families.base import GGUFSource
from headrace.model.families.config import MAX_LAYERS
from headrace.model.families.magnitudes import yarn_magnitude
from headrace.model.fields import Fields
from headrace.model.recipes import Experts, Interleaved, NameTable, Rows
from headrace.model.spec import (
    DivisorScaling,
    LayerSpec,
    LinearScaling,
    ModelSpec,
    MoeSpec,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)
from headrace.ops.kinds import Activation, NormKind

MODULES: Mapping[str, str | Rows] = MappingProxyType(
    {
        "token_embd": "embed",
        "token_embd_norm": "embed_norm",
        "token_types": "token_types",
        "position_embd": "positions",
        "output_norm": "norm",
        "output": "head",
        "blk.{}.attn_norm": "layers.{}.attention_norm",
        "blk.{}.post_attention_norm": "layers.{}.attention_post_norm",
        "blk.{}.attn_output_norm": "layers.{}.attention_post_norm",
        "blk.{}.attn_q": "layers.{}.q",
        "blk.{}.attn_k": "layers.{}.k",
        "blk.{}.attn_v": "layers.{}.v",
        "blk.{}.attn_qkv": Rows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "blk.{}.attn_q_norm": "layers.{}.q_norm",
        "blk.{}.attn_k_norm": "layers.{}.k_norm",
        "blk.{}.attn_output": "layers.{}.o",
        "blk.{}.ffn_norm": "layers.{}.mlp_norm",
        "blk.{}.post_ffw_norm": "layers.{}.mlp_post_norm",
        "blk.{}.layer_output_norm": "layers.{}.mlp_post_norm",
        "blk.{}.ffn_gate": "layers.{}.gate",
        "blk.{}.ffn_up": "layers.{}.up",
        "blk.{}.ffn_down": "layers.{}.down",
        "blk.{}.ffn_gate_inp": "layers.{}.router",
        "blk.{}.ffn_gate_exps": Experts("layers.{}.experts.{}.gate"),
        "blk.{}.ffn_up_exps": Experts("layers.{}.experts.{}.up"),
        "blk.{}.ffn_down_exps": Experts("layers.{}.experts.{}.down"),
        "blk.{}.ffn_gate.{}": "layers.{}.experts.{}.gate",  # files of before March 2024 hold each expert apart
        "blk.{}.ffn_up.{}": "layers.{}.experts.{}.up",
        "blk.{}.ffn_down.{}": "layers.{}.experts.{}.down",
        "cls": "pooler",
        "cls.output": "classifier",
    }
)

IGNORED = frozenset({"rope_freqs.weight", "blk.{}.attn_rot_embd.weight"})
"""The divisors of rope's frequencies are in the spec already; old files hold the frequencies themselves too."""

NAMES = NameTable(MODULES, ignored=IGNORED)

INTERLEAVED_NAMES = NameTable(
    {
        **{source: target for source, target in MODULES.items() if source != "blk.{}.attn_qkv"},
        "blk.{}.attn_q": Interleaved("layers.{}.q"),
        "blk.{}.attn_k": Interleaved("layers.{}.k"),
    },
    ignored=IGNORED,
)
"""For architectures whose rope pairs neighbours (ggml's "norm" rope): llama, granite."""


def read_dense(
    source: GGUFSource,
    family: str,
    *,
    norm: NormKind = NormKind.RMS,
    activation: Activation = Activation.SILU,
    rotary: bool = True,
    causal: bool = True,
) -> ModelSpec:
    """What most architectures say in the same keys: Llama's shape, from which a family `replace`s what differs.

    A file that says the opposite of `causal` is refused.
    """
    fields, tensors = source.fields, source.tensors
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", hidden // heads)
    fields.only("attention.value_length", head_dim)
    layer = LayerSpec(rope=0 if rotary else None)
    ropes = (read_rope(source, head_dim),) if rotary else ()
    eps_key = "attention.layer_norm_rms_epsilon" if norm is NormKind.RMS else "attention.layer_norm_epsilon"
    fields.only("vocab_size", rows_of(source, "token_embd.weight"))
    if fields.flag("attention.causal", causal) is not causal:
        raise fields.refusal("attention.causal", not causal)
    fields.only("tensor_data_layout", "Meta AI original pth")
    return ModelSpec(
        family=family,
        vocab_size=rows_of(source, "token_embd.weight"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=fields.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        inner_size=fields.integer("feed_forward_length"),
        max_context=_max_context(fields, ropes),
        layers=(layer,) * fields.integer("block_count", maximum=MAX_LAYERS),
        norm=norm,
        norm_eps=fields.number(eps_key),
        ropes=ropes,
        activation=activation,
        attention_scale=head_dim**-0.5,
        qkv_bias="blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )


def _max_context(fields: Fields, ropes: tuple[RopeSpec, ...]) -> int:
    """Positions with YaRN; files name those of before, where the config did."""
    named = fields.integer("context_length")
    scaling = ropes[0].scaling if ropes else None
    return max(named, int(scaling.original_context * scaling.factor)) if isinstance(scaling, YarnScaling) else named


def rows_of(source: GGUFSource, name: str) -> int:
    """Rows of the matrix of that name."""
    if name not in source.tensors:
        raise DamagedFile(f"{source.fields.source} has no tensor {name}; download or convert the model again")
    return source.tensors[name].shape[0]


def with_experts(source: GGUFSource, spec: ModelSpec, inner_key: str) -> ModelSpec:
    """The spec with a mixture of experts in every layer, when the file has experts."""
    fields = source.fields
    num_experts = fields.optional_integer("expert_count")
    fields.only("expert_shared_feed_forward_length", 0)
    if num_experts is None:
        fields.only("expert_used_count", 0)
        return spec
    fields.only("expert_weights_norm", True)
    fields.only("expert_weights_scale", 0, 1)
    fields.only("expert_gating_func", 1)  # softmax
    moe = MoeSpec(num_experts, fields.integer("expert_used_count"), fields.integer(inner_key), normalize=True)
    return replace(spec, moe=moe, layers=tuple(replace(layer, moe=True) for layer in spec.layers))


def sliding_layers(source: GGUFSource, num_layers: int, period: int) -> list[bool]:
    """For each layer, whether it attends to a window only; by default every `period`-th attends to everything."""
    pattern = source.fields.raw("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) != num_layers:
            raise source.fields.refusal("attention.sliding_window_pattern", pattern, f"expected {num_layers} entries")
        return [bool(entry) for entry in pattern]
    period = source.fields.integer("attention.sliding_window_pattern", period)
    return [(index + 1) % period != 0 for index in range(num_layers)]


def read_rope(source: GGUFSource, head_dim: int) -> RopeSpec:
    """Rope from the metadata, and from the file's own divisors of its frequencies."""
    fields = source.fields
    scaling = _read_scaling(fields, "rope_factors_long.weight" in source.tensors)
    if "rope_freqs.weight" in source.tensors:
        if scaling is not None:
            raise fields.refusal(
                "rope.scaling.type", fields.raw("rope.scaling.type"), "the file has rope_freqs as well"
            )
        scaling = DivisorScaling(divisors(source.tensors["rope_freqs.weight"]))
    rotated = fields.integer("rope.dimension_count", head_dim)
    if isinstance(scaling, DivisorScaling) and len(scaling.divisors) != rotated // 2:
        raise DamagedFile(f"{fields.source}: rope_freqs.weight has {len(scaling.divisors)} values for {rotated // 2}")
    return RopeSpec(rotated, fields.number("rope.freq_base", 10_000.0), scaling)


def divisors(tensor: Tensor) -> tuple[float, ...]:
    """The values of a tensor of divisors of rope's frequencies."""
    return tuple(float(value) for value in tensor.decode().ravel())


def _read_scaling(fields: Fields, has_factors: bool) -> RopeScaling | None:
    fields.raw("rope.scaling.finetuned")
    old_linear = fields.optional_number("rope.scale_linear")
    kind = fields.text("rope.scaling.type", "none" if old_linear is None else "linear")
    match kind:
        case "none":
            fields.only("rope.scaling.factor", 0, 1)
            return None
        case "longrope" if has_factors:
            return None  # the family that has a name for these tensors reads them (Phi-3)
        case "linear":
            factor = fields.number("rope.scaling.factor", old_linear or 1.0)
            return LinearScaling(factor) if factor != 1 else None
        case "yarn":
            factor, original = fields.number("rope.scaling.factor"), fields.integer(ORIGINAL_CONTEXT)
            fast, slow = fields.number(f"{_YARN}beta_fast", 32.0), fields.number(f"{_YARN}beta_slow", 1.0)
            for key in (f"{_YARN}attn_factor", f"{_YARN}ext_factor", ATTENTION_FACTOR):
                fields.only(key, 1)
            return YarnScaling(factor, original, yarn_magnitude(factor), fast, slow)
    raise fields.refusal("rope.scaling.type", kind, "expected none, linear, yarn or longrope")


_YARN = "rope.scaling.yarn_"
ORIGINAL_CONTEXT = "rope.scaling.original_context_length"
ATTENTION_FACTOR = "rope.scaling.attn_factor"
