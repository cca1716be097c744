"""Llama 1, 2 and 3.x, and what has its shape: Mistral (sliding window) and Mixtral (experts).

GGUF files of all three have the architecture "llama"; config.json tells them apart.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import MAX_EXPERTS, read_dense, windowed
from headrace.model.families.gguf import INTERLEAVED_NAMES, with_experts
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import LayerSpec, ModelSpec, MoeSpec

MODULES = {
    "embed_tokens": "embed",
    "norm": "norm",
    "lm_head": "head",
    "layers.{}.input_layernorm": "layers.{}.attention_norm",
    "layers.{}.self_attn.q_proj": "layers.{}.q",
    "layers.{}.self_attn.k_proj": "layers.{}.k",
    "layers.{}.self_attn.v_proj": "layers.{}.v",
    "layers.{}.self_attn.o_proj": "layers.{}.o",
    "layers.{}.post_attention_layernorm": "layers.{}.mlp_norm",
    "layers.{}.mlp.gate_proj": "layers.{}.gate",
    "layers.{}.mlp.up_proj": "layers.{}.up",
    "layers.{}.mlp.down_proj": "layers.{}.down",
}
IGNORED = frozenset({"layers.{}.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"})
NAMES = NameTable(MODULES, ("model.",), IGNORED)

MIXTRAL_NAMES = NameTable(
    {
        **MODULES,
        "layers.{}.block_sparse_moe.gate": "layers.{}.router",
        "layers.{}.block_sparse_moe.experts.{}.w1": "layers.{}.experts.{}.gate",
        "layers.{}.block_sparse_moe.experts.{}.w2": "layers.{}.experts.{}.down",
        "layers.{}.block_sparse_moe.experts.{}.w3": "layers.{}.experts.{}.up",
    },
    ("model.",),
    IGNORED,
)


def _llama(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Llama")
    bias = config.flag("attention_bias", False)
    return replace(spec, qkv_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias", False))


def _mistral(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Mistral")
    window = config.optional_integer("sliding_window")
    return replace(spec, layers=windowed(spec, window, lambda _: True))


def _mixtral(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Mixtral", theta=1e6)
    experts, top_k = (
        config.integer("num_local_experts", 8, maximum=MAX_EXPERTS),
        config.integer("num_experts_per_tok", 2),
    )
    layer = LayerSpec(window=config.optional_integer("sliding_window"), moe=True)
    moe = MoeSpec(experts, top_k, spec.inner_size, normalize=True)
    return replace(spec, moe=moe, layers=(layer,) * spec.num_layers)


def _gguf(source: GGUFSource) -> ModelSpec:
    spec = with_experts(source, read_dense_gguf(source, "Llama"), "feed_forward_length")
    window = source.fields.optional_integer("attention.sliding_window")
    return replace(spec, layers=windowed(spec, window, lambda _: True))


DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
_MISTRAL = {
    **DEFAULTS,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}

LLAMA = Family(
    name="Llama 1, 2, 3",
    model_types=("llama",),
    from_config=_llama,
    config_names=NAMES,
    defaults={**DEFAULTS, "intermediate_size": 11008, "max_position_embeddings": 2048},
    harmless=frozenset({"is_llama_config"}),  # SmolLM2's
    gguf_architectures=("llama",),
    from_gguf=_gguf,
    gguf_names=INTERLEAVED_NAMES,
)
MISTRAL = replace(
    LLAMA, name="Mistral", model_types=("mistral",), from_config=_mistral, defaults={**_MISTRAL, "sliding_window": 4096}
)
MIXTRAL = replace(
    LLAMA,
    name="Mixtral",
    model_types=("mixtral",),
    from_config=_mixtral,
    config_names=MIXTRAL_NAMES,
    defaults={**_MISTRAL, "rms_norm_eps": 1e-5},
)
