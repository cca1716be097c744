"""Write a model of a real shape with random weights, to measure speed without a download.

    python bench/random_model.py qwen3-0.6b FOLDER

The folder has config.json and model.safetensors in bf16, and no tokenizer: it runs on token ids. Speed does not depend
on the values.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from headrace.formats.codecs import BF16
from headrace.formats.safetensors import write_safetensors
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.loader import read_spec

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHAPES: dict[str, dict[str, object]] = {
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
        "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 40960,
    },
    "llama3.2-1b": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256,
        "rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
}  # fmt: skip


def published_names(name: str) -> str:
    """The name of a canonical weight in a Llama-like folder."""
    for ours, theirs in (
        ("embed.weight", "model.embed_tokens.weight"),
        ("layers.", "model.layers."),
        ("attention_norm", "input_layernorm"),
        ("mlp_norm", "post_attention_layernorm"),
        (".q_norm", ".self_attn.q_norm"),
        (".k_norm", ".self_attn.k_norm"),
        *((f".{part}.", f".self_attn.{part}_proj.") for part in "qkvo"),
        *((f".{part}.", f".mlp.{part}_proj.") for part in ("gate", "up", "down")),
    ):
        name = name.replace(ours, theirs)
    return "model.norm.weight" if name == "norm.weight" else name


def random_tensor(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """N(0, 0.02) in bf16, and ones for norms."""
    assert BF16.encode is not None
    if len(shape) == 1:
        values = np.ones(shape, np.float32)
    else:
        some = (0.02 * rng.standard_normal(1 << 20)).astype(np.float32)
        values = np.resize(some, math.prod(shape)).reshape(shape)
    return Tensor(name, BF16, shape, BF16.encode(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = {"rms_norm_eps": 1e-6, "hidden_act": "silu", **SHAPES[options.shape]}
    (options.folder / "config.json").write_text(json.dumps(config, indent=2))
    spec = read_spec(ModelFiles(options.shape, folder=options.folder))
    rng = np.random.default_rng(0)
    tensors = {
        (theirs := published_names(name)): random_tensor(theirs, shape, rng)
        for name, shape in spec.expected_weights().items()
    }
    write_safetensors(options.folder / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
