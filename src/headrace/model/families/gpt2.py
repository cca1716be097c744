"""GPT-2 and what was trained from it (DialoGPT): learned positions, layer norms, matrices stored transposed."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import SizeKeys, read_dense
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, TransposedRows
from headrace.model.spec import LearnedPositions, ModelSpec
from headrace.ops.kinds import Activation, NormKind

KEYS = SizeKeys(
    hidden="n_embd",
    layers="n_layer",
    heads="n_head",
    inner="n_inner",
    context="n_positions",
    activation="activation_function",
    norm_eps="layer_norm_epsilon",
)
NAMES = NameTable(
    {
        "wte": "embed",
        "wpe": "positions",
        "ln_f": "norm",
        "lm_head": "head",
        "h.{}.ln_1": "layers.{}.attention_norm",
        "h.{}.attn.c_attn": TransposedRows("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "h.{}.attn.c_proj": TransposedRows("layers.{}.o"),
        "h.{}.ln_2": "layers.{}.mlp_norm",
        "h.{}.mlp.c_fc": TransposedRows("layers.{}.up"),
        "h.{}.mlp.c_proj": TransposedRows("layers.{}.down"),
    },
    ("transformer.",),
    frozenset({"h.{}.attn.bias", "h.{}.attn.masked_bias"}),  # the causal mask
)


def _plain(spec: ModelSpec) -> ModelSpec:
    return replace(
        spec,
        norm=NormKind.LAYER,
        gated=False,
        positions=LearnedPositions(spec.max_context),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def _gpt2(config: Fields) -> ModelSpec:
    spec = _plain(read_dense(config, "GPT-2", keys=KEYS, tied=True, theta=None))
    config.only("n_ctx", spec.max_context)
    scaled = config.flag("scale_attn_weights", True)
    return spec if scaled else replace(spec, attention_scale=1.0)


def _gguf(source: GGUFSource) -> ModelSpec:
    return _plain(read_dense_gguf(source, "GPT-2", norm=NormKind.LAYER, activation=Activation.GELU_TANH, rotary=False))


GPT2 = Family(
    name="GPT-2, DialoGPT",
    model_types=("gpt2",),
    from_config=_gpt2,
    config_names=NAMES,
    defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "n_positions": 1024},
    harmless=frozenset(
        {
            "reorder_and_upcast_attn",  # about overflow in half precision
            "n_special",  # of GPT, which had token ids apart for them
            "predict_special_tokens",
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
            "summary_first_dropout",
        }
    ),
    gguf_architectures=("gpt2",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
