"""Writes samples of a story model, as they come: plain and chat, greedy and with its sampling defaults.

python sample.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from evaluate import load_model
from model import StoryModel
from tokenizers import Tokenizer
from train_tokenizer import BEGIN, END, STORY, USER


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token."""

    temperature: float
    top_k: int = 50
    top_p: float = 0.95


GREEDY = Sampling(temperature=0.0)
DEFAULT = Sampling(temperature=0.8)
PLAIN_PROMPTS = ("Once upon a time", "One day, a little boy named Max")
REQUESTS = ("Tell me a story about a cat.", "Once upon a time there was a brave dog", "hello")
FOLLOW_UPS = ("What happened next?", "Tell me a story about a boat.")


@torch.no_grad()
def continuation(model: StoryModel, token_ids: Sequence[int], end: int, sampling: Sampling, seed: int) -> list[int]:
    """The ids that the model adds to `token_ids`, up to its end token (left out) or the end of its context."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(token_ids)
    while len(ids) < model.config.max_position_embeddings:
        following = draw(model(torch.tensor([ids]))[0, -1], sampling, generator)
        if following == end:
            break
        ids.append(following)
    return ids[len(token_ids) :]


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    values, candidates = (logits / sampling.temperature).topk(min(sampling.top_k, logits.shape[-1]))
    shares = values.softmax(dim=-1)
    shares = shares.where(shares.cumsum(dim=-1) - shares < sampling.top_p, 0.0)
    return int(candidates[torch.multinomial(shares, 1, generator=generator)])


def complete(model: StoryModel, tokenizer: Tokenizer, prompt: str, sampling: Sampling, seed: int = 0) -> str:
    """What the model writes after `prompt`, which may hold special tokens; `<|begin|>` is put in front."""
    ids = tokenizer.encode(BEGIN + prompt, add_special_tokens=False).ids
    return tokenizer.decode(continuation(model, ids, tokenizer.token_to_id(END), sampling, seed))


def chat_samples(model: StoryModel, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Titles and texts of chats of one and of two turns."""
    samples = []
    for request in REQUESTS:
        for name, sampling in (("greedy", GREEDY), ("temperature 0.8", DEFAULT)):
            story = complete(model, tokenizer, f"{USER}{request}{STORY}", sampling)
            samples.append((f"Chat, {name}: “{request}”", story))
    for follow_up in FOLLOW_UPS:
        history = f"{USER}{REQUESTS[0]}{STORY}{samples[1][1]}{END}{USER}{follow_up}{STORY}"
        title = f"Chat, temperature 0.8, second turn after “{REQUESTS[0]}” above: “{follow_up}”"
        samples.append((title, complete(model, tokenizer, history, DEFAULT)))
    return samples


def all_samples(model: StoryModel, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    samples = []
    for prompt in PLAIN_PROMPTS:
        for name, sampling in (("greedy", GREEDY), ("temperature 0.8", DEFAULT)):
            text = prompt + complete(model, tokenizer, prompt, sampling)
            samples.append((f"Plain, {name}: “{prompt}”", text))
    return samples + chat_samples(model, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    options = parser.parse_args()
    for title, text in all_samples(*load_model(options.folder)):
        print(f"## {title}\n\n{text}\n")


if __name__ == "__main__":
    main()
