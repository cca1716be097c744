"""GPT-NeoX and Pythia: attention and MLP in parallel, partial rotation, q/k/v fused head by head."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import SizeKeys, read_dense, rope_from, rope_parameters
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.fields import Fields
from headrace.model.recipes import HeadRows, NameTable
from headrace.model.spec import ModelSpec, NormPlacement
from headrace.ops.kinds import Activation, NormKind

KEYS = SizeKeys(norm_eps="layer_norm_eps")
NAMES = NameTable(
    {
        "embed_in": "embed",
        "final_layer_norm": "norm",
        "embed_out": "head",
        "lm_head": "head",
        "layers.{}.input_layernorm": "layers.{}.attention_norm",
        "layers.{}.attention.query_key_value": HeadRows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "layers.{}.attention.dense": "layers.{}.o",
        "layers.{}.post_attention_layernorm": "layers.{}.mlp_norm",
        "layers.{}.mlp.dense_h_to_4h": "layers.{}.up",
        "layers.{}.mlp.dense_4h_to_h": "layers.{}.down",
    },
    ("gpt_neox.",),
    frozenset(
        {
            "layers.{}.attention.bias",  # the causal mask
            "layers.{}.attention.masked_bias",
            "layers.{}.attention.rotary_emb.inv_freq",
        }
    ),
)


def _plain(spec: ModelSpec, parallel: bool) -> ModelSpec:
    placement = NormPlacement.PARALLEL if parallel else NormPlacement.PRE
    return replace(spec, norm=NormKind.LAYER, norm_placement=placement, gated=False, mlp_bias=True)


def _gpt_neox(config: Fields) -> ModelSpec:
    spec = read_dense(config, "GPT-NeoX", keys=KEYS, theta=None)
    parameters = rope_parameters(config)
    theta, partial = config.number("rotary_emb_base", 10_000.0), config.number("rotary_pct", 0.25)
    config.only("rope_theta", theta)  # the same again, in files that transformers 4.4x saved
    config.only("partial_rotary_factor", partial)
    rope = rope_from(config, parameters, spec.head_dim, spec.max_context, theta=theta, partial=partial)
    bias = config.flag("attention_bias", True)
    layers = tuple(replace(layer, rope=0) for layer in spec.layers)
    spec = replace(spec, ropes=(rope,), layers=layers, qkv_bias=bias, output_bias=bias)
    return _plain(spec, config.flag("use_parallel_residual", True))


def _gguf(source: GGUFSource) -> ModelSpec:
    spec = read_dense_gguf(source, "GPT-NeoX", norm=NormKind.LAYER, activation=Activation.GELU)
    return _plain(spec, source.fields.flag("use_parallel_residual", True))


GPT_NEOX = Family(
    name="GPT-NeoX, Pythia",
    model_types=("gpt_neox",),
    from_config=_gpt_neox,
    config_names=NAMES,
    defaults={
        "hidden_act": "gelu",
        "intermediate_size": 24576,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    },
    gguf_architectures=("gptneox",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
