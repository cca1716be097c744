"""What headrace does not implement is refused by name before any weight is read; what is harmless is not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import DamagedFile, HeadraceError, ModelNotFound, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.model.loader import families, read_spec
from headrace.model.spec import LinearScaling, Llama3Scaling, LongRopeScaling, ModelSpec

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 96,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "activation_function": "gelu_new",
}
OPT = {
    **{key: value for key, value in LLAMA.items() if key not in ("architectures", "intermediate_size", "hidden_act")},
    "model_type": "opt",
    "ffn_dim": 96,
    "activation_function": "relu",
    "word_embed_proj_dim": 64,
}
PHI3 = {**LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
GEMMA = {**LLAMA, "architectures": [], "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"}


def read(tmp_path: Path, config: dict[str, Any]) -> ModelSpec:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_spec(ModelFiles("tiny", folder=tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "model_type": "mamba"}, r"model_type is 'mamba'; headrace runs llama, mistral, mixtral, qwen2"),
        ({**LLAMA, "model_type": "gemma3"}, "model_type is 'gemma3'"),
        ({**LLAMA, "architectures": ["LlamaForTokenClassification"]}, "architectures is 'LlamaForTokenClass"),
        ({**GPT2, "architectures": ["GPT2DoubleHeadsModel"]}, "architectures is 'GPT2DoubleHeadsModel'"),
        ({**LLAMA, "use_alibi": True}, "use_alibi is True; headrace does not know this key"),
        ({**LLAMA, "qk_clip": 0}, "qk_clip is 0"),
        ({**LLAMA, "sliding_window": 4096}, "sliding_window is 4096"),
        ({**LLAMA, "hidden_act": "mish"}, "hidden_act is 'mish'; expected one of silu"),
        (
            {**LLAMA, "quantization_config": {"quant_method": "gptq"}},
            r"quantization_config is \{'quant_method': 'gptq'",
        ),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'; expected default"),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3}}, "alpha is 3"),
        ({**LLAMA, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}, "mrope_section is"),
        ({**LLAMA, "layer_types": ["full_attention"] * 2}, "layer_types is"),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({**GPT2, "add_cross_attention": True}, "add_cross_attention is True"),
        ({**OPT, "do_layer_norm_before": False}, "do_layer_norm_before is False"),
        ({**OPT, "word_embed_proj_dim": 32}, "word_embed_proj_dim is 32"),
        ({**OPT, "_remove_final_layer_norm": True}, "_remove_final_layer_norm is True"),
        ({**GEMMA, "model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention is"),
        ({**GEMMA, "model_type": "gemma2", "layer_types": ["chunked_attention"] * 2}, "layer_types is 'chunked_att"),
        ({**LLAMA, "model_type": "qwen2", "layer_types": ["sliding_attention"] * 2}, "use_sliding_window and"),
    ],
)
def test_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message) as error:
        read(tmp_path, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "hidden_size": "64"}, "hidden_size is '64', expected a whole number from 1 to"),
        ({**LLAMA, "num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({**LLAMA, "num_attention_heads": None}, "has no num_attention_heads"),
        ({**LLAMA, "num_attention_heads": 5}, "hidden_size 64 is not a multiple of num_attention_heads 5"),
        ({**LLAMA, "num_key_value_heads": 3}, "4 heads cannot share 3 key-value heads"),
        ({**LLAMA, "rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({**LLAMA, "tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
        ({**LLAMA, "rope_scaling": "linear"}, "rope_scaling is .linear., expected an object"),
        ({**LLAMA, "rope_scaling": {"type": "linear"}}, "rope parameters has no factor"),
        ({**LLAMA, "partial_rotary_factor": 0.2}, "rope rotates 3 dimensions"),
        (
            {**PHI3, "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "a list of 8 num",
        ),
        ({**LLAMA, "model_type": "qwen2", "layer_types": ["full_attention"]}, "expected a list of 2 names"),
        ({**LLAMA, "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "uses 3 experts"),
        ({**LLAMA, "architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM', expected a list"),
    ],
)
def test_damaged(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=message):
        read(tmp_path, config)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        read_spec(ModelFiles("tiny", folder=tmp_path))


def test_harmless_keys(tmp_path: Path) -> None:
    harmless = {
        "attention_dropout": 0.1,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "torch_dtype": "bfloat16",
        "_name_or_path": "somewhere",
        "pretraining_tp": 2,
        "transformers_version": "4.40.0",
        "temperature": 0.6,
        "rope_scaling": None,
        "pruned_heads": {},
        "use_cache": True,
    }
    assert read(tmp_path, {**LLAMA, **harmless}) == read(tmp_path, LLAMA)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_garbage_is_never_a_crash(family: Any, tmp_path: Path) -> None:
    base = {**LLAMA, **GPT2, **OPT, **GEMMA, "architectures": [], "model_type": family.model_types[0]}
    for key in sorted({*base, "rope_parameters", "rope_scaling", "layer_types", "mlp_only_layers", "sliding_window"}):
        for value in ("x", -1, [], [1], {"a": 1}, {"full_attention": 3}, True, 1e300, "1"):
            with suppress(HeadraceError):
                read(tmp_path, {**base, key: value})


OLD_AND_NEW = [
    (
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "dtype": "float16"},
        LinearScaling(2.0),
    ),
    (
        {
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        {
            "rope_parameters": {
                "rope_theta": 5e5,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        Llama3Scaling(8.0, 1.0, 4.0, 64),
    ),
]


@pytest.mark.parametrize(("old", "new", "scaling"), OLD_AND_NEW)
def test_old_and_new_keys_say_the_same(old: Any, new: Any, scaling: Any, tmp_path: Path) -> None:
    spec = read(tmp_path, {**LLAMA, **old})
    assert spec == read(tmp_path, {**LLAMA, **new})
    assert spec.ropes[0].scaling == scaling
    assert spec.ropes[0].theta == 5e5


def test_old_gemma3_keys(tmp_path: Path) -> None:
    old = {"sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 8}
    old |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    new = {"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": nested, "sliding_window": 8}
    base = {**GEMMA, "model_type": "gemma3_text", "query_pre_attn_scalar": 16}
    assert read(tmp_path, {**base, **old}) == read(tmp_path, {**base, **new})


def test_old_neox_keys(tmp_path: Path) -> None:
    base = {key: value for key, value in LLAMA.items() if key not in ("architectures", "num_key_value_heads")}
    base |= {"model_type": "gpt_neox", "layer_norm_eps": 1e-5}
    base.pop("rms_norm_eps")
    old = {"rotary_pct": 0.5, "rotary_emb_base": 20000}
    new = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 20000.0}}
    assert read(tmp_path, {**base, **old}) == read(tmp_path, {**base, **new})


def test_first_phi3_names_of_longrope(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    specs = [
        read(tmp_path, {**PHI3, "original_max_position_embeddings": 64, "rope_scaling": {"type": kind, **factors}})
        for kind in ("su", "yarn", "longrope")
    ]
    assert specs[0] == specs[1] == specs[2]
    assert isinstance(specs[0].ropes[0].scaling, LongRopeScaling)
    assert specs[0].rope_switch == 64


def test_real_configs(tmp_path: Path) -> None:
    """Keys as they stand in models on the hub, from before transformers 5."""
    qwen3_moe = {
        **LLAMA,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 16,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "output_router_logits": False,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    }
    spec = read(tmp_path, qwen3_moe)
    assert spec.moe is not None
    assert (spec.moe.num_experts, spec.moe.top_k, spec.moe.normalize) == (8, 2, True)
    dialogpt = {
        **GPT2,
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": 64,
        "attn_pdrop": 0.1,
        "summary_type": "cls_index",
        "task_specific_params": {"conversational": {"max_length": 1000}},
        "layer_norm_epsilon": 1e-05,
    }
    assert read(tmp_path, dialogpt).tied_embeddings


def test_of_two_sayings_the_one_that_transformers_takes(tmp_path: Path) -> None:
    both = {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 3.0},
    }
    assert read(tmp_path, {**LLAMA, **both}).ropes[0].scaling == LinearScaling(2.0)
    inside = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    inside |= {"original_max_position_embeddings": 32}
    outside = {"rope_parameters": inside, "original_max_position_embeddings": 64}
    assert read(tmp_path, {**LLAMA, **outside}).ropes[0].scaling == Llama3Scaling(8.0, 1.0, 4.0, 64)
