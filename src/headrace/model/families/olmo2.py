"""OLMo 2: norms after attention and MLP, and one norm over all queries and one over all keys."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import read_dense
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.llama import IGNORED
from headrace.model.families.qwen import QK_NORM_MODULES
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import ModelSpec, NormPlacement
from headrace.ops.kinds import QkNorm

NAMES = NameTable(
    {
        **QK_NORM_MODULES,
        "layers.{}.post_attention_layernorm": "layers.{}.attention_post_norm",
        "layers.{}.post_feedforward_layernorm": "layers.{}.mlp_post_norm",
    },
    ("model.",),
    IGNORED,
)


def _plain(spec: ModelSpec) -> ModelSpec:
    return replace(spec, norm_placement=NormPlacement.POST, qk_norm=QkNorm.FULL)


def _olmo2(config: Fields) -> ModelSpec:
    spec = _plain(read_dense(config, "OLMo 2"))
    bias = config.flag("attention_bias", False)
    return replace(spec, qkv_bias=bias, output_bias=bias)


def _gguf(source: GGUFSource) -> ModelSpec:
    return _plain(read_dense_gguf(source, "OLMo 2"))  # a sliding window is OLMo 3's, and refused as an unknown key


OLMO2 = Family(
    name="OLMo 2",
    model_types=("olmo2",),
    from_config=_olmo2,
    config_names=NAMES,
    defaults={
        "hidden_act": "silu",
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    gguf_architectures=("olmo2",),
    from_gguf=_gguf,
    gguf_names=GGUF_NAMES,
)
