"""Qwen2 (biases, windows in the upper layers), Qwen3 (norms of queries and keys) and Qwen3-MoE."""

from __future__ import annotations

from dataclasses import replace

from headrace.model.families import llama
from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import MAX_EXPERTS, read_dense, read_layer_types, windowed
from headrace.model.families.gguf import NAMES as GGUF_NAMES
from headrace.model.families.gguf import read_dense as read_dense_gguf
from headrace.model.families.gguf import with_experts
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import LayerSpec, ModelSpec, MoeSpec
from headrace.ops.kinds import QkNorm

QK_NORM_MODULES = {
    **llama.MODULES,
    "layers.{}.self_attn.q_norm": "layers.{}.q_norm",
    "layers.{}.self_attn.k_norm": "layers.{}.k_norm",
}
QWEN3_NAMES = NameTable(QK_NORM_MODULES, ("model.",), llama.IGNORED)
QWEN3_MOE_NAMES = NameTable(
    {
        **QK_NORM_MODULES,
        "layers.{}.mlp.gate": "layers.{}.router",
        "layers.{}.mlp.experts.{}.gate_proj": "layers.{}.experts.{}.gate",
        "layers.{}.mlp.experts.{}.up_proj": "layers.{}.experts.{}.up",
        "layers.{}.mlp.experts.{}.down_proj": "layers.{}.experts.{}.down",
    },
    ("model.",),
    llama.IGNORED,
)


def _window(config: Fields) -> int | None:
    window = config.optional_integer("sliding_window")
    return window if config.flag("use_sliding_window", False) else None


def _layers(config: Fields, spec: ModelSpec) -> tuple[LayerSpec, ...]:
    window, first = _window(config), config.integer("max_window_layers", 28, minimum=0)
    sliding = read_layer_types(config, spec.num_layers, lambda index: window is not None and index >= first)
    if any(sliding) and window is None:
        raise config.refusal(
            "layer_types", "sliding_attention", "but use_sliding_window and sliding_window name no window"
        )
    return windowed(spec, window, lambda index: sliding[index])


def _qwen2(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Qwen2")
    return replace(spec, qkv_bias=True, layers=_layers(config, spec))


def _qwen3(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Qwen3")
    bias = config.flag("attention_bias", False)
    return replace(spec, qk_norm=QkNorm.HEAD, qkv_bias=bias, output_bias=bias, layers=_layers(config, spec))


def _qwen3_moe(config: Fields) -> ModelSpec:
    spec = read_dense(config, "Qwen3-MoE")
    bias = config.flag("attention_bias", False)
    step = config.integer("decoder_sparse_step", 1)
    dense = config.items("mlp_only_layers")
    window = _window(config)  # of every layer: max_window_layers is in the configs but means nothing here
    layers = tuple(
        LayerSpec(window=window, moe=index not in dense and (index + 1) % step == 0) for index in range(spec.num_layers)
    )
    config.only("use_qk_norm", True)
    config.only("shared_expert_intermediate_size", 0)
    moe = MoeSpec(
        config.integer(
            "num_local_experts" if config.has("num_local_experts") else "num_experts", 128, maximum=MAX_EXPERTS
        ),
        config.integer("num_experts_per_tok", 8),
        config.integer("moe_intermediate_size", 768),
        config.flag("norm_topk_prob", False),
    )
    return replace(spec, qk_norm=QkNorm.HEAD, qkv_bias=bias, output_bias=bias, moe=moe, layers=layers)


def _qwen2_gguf(source: GGUFSource) -> ModelSpec:
    return read_dense_gguf(source, "Qwen2")


def _qwen3_gguf(source: GGUFSource) -> ModelSpec:
    return replace(read_dense_gguf(source, "Qwen3"), qk_norm=QkNorm.HEAD)


def _qwen3_moe_gguf(source: GGUFSource) -> ModelSpec:
    spec = replace(read_dense_gguf(source, "Qwen3-MoE"), qk_norm=QkNorm.HEAD)
    return with_experts(source, spec, "expert_feed_forward_length")


_DEFAULTS = {
    **llama.DEFAULTS,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
}

QWEN2 = Family(
    name="Qwen2, Qwen2.5",
    model_types=("qwen2",),
    from_config=_qwen2,
    config_names=llama.NAMES,
    defaults=_DEFAULTS,
    gguf_architectures=("qwen2",),
    from_gguf=_qwen2_gguf,
    gguf_names=GGUF_NAMES,
)
QWEN3 = replace(
    QWEN2,
    name="Qwen3",
    model_types=("qwen3",),
    from_config=_qwen3,
    config_names=QWEN3_NAMES,
    defaults={**_DEFAULTS, "head_dim": 128},
    gguf_architectures=("qwen3",),
    from_gguf=_qwen3_gguf,
)
QWEN3_MOE = replace(
    QWEN3,
    name="Qwen3-MoE",
    model_types=("qwen3_moe",),
    from_config=_qwen3_moe,
    config_names=QWEN3_MOE_NAMES,
    defaults={**_DEFAULTS, "intermediate_size": 6144, "num_key_value_heads": 4},
    harmless=frozenset({"max_window_layers"}),
    gguf_architectures=("qwen3moe",),
    from_gguf=_qwen3_moe_gguf,
)
