"""Writes MODEL_CARD.md and loss.png into a model folder, from the run's log and from measurements made here.

python make_card.py --run run/ --data data/ --model story-model/ --baseline stories260k/
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from evaluate import bits_per_character, load_model, story_nats
from model import StoryModel
from prepare_data import read_stories
from sample import all_samples
from story_requests import RequestMaker
from tokenizers import Tokenizer
from train_tokenizer import BEGIN, STORY, USER

TEMPLATE = Path(__file__).with_name("MODEL_CARD.template.md")


@dataclass(frozen=True)
class Entry:
    """One line of `log.jsonl`."""

    step: int
    tokens: int
    seconds: float
    train_loss: float
    validation_bits: float


def read_log(path: Path) -> list[Entry]:
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()]


def plot(entries: list[Entry], baseline_bits: float, out: Path) -> None:
    """The loss curve: validation bits per character, and the training loss, over millions of tokens."""
    mpl.use("agg")
    tokens = [entry.tokens / 1e6 for entry in entries]
    figure, left = plt.subplots(figsize=(7, 4), dpi=90, layout="constrained")
    left.plot(tokens, [entry.validation_bits for entry in entries], color="tab:blue", label="validation (left)")
    left.axhline(baseline_bits, color="tab:gray", linestyle="--", label="stories260k, same stories (left)")
    left.set(xlabel="million training tokens", ylabel="bits per character", ylim=(0.7, 1.9))
    right = left.twinx()
    right.plot(tokens, [entry.train_loss for entry in entries], color="tab:orange", label="training (right)")
    right.set(ylabel="nats per token", ylim=(0.7 * 2.53, 1.9 * 2.53))  # 3.65 characters a token: the same scale
    left.grid(alpha=0.3)
    lines = [*left.get_lines(), *right.get_lines()]
    left.legend(lines, [line.get_label() for line in lines], frameon=False)
    figure.savefig(out)
    plt.close(figure)


def steering_bits(model: StoryModel, tokenizer: Tokenizer, maker: RequestMaker, stories: list[str]) -> list[float]:
    """Bits per character of the stories, after no request, after the right one, and after another story's."""
    generator = random.Random(0)
    requests = [maker.request(story, generator) for story in stories]
    bits = []
    for shift in (0, 1):
        nats = 0.0
        for index, story in enumerate(stories):
            request = requests[(index + shift) % len(stories)]
            given = tokenizer.encode(f"{BEGIN}{USER}{request}{STORY}", add_special_tokens=False).ids
            told = tokenizer.encode(story, add_special_tokens=False).ids
            nats += story_nats(model, given + told, len(given))
        bits.append(nats / math.log(2) / sum(map(len, stories)))
    return [bits_per_character(model, tokenizer, stories), *bits]


def quoted(text: str) -> str:
    return "\n>\n".join("> " + line for line in text.split("\n"))


def card(options: argparse.Namespace, entries: list[Entry], baseline_bits: float) -> str:
    model, tokenizer = load_model(options.model)
    recipe = torch.load(options.run / "checkpoint.pt")["recipe"]
    sets = {name: read_stories(options.data / f"{name}.jsonl") for name in ("cased", "recased", "validation", "test")}
    maker = RequestMaker(sets["cased"] + sets["recased"])
    alone, right, wrong = steering_bits(model, tokenizer, maker, sets["test"])
    epoch_tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(sets["cased"] + sets["recased"]))
    samples = [f"**{sample.title}**\n\n{quoted(sample.text)}" for sample in all_samples(options.model)]
    values: dict[str, object] = {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "megabytes": f"{(options.model / 'model.safetensors').stat().st_size / 1e6:.1f}",
        "vocabulary": f"{tokenizer.get_vocab_size():,}",
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
        "feed_forward": model.config.intermediate_size,
        "heads": model.config.num_attention_heads,
        "kv_heads": model.config.num_key_value_heads,
        "head_dim": model.config.head_dim,
        "context": model.config.max_position_embeddings,
        "steps": f"{entries[-1].step:,}",
        "tokens": f"{entries[-1].tokens / 1e6:.1f}",
        "minutes": f"{entries[-1].seconds / 60:.0f}",
        "epochs": f"{entries[-1].tokens / epoch_tokens:.1f}",
        "recipe": ", ".join(f"{name} {value}" for name, value in recipe.items()),
        "validation_bits": f"{entries[-1].validation_bits:.3f}",
        "test_bits": f"{alone:.3f}",
        "baseline_bits": f"{baseline_bits:.3f}",
        "request_bits": f"{right:.3f}",
        "wrong_request_bits": f"{wrong:.3f}",
        "samples": "\n\n".join(samples),
    }
    for name, stories in sets.items():
        values[f"{name}_stories"] = f"{len(stories):,}"
        values[f"{name}_characters"] = f"{sum(map(len, stories)):,}"
    return TEMPLATE.read_text().format(**values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "data", "model", "baseline"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    entries = read_log(options.run / "log.jsonl")
    baseline = load_model(options.baseline)
    baseline_validation = bits_per_character(*baseline, read_stories(options.data / "validation.jsonl"))
    plot(entries, baseline_validation, options.model / "loss.png")
    baseline_bits = bits_per_character(*baseline, read_stories(options.data / "test.jsonl"))
    (options.model / "MODEL_CARD.md").write_text(card(options, entries, baseline_bits))


if __name__ == "__main__":
    main()
