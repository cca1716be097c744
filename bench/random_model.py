"""Write a model of a real shape with random weights, to measure speed without a download.

    python bench/random_model.py qwen3-0.6b FOLDER                       a folder in Hugging Face form, bf16
    python bench/random_model.py qwen3-0.6b model.gguf [--codec q4_0]    a GGUF file, f16 or q4_0

Both have a tokenizer that was trained on a little text and fills the rest of the real vocabulary with unused entries.
Speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from headrace.formats.codecs import BF16, CODECS, F16, F32, Codec
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.safetensors import write_safetensors
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.loader import read_spec

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama-tiny": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128, "vocab_size": 4096,
        "rope_theta": 1e4, "tie_word_embeddings": True, "max_position_embeddings": 16384,
    },
    "llama-15m": {
        "model_type": "llama", "hidden_size": 288, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 6, "head_dim": 48, "intermediate_size": 768, "vocab_size": 32000,
        "rope_theta": 1e4, "tie_word_embeddings": True, "max_position_embeddings": 16384,
    },
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
    "llama3-8b": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256,
        "rope_theta": 5e5, "tie_word_embeddings": False, "max_position_embeddings": 8192,
    },
}  # fmt: skip
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
BEGIN, END = "<|begin|>", "<|end|>"
_LEARNED_TOKENS = 4096
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
"""Kinds of token in a GGUF vocabulary"""


class RandomValues:
    """Tensors cut from one stretch of random values, so that a model of any size needs little memory to write."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._data: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def tensor(self, name: str, shape: tuple[int, ...], codec: Codec) -> Tensor:
        """N(0, 0.02) for a matrix, ones for a vector (in float32, whatever the codec, where that is a block format)."""
        if len(shape) == 1:
            plain = codec if codec.block_size == 1 else F32
            return _encoded(name, np.ones(shape, np.float32), plain)
        count = math.prod(shape)
        nbytes = codec.row_bytes(count)
        data = self._data.get(codec.name)
        if data is None or len(data) < nbytes:
            some = self._random.standard_normal(1 << 22, np.float32) * np.float32(0.02)
            data = np.resize(_encoded(name, some, codec).data, nbytes)
            self._data[codec.name] = data
        return Tensor(name, codec, shape, data[:nbytes].reshape(shape[0], -1))


def write_folder(shape: str, folder: Path) -> None:
    """A folder with config.json, model.safetensors in bf16, and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    values, tokenizer = RandomValues(), learned_tokenizer(SHAPES[shape]["vocab_size"])
    _write_config(shape, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END, "pad_token": END}
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    tensors = {
        (theirs := published_name(name)): values.tensor(theirs, dimensions, BF16)
        for name, dimensions in _weights(shape, folder).items()
    }
    write_safetensors(folder / "model.safetensors", tensors)


def write_file(shape: str, path: Path, codec: Codec) -> None:
    """A GGUF file with every matrix in that codec."""
    values = RandomValues()
    config_folder = path.parent / f".{path.name}.config"
    config_folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_config(shape, config_folder)
        weights = _weights(shape, config_folder)
    finally:
        for file in config_folder.iterdir():
            file.unlink()
        config_folder.rmdir()
    tensors = {
        (theirs := gguf_name(name)): values.tensor(theirs, dimensions, F32 if len(dimensions) == 1 else codec)
        for name, dimensions in weights.items()
    }
    write_gguf(path, gguf_metadata(shape), tensors)


def gguf_metadata(shape: str) -> dict[str, Any]:
    """What a GGUF file says about a model of that shape; no rope scaling, which speed does not depend on."""
    config = SHAPES[shape]
    arch, size = config["model_type"], config["vocab_size"]
    model = json.loads(learned_tokenizer(size).to_str())
    special = {token["content"]: token["id"] for token in model["added_tokens"]}
    ids = {**model["model"]["vocab"], **special}
    tokens = sorted(ids, key=lambda token: ids[token])
    kinds = [_CONTROL if token in (BEGIN, END) else _UNUSED if token in special else _NORMAL for token in tokens]
    return {
        "general.architecture": arch,
        "general.name": f"{shape} with random weights",
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.key_length": config["head_dim"],
        f"{arch}.attention.value_length": config["head_dim"],
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{arch}.rope.freq_base": config["rope_theta"],
        f"{arch}.rope.dimension_count": config["head_dim"],
        f"{arch}.vocab_size": size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2" if arch == "qwen3" else "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": special[BEGIN],
        "tokenizer.ggml.eos_token_id": special[END],
        "tokenizer.ggml.add_bos_token": False,
    }


def learned_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of that many tokens, of which those that it could not learn are never used."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_LEARNED_TOKENS, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_text(), trainer)
    tokenizer.add_special_tokens([f"[unused {i}]" for i in range(vocab_size - tokenizer.get_vocab_size())])
    return tokenizer


def _text() -> list[str]:
    """Some text that is on every machine: part of Python's own library."""
    return [file.read_text("utf-8") for file in sorted(Path(json.__file__).parent.parent.glob("[a-d]*.py"))]


def published_name(name: str) -> str:
    """The name of a canonical weight in a Llama-like folder."""
    for ours, theirs in (
        ("embed.weight", "model.embed_tokens.weight"),
        ("head.weight", "lm_head.weight"),
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


def gguf_name(name: str) -> str:
    """The name of a canonical weight in a GGUF file."""
    for ours, theirs in (
        ("layers.", "blk."),
        ("attention_norm", "attn_norm"),
        ("mlp_norm", "ffn_norm"),
        (".q_norm", ".attn_q_norm"),
        (".k_norm", ".attn_k_norm"),
        *((f".{part}.", f".attn_{part}.") for part in "qkv"),
        (".o.", ".attn_output."),
        *((f".{part}.", f".ffn_{part}.") for part in ("gate", "up", "down")),
    ):
        name = name.replace(ours, theirs)
    top = {"embed.weight": "token_embd.weight", "head.weight": "output.weight", "norm.weight": "output_norm.weight"}
    return top.get(name, name)


def _write_config(shape: str, folder: Path) -> None:
    config = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "torch_dtype": "bfloat16", **SHAPES[shape]}
    ids = {"architectures": [ARCHITECTURES[config["model_type"]]], "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps({**ids, **config}, indent=2))


def _weights(shape: str, folder: Path) -> dict[str, tuple[int, ...]]:
    return dict(read_spec(ModelFiles(shape, folder=folder)).expected_weights())


def _encoded(name: str, values: np.ndarray[Any, np.dtype[np.float32]], codec: Codec) -> Tensor:
    assert codec.encode is not None
    return Tensor(name, codec, values.shape, codec.encode(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("target", type=Path)
    parser.add_argument("--codec", choices=("f16", "q4_0"), default=F16.name, help="of a GGUF file's matrices")
    options = parser.parse_args()
    if options.target.suffix == ".gguf":
        write_file(options.shape, options.target, CODECS[options.codec])
    else:
        write_folder(options.shape, options.target)


if __name__ == "__main__":
    main()
