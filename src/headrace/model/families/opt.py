"""OPT: learned positions with an offset of 2, ReLU. The 350M's form (norms after, projected embeddings) is refused."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family
from headrace.model.families.config import SizeKeys, read_dense
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import LearnedPositions, ModelSpec
from headrace.ops.kinds import NormKind

KEYS = SizeKeys(inner="ffn_dim", activation="activation_function")
OFFSET = 2
NAMES = NameTable(
    {
        "embed_tokens": "embed",
        "embed_positions": "positions",
        "final_layer_norm": "norm",
        "lm_head": "head",
        "layers.{}.self_attn_layer_norm": "layers.{}.attention_norm",
        "layers.{}.self_attn.q_proj": "layers.{}.q",
        "layers.{}.self_attn.k_proj": "layers.{}.k",
        "layers.{}.self_attn.v_proj": "layers.{}.v",
        "layers.{}.self_attn.out_proj": "layers.{}.o",
        "layers.{}.final_layer_norm": "layers.{}.mlp_norm",
        "layers.{}.fc1": "layers.{}.up",
        "layers.{}.fc2": "layers.{}.down",
    },
    ("model.decoder.", "decoder."),
)


def _opt(config: Fields) -> ModelSpec:
    spec = read_dense(config, "OPT", keys=KEYS, tied=True, theta=None)
    config.only("word_embed_proj_dim", spec.hidden_size)
    config.only("learned_embeddings", True)  # Galactica's
    config.only("_remove_final_layer_norm")
    for key in ("do_layer_norm_before", "layer_norm_elementwise_affine"):
        if not config.flag(key, True):
            raise config.refusal(key, False)
    bias = config.flag("enable_bias", True)
    return replace(
        spec,
        norm=NormKind.LAYER,
        gated=False,
        positions=LearnedPositions(spec.max_context + OFFSET, OFFSET),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
    )


OPT = Family(
    name="OPT",
    model_types=("opt",),
    from_config=_opt,
    config_names=NAMES,
    defaults={"activation_function": "relu", "ffn_dim": 3072, "max_position_embeddings": 2048},
)
