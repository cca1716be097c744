"""Tiny random models of every family, saved by transformers, for tests of the model and of all that stands on it.

`make_tiny(name, folder)` saves VARIANTS[name] in Hugging Face form; `reference(folder)` opens it in transformers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE = 96
WINDOW = 12


@dataclass(frozen=True)
class Variant:
    config: str
    """Class of the config in transformers"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    gain: float = 1.2
    """Spread of the matrices, in the spread that keeps the size of what goes through them"""


SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
HEAD = 16
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
SWITCH = 40


def longrope(rotated: int) -> dict[str, Any]:
    half = rotated // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(half)],
        "long_factor": [1.5 + 0.7 * i for i in range(half)],
    }


GEMMA = {"head_dim": HEAD, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
MOE = {"num_experts_per_tok": 2, "num_local_experts": 5}
QWEN_MOE = {"num_experts_per_tok": 3, "num_experts": 6, "moe_intermediate_size": 32}
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCAB_SIZE, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
OPT = {**{key: value for key, value in NEOX.items() if key != "intermediate_size"}, "ffn_dim": 96}
OPT["word_embed_proj_dim"] = 64

VARIANTS: dict[str, Variant] = {
    "llama": Variant("LlamaConfig"),
    "llama-mha-biases": Variant("LlamaConfig", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "llama-mqa-tied": Variant("LlamaConfig", {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 32}),
    "llama-llama3": Variant("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama-linear": Variant("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "llama-yarn": Variant(
        "LlamaConfig", {"rope_parameters": {**YARN, "attention_factor": 1.25, "beta_fast": 16.0}}, gain=1.0
    ),
    "mistral": Variant("MistralConfig", {"sliding_window": WINDOW}),
    "mistral-full": Variant("MistralConfig", {"sliding_window": None}),
    "mixtral": Variant("MixtralConfig", MOE, gain=0.9),
    "mixtral-window": Variant(
        "MixtralConfig", {**MOE, "sliding_window": WINDOW, "tie_word_embeddings": True}, gain=0.9
    ),
    "qwen2": Variant("Qwen2Config"),
    "qwen2-window": Variant(
        "Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    ),
    "qwen2-yarn": Variant("Qwen2Config", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": Variant("Qwen3Config", {"head_dim": 32}),
    "qwen3-window-bias": Variant(
        "Qwen3Config",
        {
            "head_dim": HEAD,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
        },
    ),
    "qwen3-moe": Variant("Qwen3MoeConfig", {**QWEN_MOE, "head_dim": HEAD, "norm_topk_prob": True}),
    "qwen3-moe-mixed": Variant(
        "Qwen3MoeConfig",
        {**QWEN_MOE, "num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "norm_topk_prob": False},
    ),
    "gemma2": Variant(
        "Gemma2Config", {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0, "num_hidden_layers": 4}
    ),
    "gemma3": Variant("Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-scaled": Variant(
        "Gemma3TextConfig",
        {
            **GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "final_logit_softcapping": 4.0,
        },
    ),
    "phi3": Variant("Phi3Config", {"sliding_window": WINDOW}),
    "phi3-longrope": Variant(
        "Phi3Config", {"rope_parameters": longrope(HEAD), "original_max_position_embeddings": SWITCH}
    ),
    "phi4-partial": Variant(
        "Phi3Config",
        {
            "rope_parameters": {**longrope(HEAD // 2), "partial_rotary_factor": 0.5},
            "original_max_position_embeddings": SWITCH,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": Variant("GPT2Config"),
    "gpt2-unscaled": Variant(
        "GPT2Config",
        {"scale_attn_weights": False, "n_inner": 160, "tie_word_embeddings": False, "activation_function": "gelu"},
        gain=0.7,
    ),
    "opt": Variant("OPTConfig"),
    "opt-no-bias": Variant("OPTConfig", {"enable_bias": False, "tie_word_embeddings": False}),
    "gpt-neox": Variant("GPTNeoXConfig", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}),
    "gpt-neox-sequential": Variant(
        "GPTNeoXConfig",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0},
        },
    ),
    "olmo2": Variant("Olmo2Config"),
    "olmo2-bias": Variant("Olmo2Config", {"attention_bias": True, "num_key_value_heads": 4}),
    "granite": Variant(
        "GraniteConfig",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.5,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.17,
            "tie_word_embeddings": True,
        },
    ),
    "granite-biases": Variant("GraniteConfig", {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.3}),
}

_BASES = {"GPT2Config": GPT2, "OPTConfig": OPT, "GPTNeoXConfig": NEOX}


_SEEDS = {
    "llama-mha-biases": 10,
    "llama-linear": 2,
    "mistral-full": 1,
    "mixtral": 2,
    "mixtral-window": 1,
    "qwen2": 2,
    "qwen2-window": 3,
    "qwen2-yarn": 4,
    "qwen3-moe": 4,
    "qwen3-moe-mixed": 1,
    "gemma2": 1,
    "gemma3": 5,
    "phi3-longrope": 6,
    "gpt2": 3,
    "gpt2-unscaled": 2,
    "opt": 1,
    "opt-no-bias": 4,
    "gpt-neox": 5,
    "gpt-neox-sequential": 3,
    "olmo2": 4,
    "granite": 3,
    "granite-biases": 1,
}
"""Weights by which no greedy choice and no choice of experts hangs in the balance: float16 keys and values would tip
it one way or the other."""


def make_tiny(name: str, folder: Path, **changes: Any) -> Path:
    """Save the variant (with further changes of its config) in the folder; the same bytes every time."""
    import torch
    import transformers

    variant = VARIANTS[name]
    settings = {**_BASES.get(variant.config, SIZES), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    settings |= {**variant.changes, **changes}
    config = getattr(transformers, variant.config)(**{key: _copied(value) for key, value in settings.items()})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rng = np.random.default_rng([zlib.crc32(name.encode()), _SEEDS.get(name, 0)])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_values(key, tuple(parameter.shape), rng, variant)))
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator, variant: Variant) -> np.ndarray:
    """Values that all show in the logits; those are small enough for float16 keys and values to change them by less
    than 1e-3."""
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return (0.2 if name.endswith("weight") else 0.08) * values + (
            1.0 if name.endswith("weight") and not variant.config.startswith("Gemma") else 0.0
        )
    if any(part in name for part in ("embed_in", "embed_tokens", "wte", "lm_head", "embed_out")):
        return 0.016 * values
    if any(part in name for part in ("wpe", "embed_positions")):
        return 0.1 * values
    if name.endswith(".gate.weight"):
        return 0.4 * values  # routers: experts are chosen by wide margins
    return (variant.gain / np.sqrt(64)) * values


@lru_cache(maxsize=64)
def reference(folder: Path) -> Any:
    """The model in transformers: float32, eager attention."""
    import torch
    import transformers

    torch.set_num_threads(1)  # more only wait for one another on models of this size
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


def reference_logits(model: Any, token_ids: list[int]) -> np.ndarray:
    """Logits [tokens, V] of one sequence, computed at once."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([token_ids]), use_cache=False).logits[0].float().numpy()


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    return np.random.default_rng(seed).integers(2, VOCAB_SIZE, length).tolist()
