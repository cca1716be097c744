"""Gemma 2 (soft-caps, every other layer with a window) and Gemma 3's text models (two ropes, q/k norms).

Norm weights are stored as their difference from 1 in safetensors, and whole in GGUF.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import SizeKeys, read_dense, read_layer_types, rope_from
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.gguf import sliding_layers
from headrace.model.families.llama import IGNORED, MODULES
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, PlusOne
from headrace.model.spec import LayerSpec, ModelSpec, NormPlacement, RopeSpec
from headrace.ops.kinds import Activation, QkNorm

NAMES = NameTable(
    {
        **MODULES,
        "norm": PlusOne("norm"),
        "layers.{}.input_layernorm": PlusOne("layers.{}.attention_norm"),
        "layers.{}.post_attention_layernorm": PlusOne("layers.{}.attention_post_norm"),
        "layers.{}.pre_feedforward_layernorm": PlusOne("layers.{}.mlp_norm"),
        "layers.{}.post_feedforward_layernorm": PlusOne("layers.{}.mlp_post_norm"),
        "layers.{}.self_attn.q_norm": PlusOne("layers.{}.q_norm"),
        "layers.{}.self_attn.k_norm": PlusOne("layers.{}.k_norm"),
    },
    ("model.",),
    IGNORED,
)
KEYS = SizeKeys(activation="hidden_activation")
LOCAL_THETA, GLOBAL_THETA = 10_000.0, 1e6


def _gemma(config: Fields, family: str, theta: float | None) -> ModelSpec:
    spec = read_dense(config, family, keys=KEYS, tied=True, theta=theta)
    bias = config.flag("attention_bias", False)
    config.only("use_bidirectional_attention")
    return replace(
        spec,
        norm_placement=NormPlacement.SANDWICH,
        embedding_scale=spec.hidden_size**0.5,
        attention_scale=config.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=config.optional_number("attn_logit_softcapping"),
        logit_softcap=config.optional_number("final_logit_softcapping"),
        qkv_bias=bias,
        output_bias=bias,
    )


def _gemma2(config: Fields) -> ModelSpec:
    spec = _gemma(config, "Gemma 2", LOCAL_THETA)
    sliding = read_layer_types(config, spec.num_layers, lambda index: index % 2 == 0)
    window = config.integer("sliding_window")
    config.only("sliding_window_size", window)
    return replace(spec, layers=_layers(sliding, window, 0))


def _gemma3(config: Fields) -> ModelSpec:
    spec = _gemma(config, "Gemma 3", None)
    period = config.integer("sliding_window_pattern", 6)
    sliding = read_layer_types(config, spec.num_layers, lambda index: (index + 1) % period != 0)
    layers = _layers(sliding, config.integer("sliding_window"), 1)
    return replace(spec, qk_norm=QkNorm.HEAD, ropes=_gemma3_ropes(config, spec), layers=layers)


def _gemma3_ropes(config: Fields, spec: ModelSpec) -> tuple[RopeSpec, RopeSpec]:
    """Of the full layers, with scaling, and of those with a window, without."""
    nested = Fields(config.table("rope_parameters"), f"{config.source}: rope_parameters")
    full = {**nested.table("full_attention"), **config.table("rope_scaling")}
    sliding = nested.table("sliding_attention")
    nested.finish()
    theta, local = config.number("rope_theta", GLOBAL_THETA), config.number("rope_local_base_freq", LOCAL_THETA)
    return (
        rope_from(config, full, spec.head_dim, spec.max_context, theta=theta),
        rope_from(config, sliding, spec.head_dim, spec.max_context, theta=local),
    )


def _layers(sliding: list[bool], window: int, sliding_rope: int) -> tuple[LayerSpec, ...]:
    return tuple(LayerSpec(window, sliding_rope) if each else LayerSpec() for each in sliding)


def _gemma_gguf(source: GGUFSource, family: str, large: int) -> ModelSpec:
    """`large` is the number of layers of the 27B model, which scales attention by its hidden size; files do not say."""
    spec = read_dense_gguf(source, family, activation=Activation.GELU_TANH)
    scalar = spec.hidden_size // spec.num_heads if spec.num_layers == large else spec.head_dim
    return replace(
        spec,
        norm_placement=NormPlacement.SANDWICH,
        embedding_scale=spec.hidden_size**0.5,
        attention_scale=scalar**-0.5,
        attention_softcap=source.fields.optional_number("attn_logit_softcapping"),
        logit_softcap=source.fields.optional_number("final_logit_softcapping"),
    )


def _gemma2_gguf(source: GGUFSource) -> ModelSpec:
    spec = _gemma_gguf(source, "Gemma 2", large=46)
    window = source.fields.integer("attention.sliding_window", 4096)
    return replace(spec, layers=_layers(sliding_layers(source, spec.num_layers, 2), window, 0))


def _gemma3_gguf(source: GGUFSource) -> ModelSpec:
    spec = _gemma_gguf(source, "Gemma 3", large=62)
    full = replace(spec.ropes[0], theta=source.fields.number("rope.freq_base", GLOBAL_THETA))
    local = RopeSpec(full.rotated, source.fields.number("rope.freq_base_swa", LOCAL_THETA))
    window = source.fields.optional_integer("attention.sliding_window")
    sliding = sliding_layers(source, spec.num_layers, 6)
    layers = spec.layers if window is None else _layers(sliding, window, 1)
    return replace(spec, qk_norm=QkNorm.HEAD, ropes=(full, local), layers=layers)


_DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "intermediate_size": 9216,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}

GEMMA2 = Family(
    name="Gemma 2",
    model_types=("gemma2",),
    from_config=_gemma2,
    config_names=NAMES,
    defaults={
        **_DEFAULTS,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 8192,
    },
    harmless=frozenset({"hidden_act"}),  # a leftover beside hidden_activation, which is what counts
    gguf_architectures=("gemma2",),
    from_gguf=_gemma2_gguf,
    gguf_names=GGUF_NAMES,
)
GEMMA3 = replace(
    GEMMA2,
    name="Gemma 3 (text)",
    model_types=("gemma3_text",),
    from_config=_gemma3,
    defaults={**_DEFAULTS, "max_position_embeddings": 131072},
    gguf_architectures=("gemma3",),
    from_gguf=_gemma3_gguf,
)
