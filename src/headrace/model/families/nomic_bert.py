"""Nomic BERT (arXiv:2402.01613): BERT's norms with rotary positions, a gated MLP and no biases.

Its config.json comes in two forms: GPT-2's keys, as the first code had them, and transformers' own.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.bert import BERT, as_encoder, first_token_classifier, read_encoder, read_encoder_gguf
from headrace.model.families.config import SizeKeys, read_dense
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, Rows
from headrace.model.spec import ModelSpec, RopeSpec
from headrace.ops.kinds import Activation

OLD_KEYS = SizeKeys(
    hidden="n_embd",
    layers="n_layer",
    heads="n_head",
    inner="n_inner",
    context="n_positions",
    activation="hidden_act",
    norm_eps="layer_norm_epsilon",
)
THETA = 1000.0
_OLD: dict[str, str | Rows] = {
    "emb_ln": "embed_norm",
    "encoder.layers.{}.attn.Wqkv": Rows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
    "encoder.layers.{}.attn.out_proj": "layers.{}.o",
    "encoder.layers.{}.norm1": "layers.{}.attention_post_norm",
    "encoder.layers.{}.mlp.fc11": "layers.{}.up",
    "encoder.layers.{}.mlp.fc12": "layers.{}.gate",
    "encoder.layers.{}.mlp.fc2": "layers.{}.down",
    "encoder.layers.{}.norm2": "layers.{}.mlp_post_norm",
}
_NEW: dict[str, str | Rows] = {
    "embeddings.LayerNorm": "embed_norm",
    "layers.{}.self_attn.q_proj": "layers.{}.q",
    "layers.{}.self_attn.k_proj": "layers.{}.k",
    "layers.{}.self_attn.v_proj": "layers.{}.v",
    "layers.{}.self_attn.o_proj": "layers.{}.o",
    "layers.{}.post_attention_layernorm": "layers.{}.attention_post_norm",
    "layers.{}.mlp.up_proj": "layers.{}.up",
    "layers.{}.mlp.gate_proj": "layers.{}.gate",
    "layers.{}.mlp.down_proj": "layers.{}.down",
    "layers.{}.post_mlp_layernorm": "layers.{}.mlp_post_norm",
}
_IMPLEMENTATION = """
    fused_bias_fc fused_dropout_add_ln use_flash_attn use_xentropy pad_vocab_size_multiple last_layer_subset
    dense_seq_output reorder_and_upcast_attn
"""
_OF_GPT2 = "summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj"
_OTHER_FORM = """
    hidden_act hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads
    num_hidden_layers default_theta
"""
_UNUSED = (
    "pooler.dense",
    "cls.predictions",
    "cls.predictions.transform.dense",
    "cls.predictions.transform.layer_norm",
    "cls.predictions.decoder",
)
NAMES = NameTable(
    {
        "embeddings.word_embeddings": "embed",
        "embeddings.token_type_embeddings": "token_types",
        **_OLD,
        **_NEW,
        "pooler.dense": "pooler",
        "classifier": "classifier",
    },
    ("nomic_bert.", "bert."),
    frozenset(f"{module}.{suffix}" for module in _UNUSED for suffix in ("weight", "bias"))
    | {"rotary_emb.inv_freq", "encoder.layers.{}.attn.rotary_emb.inv_freq"},
)


def _nomic(config: Fields) -> ModelSpec:
    if config.has("n_embd"):
        return _old(config)
    spec = read_encoder(config, "Nomic BERT", theta=THETA)
    return replace(spec, gated=True, qkv_bias=False, output_bias=False, mlp_bias=False)


def _old(config: Fields) -> ModelSpec:
    config.only("activation_function", "swiglu")
    for key in (
        "prenorm",
        "causal",
        "parallel_block",
        "parallel_block_tied_norm",
        "use_rms_norm",
        "scale_attn_by_inverse_layer_idx",
    ):
        config.only(key)
    config.only("rotary_emb_interleaved")
    config.only("rotary_emb_scale_base")
    config.only("rotary_scaling_factor", 1.0)
    spec = read_dense(config, "Nomic BERT", keys=OLD_KEYS, theta=None, tied=True)
    if not config.flag("scale_attn_weights", True):
        spec = replace(spec, attention_scale=1.0)
    rotated = int(spec.head_dim * config.number("rotary_emb_fraction", 1.0))
    trained = config.optional_integer("max_trained_positions")
    qkv_bias, first_bias, second_bias = (
        config.flag(key, False) for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    )
    if first_bias != second_bias:
        raise config.refusal("mlp_fc1_bias", first_bias, f"expected that of mlp_fc2_bias, {second_bias}")
    return replace(
        as_encoder(spec, config.integer("type_vocab_size", minimum=0)),
        activation=Activation.SILU,
        max_context=min(spec.max_context, trained or spec.max_context),  # longer ones were never seen in training
        ropes=(RopeSpec(rotated, config.number("rotary_emb_base", THETA)),),
        layers=tuple(replace(layer, rope=0) for layer in spec.layers),
        qkv_bias=qkv_bias,
        output_bias=qkv_bias,
        mlp_bias=first_bias,
    )


def _gguf(source: GGUFSource) -> ModelSpec:
    return read_encoder_gguf(source, "Nomic BERT", Activation.SILU, rotary=True)


NOMIC_BERT = Family(
    name="Nomic BERT",
    model_types=("nomic_bert",),
    from_config=_nomic,
    config_names=NAMES,
    classifier=first_token_classifier,
    defaults={**BERT.defaults, "hidden_act": "silu", "max_position_embeddings": 2048, "vocab_size": 30528},
    harmless=frozenset(" ".join((_IMPLEMENTATION, _OF_GPT2, _OTHER_FORM)).split()),
    gguf_architectures=("nomic-bert",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
