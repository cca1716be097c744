"""GGUF files of the tiny models, written with the gguf package by the rules of llama.cpp's conversion scripts.

Names come from the gguf package's own table. What the scripts do to weights and metadata is done here again, from
their description, and shares no code with headrace.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "bert": gguf.MODEL_ARCH.BERT,
    "roberta": gguf.MODEL_ARCH.BERT,
    "xlm-roberta": gguf.MODEL_ARCH.BERT,
    "nomic_bert": gguf.MODEL_ARCH.NOMIC_BERT,
}
ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "nomic_bert"})
GGUF_VARIANTS = (
    "llama",
    "llama-mha-biases",
    "llama-mqa-tied",
    "llama-llama3",
    "llama-linear",
    "mistral-full",
    "mixtral",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "qwen3-moe",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
    "phi4-partial",
    "gpt2",
    "gpt-neox",
    "gpt-neox-sequential",
    "olmo2",
    "granite",
)
"""Variants that a GGUF file can say all about."""


def write_gguf(
    folder: Path,
    path: Path,
    quantization: gguf.GGMLQuantizationType | None = None,
    vocabulary: dict[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """Convert a folder in Hugging Face form; matrices in `quantization` where their columns allow it.

    `vocabulary` is the metadata of tokenizer.ggml; `extra` are further metadata of the architecture ("rope__freq_base"
    is rope.freq_base) that replace what is written.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    name = gguf.MODEL_ARCH_NAMES[architecture]
    writer = gguf.GGUFWriter(path, name)
    metadata = _metadata(config, architecture) | {key.replace("__", "."): value for key, value in extra.items()}
    for key, value in metadata.items():
        _add(writer, f"{name}.{key}", value)
    for key, value in (vocabulary or {}).items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    names = gguf.get_tensor_name_map(architecture, 16)
    for target, values in _tensors(load_file(folder / "model.safetensors"), config, names).items():
        if quantization is not None and values.ndim > 1 and values.shape[-1] % 32 == 0:
            writer.add_tensor(target, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(target, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def position_offset(config: dict[str, Any]) -> int:
    """Rows of the table of positions that RoBERTa never uses, and that a file leaves out."""
    return config["pad_token_id"] + 1 if "roberta" in config["model_type"] else 0


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _metadata(config: dict[str, Any], architecture: gguf.MODEL_ARCH) -> dict[str, Any]:
    get = config.get
    hidden, heads = get("hidden_size") or get("n_embd"), get("num_attention_heads") or get("n_head")
    head_dim = get("head_dim") or hidden // heads
    metadata: dict[str, Any] = {
        "block_count": get("num_hidden_layers") or get("n_layer"),
        "context_length": get("max_position_embeddings") or get("n_positions"),
        "embedding_length": hidden,
        "feed_forward_length": get("intermediate_size") or 4 * hidden,
        "attention.head_count": heads,
    }
    optional = {
        "attention.head_count_kv": get("num_key_value_heads"),
        "attention.key_length": get("head_dim"),
        "attention.value_length": get("head_dim"),
        "attention.layer_norm_rms_epsilon": get("rms_norm_eps"),
        "attention.layer_norm_epsilon": get("layer_norm_eps") or get("layer_norm_epsilon"),
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"),
        "expert_count": get("num_local_experts"),
        "expert_used_count": get("num_experts_per_tok") if get("num_local_experts") else None,
        "expert_feed_forward_length": get("moe_intermediate_size"),
        "use_parallel_residual": get("use_parallel_residual"),
        "attention.scale": get("attention_multiplier"),
        "embedding_scale": get("embedding_multiplier"),
        "residual_scale": get("residual_multiplier"),
        "logit_scale": get("logits_scaling"),
    }
    if architecture in (gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3):
        optional["attention.sliding_window"] = get("sliding_window")
    if architecture is gguf.MODEL_ARCH.LLAMA:
        optional |= {"vocab_size": config["vocab_size"], "rope.dimension_count": head_dim}
    metadata |= {key: value for key, value in optional.items() if value is not None}
    if config["model_type"] in ENCODERS:
        labels = config.get("id2label")
        metadata |= {"classifier.output_labels": list(labels.values())} if labels else {}
        metadata |= {"attention.causal": False, "context_length": metadata["context_length"] - position_offset(config)}
    return metadata | _rope_metadata(config, architecture, head_dim)


def _rope_metadata(config: dict[str, Any], architecture: gguf.MODEL_ARCH, head_dim: int) -> dict[str, Any]:
    parameters = config.get("rope_parameters") or {}
    parameters = parameters.get("full_attention", parameters)
    metadata: dict[str, Any] = {}
    if "rope_theta" in parameters:
        metadata["rope.freq_base"] = float(parameters["rope_theta"])
    if parameters.get("partial_rotary_factor"):
        metadata["rope.dimension_count"] = int(head_dim * parameters["partial_rotary_factor"])
    kind = parameters.get("rope_type")
    if kind in ("linear", "yarn"):
        metadata |= {"rope.scaling.type": kind, "rope.scaling.factor": float(parameters["factor"])}
    if kind == "yarn":
        metadata["rope.scaling.original_context_length"] = parameters["original_max_position_embeddings"]
    if architecture is gguf.MODEL_ARCH.PHI3:
        original = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / original
        metadata |= {
            "rope.scaling.original_context_length": original,
            "attention.sliding_window": config.get("sliding_window") or 0,
        }
        if kind == "longrope":
            metadata["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
    return metadata


def _tensors(
    weights: dict[str, np.ndarray], config: dict[str, Any], names: gguf.TensorNameMap
) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = _rope_tensors(config)
    for source, values in _stacked_experts(_of_encoder(weights, config)).items():
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        assert target is not None, source
        tensors[target] = _converted(source, values, config)
    return tensors


def _of_encoder(weights: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Names without the model's prefix, and only what the scripts keep of an encoder; decoders' as they are."""
    if config["model_type"] not in ENCODERS:
        return weights
    renamed = {re.sub(r"^(bert|roberta)\.", "", name): values for name, values in weights.items()}
    if config["model_type"] == "bert":  # its classifier is RoBERTa's second layer
        renamed = {re.sub(r"^classifier\.", "classifier.out_proj.", name): each for name, each in renamed.items()}
    dropped = ("pooler.", "embeddings.position_ids")
    return {name: values for name, values in renamed.items() if not name.startswith(dropped)}


def _stacked_experts(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    stacked: dict[str, Any] = {}
    for name, values in weights.items():
        if ".experts." not in name:
            stacked[name] = values
            continue
        before, after = name.split(".experts.")
        index, projection = after.split(".", 1)
        merged = {"w1.weight": "w1.weight", "w2.weight": "w2.weight", "w3.weight": "w3.weight"}.get(projection)
        if merged is not None:  # the name that llama.cpp's script gives before it looks it up
            key = before.replace("model.", "").replace("block_sparse_moe", f"feed_forward.experts.{merged}")
        else:
            key = f"{before}.experts.{projection}"
        stacked.setdefault(key, {})[int(index)] = values
    return {
        name: np.stack([values[index] for index in range(len(values))]) if isinstance(values, dict) else values
        for name, values in stacked.items()
    }


def _converted(source: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    model_type = config["model_type"]
    if source == "embeddings.position_embeddings.weight":
        return values[position_offset(config) :]
    if model_type.startswith("gemma") and source.endswith("norm.weight"):
        return values + 1
    if model_type == "gpt2" and source.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return values.T
    if model_type == "gpt_neox" and "query_key_value" in source:
        by_head = values.reshape(config["num_attention_heads"], 3, -1, *values.shape[1:])
        return np.concatenate([by_head[:, part].reshape(-1, *values.shape[1:]) for part in range(3)])
    if model_type in ("llama", "mistral", "mixtral", "granite"):
        if "q_proj" in source:
            return _neighbours(values, config["num_attention_heads"])
        if "k_proj" in source:
            return _neighbours(values, config["num_key_value_heads"])
    return values


def _neighbours(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rotated pairs (i, i + half) of each head become (2i, 2i + 1)."""
    halves = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _rope_tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    parameters = config.get("rope_parameters") or {}
    if parameters.get("rope_type") == "longrope":
        return {
            f"rope_factors_{kind}.weight": np.array(parameters[f"{kind}_factor"], np.float32)
            for kind in ("long", "short")
        }
    if parameters.get("rope_type") != "llama3":
        return {}
    dim = config["head_dim"]
    factor, low, high = parameters["factor"], parameters["low_freq_factor"], parameters["high_freq_factor"]
    original = parameters["original_max_position_embeddings"]
    factors = []
    for frequency in 1 / parameters["rope_theta"] ** (np.arange(0, dim, 2) / dim):
        wavelength = 2 * math.pi / frequency
        smooth = (original / wavelength - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1 if wavelength < original / high else factor if wavelength > original / low else between)
    return {"rope_freqs.weight": np.array(factors, np.float32)}
