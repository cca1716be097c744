"""Granite 3: Llama's shape with four multipliers."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import read_dense
from headrace.model.families.gguf import INTERLEAVED_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.llama import LLAMA, NAMES
from headrace.model.fields import Fields
from headrace.model.spec import ModelSpec


def _granite(config: Fields) -> ModelSpec:
    bias = config.flag("attention_bias", False)
    return replace(
        read_dense(config, "Granite"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        attention_scale=config.number("attention_multiplier", 1.0),
        residual_scale=config.number("residual_multiplier", 1.0),
        logit_scale=1 / config.number("logits_scaling", 1.0),
    )


def _gguf(source: GGUFSource) -> ModelSpec:
    spec, fields = read_dense_gguf(source, "Granite"), source.fields
    for key in ("expert_count", "expert_used_count"):
        fields.only(key, 0)
    fields.only("expert_shared_feed_forward_length", 0, spec.inner_size)  # what Granite 4 calls its one MLP
    return replace(
        spec,
        embedding_scale=fields.number("embedding_scale", 1.0),
        attention_scale=fields.number("attention.scale", spec.attention_scale),
        residual_scale=fields.number("residual_scale", 1.0),
        logit_scale=1 / fields.number("logit_scale", 1.0),
    )


GRANITE = Family(
    name="Granite",
    model_types=("granite",),
    from_config=_granite,
    config_names=NAMES,
    defaults=LLAMA.defaults,
    gguf_architectures=("granite",),
    from_gguf=_gguf,
    gguf_names=INTERLEAVED_NAMES,
)
