"""config.json of models as their authors published them, without what the readers of every family have in common:
sizes that are Llama's, and bookkeeping that stands in all of them. Collected from public copies of the files.

`published(name)` gives the whole config; `shrunk(config)` the same with small sizes, for models made on the spot.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_EVERYWHERE: Config = {
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
}


def _of(model_type: str, architecture: str, layers: int, hidden: int, heads: int, kv: int, inner: int) -> Config:
    return {
        **_EVERYWHERE,
        "architectures": [architecture],
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "hidden_act": "silu",
    }


def _llama(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rms_norm_eps": 1e-05,
        "vocab_size": 32000,
        "pretraining_tp": 1,
    }
    base |= {"tie_word_embeddings": False, "rope_scaling": None, "max_position_embeddings": 4096}
    return {**_of("llama", "LlamaForCausalLM", *sizes), **base, **keys}


def _llama3(*sizes: int, factor: float, **keys: Any) -> Config:
    scaling = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    base: Config = {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "rope_theta": 500000.0}
    base |= {"rope_scaling": scaling, "max_position_embeddings": 131072, "vocab_size": 128256}
    base |= {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}
    return _llama(*sizes, **{**base, **keys})


def _mistral(*sizes: int, **keys: Any) -> Config:
    base: Config = {"bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-05, "tie_word_embeddings": False}
    base |= {"max_position_embeddings": 32768, "vocab_size": 32768, "sliding_window": None, "rope_theta": 1000000.0}
    return {**_of("mistral", "MistralForCausalLM", *sizes), **base, **keys}


def _qwen2(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "max_window_layers": sizes[0],
    }
    base |= {"max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "vocab_size": 151936}
    base |= {"sliding_window": 131072, "tie_word_embeddings": False, "use_sliding_window": False}
    return {**_of("qwen2", "Qwen2ForCausalLM", *sizes), **base, **keys}


def _qwen3(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 128,
    }
    base |= {"sliding_window": None, "rope_scaling": None, "max_position_embeddings": 40960}
    return _qwen2(*sizes, **{**base, **keys})


def _qwen3_moe(*sizes: int, **keys: Any) -> Config:
    base: Config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1}
    base |= {"mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128}
    base |= {"num_experts_per_tok": 8, "output_router_logits": False, "router_aux_loss_coef": 0.001}
    return _qwen3(*sizes, **{**base, **keys})


def _gemma2(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
    }
    base |= {"cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0, "pad_token_id": 0}
    base |= {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256}
    base |= {"max_position_embeddings": 8192, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06}
    base |= {"rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096, "vocab_size": 256000}
    return {**_of("gemma2", "Gemma2ForCausalLM", *sizes), **base, **keys}


def _gemma3(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
    }
    base |= {"cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": None}
    base |= {"hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 32768}
    base |= {"pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000}
    base |= {"rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "vocab_size": 262144}
    config = {**_of("gemma3_text", "Gemma3ForCausalLM", *sizes), **base, **keys}
    del config["hidden_act"]
    return config


def _phi3(*sizes: int, **keys: Any) -> Config:
    code = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    base: Config = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": code,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
    }
    base |= {"eos_token_id": 32000, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}
    base |= {"pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None}
    base |= {"rope_theta": 10000.0, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32064}
    return {**_of("phi3", "Phi3ForCausalLM", *sizes), **base, **keys}


def _longrope(half: int) -> Config:
    long, short = [1.08 + 0.9 * i for i in range(half)], [1.0 + 0.02 * i for i in range(half)]
    return {"long_factor": long, "short_factor": short, "type": "longrope"}


def _gpt2(layers: int, hidden: int, heads: int, **keys: Any) -> Config:
    base: Config = {"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1}
    base |= {"bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02}
    base |= {"layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": hidden, "n_head": heads}
    base |= {"n_layer": layers, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None}
    base |= {"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index"}
    base |= {"summary_use_proj": True, "vocab_size": 50257}
    base |= {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
    return {**base, **keys}


def _opt(layers: int, hidden: int, heads: int, **keys: Any) -> Config:
    base: Config = {"activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"]}
    base |= {"attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": True, "dropout": 0.1}
    base |= {"eos_token_id": 2, "ffn_dim": 4 * hidden, "hidden_size": hidden, "init_std": 0.02, "layerdrop": 0.0}
    base |= {"max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": heads, "prefix": "</s>"}
    base |= {"num_hidden_layers": layers, "pad_token_id": 1, "torch_dtype": "float16", "use_cache": True}
    base |= {"transformers_version": "4.21.0.dev0", "vocab_size": 50272, "word_embed_proj_dim": hidden}
    return {**base, **keys}


def _neox(layers: int, hidden: int, heads: int, **keys: Any) -> Config:
    base: Config = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "rotary_pct": 0.25,
    }
    base |= {"max_position_embeddings": 2048, "rotary_emb_base": 10000, "tie_word_embeddings": False}
    base |= {"use_parallel_residual": True, "vocab_size": 50304, "torch_dtype": "float16"}
    sizes = _of("gpt_neox", "GPTNeoXForCausalLM", layers, hidden, heads, heads, 4 * hidden)
    del sizes["num_key_value_heads"]
    return {**sizes, **base, **keys}


def _olmo2(*sizes: int, **keys: Any) -> Config:
    base: Config = {"attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 100257, "pad_token_id": 100277}
    base |= {"max_position_embeddings": 4096, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000}
    base |= {"tie_word_embeddings": False, "vocab_size": 100352, "use_cache": False}
    return {**_of("olmo2", "Olmo2ForCausalLM", *sizes), **base, **keys}


def _granite(*sizes: int, **keys: Any) -> Config:
    base: Config = {
        "attention_bias": False,
        "attention_dropout": 0.1,
        "attention_multiplier": 0.0078125,
        "bos_token_id": 0,
    }
    base |= {"embedding_multiplier": 12.0, "eos_token_id": 0, "logits_scaling": 16.0, "mlp_bias": False}
    base |= {"max_position_embeddings": 131072, "pad_token_id": 0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05}
    base |= {"rope_scaling": None, "rope_theta": 10000000.0, "tie_word_embeddings": True, "vocab_size": 49159}
    return {**_of("granite", "GraniteForCausalLM", *sizes), **base, **keys}


_YARN = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
_LINEAR = {"factor": 4.0, "type": "linear"}
_PIPELINES = {"text-generation": {"impl": "instruct_pipeline.Pipeline", "pt": "AutoModelForCausalLM"}}
_PATTERN = (["sliding_attention"] * 5 + ["full_attention"]) * 3

PUBLISHED: dict[str, Config] = {
    # Llama
    "huggyllama/llama-7b": _llama(
        32, 4096, 32, 32, 11008, rms_norm_eps=1e-06, max_position_embeddings=2048, max_sequence_length=2048,
        pad_token_id=0
    ),
    "llama-7b-hf": _llama(
        32, 4096, 32, 32, 11008, architectures=["LLaMAForCausalLM"], rms_norm_eps=1e-06, max_position_embeddings=None,
        max_sequence_length=2048, pad_token_id=-1, bos_token_id=0, eos_token_id=1, num_key_value_heads=None,
    ),
    "Llama-2-7b-hf": _llama(32, 4096, 32, 32, 11008),
    "vicuna-7b-v1.5-16k": _llama(
        32, 4096, 32, 32, 11008, rope_scaling=_LINEAR, max_sequence_length=16384, pad_token_id=0,
    ),
    "CodeLlama-7b-hf": _llama(
        32, 4096, 32, 32, 11008, max_position_embeddings=16384, rope_theta=1000000, vocab_size=32016,
    ),
    "TinyLlama-1.1B-Chat-v1.0": _llama(22, 2048, 32, 4, 5632, max_position_embeddings=2048, attention_bias=False),
    "Meta-Llama-3-8B": _llama(
        32, 4096, 32, 8, 14336, max_position_embeddings=8192, rope_theta=500000.0, vocab_size=128256,
        attention_bias=False
    ),
    "Llama-3.1-8B-Instruct": _llama3(32, 4096, 32, 8, 14336, factor=8.0),
    "Llama-3.2-1B": _llama3(
        16, 2048, 32, 8, 8192, factor=32.0, head_dim=64, tie_word_embeddings=True, eos_token_id=128001,
    ),
    "Llama-3.3-70B-Instruct": _llama3(80, 8192, 64, 8, 28672, factor=8.0, head_dim=128),
    "DeepSeek-R1-Distill-Llama-8B": _llama3(32, 4096, 32, 8, 14336, factor=8.0, eos_token_id=128001),
    "Yi-1.5-6B": _llama(
        32, 4096, 32, 4, 11008, rope_theta=5000000.0, pad_token_id=0, vocab_size=64000, rms_norm_eps=1e-06,
    ),
    "SmolLM-135M": _llama(
        30, 576, 9, 3, 1536, max_position_embeddings=2048, tie_word_embeddings=True, vocab_size=49152,
        rope_theta=10000.0
    ),
    "SmolLM2-135M-Instruct": _llama(
        30, 576, 9, 3, 1536, max_position_embeddings=8192, is_llama_config=True, rope_interleaved=False,
        rope_theta=100000,
        tie_word_embeddings=True, vocab_size=49152,
        **{"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}},
    ),
    # Mistral, Mixtral
    "Mistral-7B-v0.1": _mistral(32, 4096, 32, 8, 14336, vocab_size=32000, sliding_window=4096, rope_theta=10000.0),
    "Mistral-7B-Instruct-v0.3": _mistral(32, 4096, 32, 8, 14336),
    "Mistral-Nemo-Base-2407": _mistral(
        40, 5120, 32, 8, 14336, head_dim=128, vocab_size=131072, max_position_embeddings=128000, attention_dropout=0.0
    ),
    "Mistral-Small-24B-Instruct-2501": _mistral(
        40, 5120, 32, 8, 32768, head_dim=128, vocab_size=131072, rope_theta=100000000.0
    ),
    "Mixtral-8x7B-v0.1": _mistral(
        32, 4096, 32, 8, 14336, model_type="mixtral", architectures=["MixtralForCausalLM"], num_local_experts=8,
        num_experts_per_tok=2, output_router_logits=False, router_aux_loss_coef=0.02, attention_dropout=0.0,
    ),
    # Qwen
    "Qwen1.5-0.5B": _qwen2(
        24, 1024, 16, 16, 2816, max_window_layers=21, sliding_window=32768, tie_word_embeddings=True,
    ),
    "Qwen2-7B-Instruct": _qwen2(28, 3584, 28, 4, 18944),
    "Qwen2.5-0.5B": _qwen2(24, 896, 14, 2, 4864, sliding_window=32768, tie_word_embeddings=True, use_mrope=False),
    "Qwen2.5-3B-Instruct": _qwen2(
        36, 2048, 16, 2, 11008, max_window_layers=70, sliding_window=32768, tie_word_embeddings=True,
    ),
    "Qwen2.5-Coder-32B-Instruct, yarn": _qwen2(64, 5120, 40, 8, 27648, max_window_layers=70, rope_scaling=_YARN),
    "Qwen2.5-Math-1.5B": _qwen2(
        28, 1536, 12, 2, 8960, max_window_layers=21, max_position_embeddings=4096, rope_theta=10000,
        sliding_window=4096,
        tie_word_embeddings=True, use_mrope=False,
    ),
    "QwQ-32B": _qwen2(
        64, 5120, 40, 8, 27648, max_window_layers=64, sliding_window=32768, max_position_embeddings=40960,
    ),
    "DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(
        28, 1536, 12, 2, 8960, max_window_layers=21, max_position_embeddings=131072, rope_theta=10000,
        sliding_window=4096,
        use_mrope=False,
    ),
    "Qwen3-0.6B": _qwen3(28, 1024, 16, 8, 3072, tie_word_embeddings=True, rope_theta=1000000),
    "Qwen3-4B-Instruct-2507": _qwen3(36, 2560, 32, 8, 9728, max_position_embeddings=262144, rope_theta=5000000),
    "Qwen3-32B": _qwen3(64, 5120, 64, 8, 25600),
    "Qwen3-30B-A3B": _qwen3_moe(48, 2048, 32, 4, 6144),
    "Qwen3-Coder-30B-A3B-Instruct": _qwen3_moe(
        48, 2048, 32, 4, 5472, max_window_layers=28, max_position_embeddings=262144, qkv_bias=False,
        rope_theta=10000000,
        router_aux_loss_coef=0.0, shared_expert_intermediate_size=0, use_qk_norm=True,
    ),
    # Gemma
    "gemma-2-2b": _gemma2(26, 2304, 8, 4, 9216),
    "gemma-2-9b": _gemma2(42, 3584, 16, 8, 14336),
    "gemma-2-27b-it": _gemma2(
        46, 4608, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144, _attn_implementation="eager",
    ),
    "gemma-3-270m": _gemma3(
        18, 640, 4, 1, 2048, _sliding_window_pattern=6, layer_types=_PATTERN, use_bidirectional_attention=False,
        rope_local_base_freq=10000.0, rope_theta=1000000.0,
    ),
    "gemma-3-1b-it": _gemma3(26, 1152, 4, 1, 6912, sliding_window_pattern=6),
    # Phi
    "Phi-3-mini-4k-instruct": _phi3(32, 3072, 32, 32, 8192, sliding_window=2047),
    "Phi-3-mini-128k-instruct": _phi3(
        32, 3072, 32, 32, 8192, max_position_embeddings=131072, rope_scaling=_longrope(48), sliding_window=262144
    ),
    "Phi-3-medium-4k-instruct": _phi3(40, 5120, 40, 10, 17920, sliding_window=2047),
    "Phi-3.5-mini-instruct": _phi3(
        32, 3072, 32, 32, 8192, max_position_embeddings=131072, rope_scaling=_longrope(48), sliding_window=262144
    ),
    "phi-4": _phi3(
        40, 5120, 40, 10, 17920, max_position_embeddings=16384, original_max_position_embeddings=16384,
        rope_theta=250000,
        vocab_size=100352, bos_token_id=100257, eos_token_id=100265, pad_token_id=100349,
    ),
    "Phi-4-mini-instruct": _phi3(
        32, 3072, 24, 8, 8192, full_attn_mod=1, interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
        max_position_embeddings=131072, partial_rotary_factor=0.75, rope_scaling=_longrope(48), sliding_window=262144,
        tie_word_embeddings=True, vocab_size=200064, eos_token_id=199999,
    ),
    # GPT-2
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16, n_special=0, predict_special_tokens=True),
    "gpt2-xl": _gpt2(48, 1600, 25, output_past=True),
    "distilgpt2": _gpt2(6, 768, 12, _num_labels=1, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}),
    "DialoGPT-medium": _gpt2(24, 1024, 16, task_specific_params={"conversational": {"max_length": 1000}}),
    # OPT, GPT-NeoX
    "opt-125m": _opt(12, 768, 12),
    "opt-6.7b": _opt(32, 4096, 32, _remove_final_layer_norm=False),
    "pythia-70m": _neox(6, 512, 8),
    "pythia-6.9b, saved by transformers 4.45": _neox(
        32, 4096, 32, attention_bias=True, attention_dropout=0.0, classifier_dropout=0.1, hidden_dropout=0.0,
        partial_rotary_factor=0.25, rope_scaling=None, rope_theta=10000,
    ),
    "gpt-neox-20b": _neox(
        44, 6144, 64, attention_probs_dropout_prob=0, hidden_dropout_prob=0, hidden_act="gelu_fast", vocab_size=50432
    ),
    "dolly-v2-3b": _neox(32, 2560, 32, custom_pipelines=_PIPELINES, vocab_size=50280),
    # OLMo 2, Granite
    "OLMo-2-0425-1B": _olmo2(16, 2048, 16, 16, 8192),
    "OLMo-2-1124-13B": _olmo2(40, 5120, 40, 40, 13824),
    "OLMo-2-0325-32B": _olmo2(64, 5120, 40, 8, 27648),
    "granite-3.3-8b-instruct": _granite(40, 4096, 32, 8, 12800),
    "granite-3.1-2b-instruct": _granite(
        40, 2048, 32, 8, 8192, attention_multiplier=0.015625, logits_scaling=8.0, rope_theta=5000000.0, vocab_size=49155
    ),
}  # fmt: skip


def published(name: str) -> Config:
    """The config of that model."""
    return {key: value for key, value in PUBLISHED[name].items() if key not in _absent(name)}


def _absent(name: str) -> set[str]:
    return {"max_position_embeddings", "num_key_value_heads"} if name == "llama-7b-hf" else set()


_SMALL_HEAD = 16


def shrunk(config: Config, layers: int = 2, vocab_size: int = 96) -> Config:
    """The config with small sizes and the same ratios of heads; everything that is no size stays as published."""
    small = dict(config)
    heads_key = "n_head" if "n_head" in config else "num_attention_heads"
    hidden_key = "n_embd" if "n_embd" in config else "hidden_size"
    layers_key = "n_layer" if "n_layer" in config else "num_hidden_layers"
    old_heads, old_kv = config[heads_key], config.get("num_key_value_heads") or config[heads_key]
    heads = 4 if old_heads != old_kv or "head_dim" in config else 2
    hidden = heads * _SMALL_HEAD
    small |= {heads_key: heads, hidden_key: hidden, "vocab_size": vocab_size}
    if "head_dim" in config:  # as published: equal to hidden / heads, or not
        small["head_dim"] = _SMALL_HEAD if config["head_dim"] * old_heads == config[hidden_key] else 2 * _SMALL_HEAD
    if "num_key_value_heads" in config:
        small["num_key_value_heads"] = heads if old_heads == old_kv else heads // 2
    for key, size in (("intermediate_size", 96), ("ffn_dim", 96), ("moe_intermediate_size", 32), ("num_experts", 6)):
        if key in config:
            small[key] = size
    if "num_experts" in config:
        small["num_experts_per_tok"] = 3
    if "word_embed_proj_dim" in config:
        small["word_embed_proj_dim"] = hidden
    num_layers = 7 if config["model_type"] == "gemma3_text" else layers
    small[layers_key] = num_layers
    if "layer_types" in config:
        small["layer_types"] = config["layer_types"][:num_layers]
    if config.get("sliding_window"):
        small["sliding_window"] = 12
    if "sliding_window_size" in config:
        small["sliding_window_size"] = 12
    scaling = config.get("rope_scaling")
    if scaling and "long_factor" in scaling:
        half = int(small.get("head_dim", _SMALL_HEAD) * config.get("partial_rotary_factor", 1.0)) // 2
        small["rope_scaling"] = {**scaling, **{key: scaling[key][:half] for key in ("long_factor", "short_factor")}}
    small |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return small
