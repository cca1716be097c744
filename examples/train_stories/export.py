"""Saves a training run as a model folder in Hugging Face form: what `headrace` and `transformers` load.

python export.py --run run/ --data data/ --out story-model/
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from model import ModelConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer
from train_tokenizer import BEGIN, END

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def model_config(config: ModelConfig, begin: int, end: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": begin,
        "eos_token_id": end,
        "torch_dtype": "float16",
    }


def tokenizer_config(context: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE.read_text(),
    }


def export(checkpoint: Path, tokenizer: Tokenizer, out: Path) -> None:
    """Writes the run's averaged weights in float16, the configuration, the tokenizer and the chat template."""
    state = torch.load(checkpoint)
    config = ModelConfig(**state["config"])
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in state["average"].items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # save_file leaves it for its owner's eyes alone
    write_json(out / "config.json", model_config(config, begin, end))
    write_json(out / "tokenizer_config.json", tokenizer_config(config.max_position_embeddings))
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.08}
    ids = {"bos_token_id": begin, "eos_token_id": [end], "pad_token_id": end}
    write_json(out / "generation_config.json", {**ids, **sampling})
    tokenizer.save(str(out / "tokenizer.json"))


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.data / "tokenizer.json"))
    export(options.run / "checkpoint.pt", tokenizer, options.out)
    print(f"{options.out}: {(options.out / 'model.safetensors').stat().st_size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
