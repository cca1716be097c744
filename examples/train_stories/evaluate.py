"""Measures a Llama-shaped model folder in bits per character of held-out stories.

    python evaluate.py --stories data/test.jsonl MODEL_FOLDER [MODEL_FOLDER ...]

Bits per character compare models with different tokenizers. Every story is scored by itself, after the model's own
begin token, without the end token. A story longer than the model's context is scored in windows that overlap by half,
so that each token is predicted from at least half a context.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from model import ModelConfig, StoryModel
from prepare_data import read_stories
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional


def load_model(folder: Path) -> tuple[StoryModel, Tokenizer]:
    """The model in float32 and its tokenizer, from a folder in Hugging Face form with tied embeddings."""
    model = StoryModel(ModelConfig.from_folder(folder))
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights.pop("lm_head.weight", None)
    model.load_state_dict(weights)
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def begin_id(tokenizer: Tokenizer) -> int:
    for name in ("<|begin|>", "<s>"):
        found = tokenizer.token_to_id(name)
        if found is not None:
            return found
    raise ValueError("the tokenizer has no begin token; expected <|begin|> or <s>")


@torch.no_grad()
def story_nats(model: StoryModel, token_ids: Sequence[int], num_given: int = 1) -> float:
    """Summed loss in nats of the tokens after the first `num_given`, in windows of the model's context."""
    context = model.config.max_position_embeddings
    nats, scored, start = 0.0, num_given, 0
    while scored < len(token_ids):
        window = torch.tensor([token_ids[start : start + context]])
        losses = functional.cross_entropy(model(window[:, :-1])[0].float(), window[0, 1:], reduction="none")
        nats += losses[scored - start - 1 :].sum().item()
        scored = start + window.shape[1]
        start += context // 2
    return nats


def bits_per_character(model: StoryModel, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    """Mean bits that the model needs for a character of these stories."""
    begin = begin_id(tokenizer)
    nats = 0.0
    for story in stories:
        ids = tokenizer.encode(story, add_special_tokens=False).ids
        nats += story_nats(model, [begin, *ids])
    return nats / math.log(2) / sum(map(len, stories))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="MODEL_FOLDER")
    parser.add_argument("--stories", type=Path, required=True)
    options = parser.parse_args()
    stories = read_stories(options.stories)
    for folder in options.folders:
        model, tokenizer = load_model(folder)
        num_tokens = sum(len(tokenizer.encode(story, add_special_tokens=False).ids) for story in stories)
        result = {
            "model": folder.resolve().name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "characters_per_token": round(sum(map(len, stories)) / num_tokens, 3),
            "bits_per_character": round(bits_per_character(model, tokenizer, stories), 4),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
