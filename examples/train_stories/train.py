"""Trains the story model on the CPU; stops and goes on at any time.

    python train.py --data data/ --out run/ --steps 3000
    python train.py --data data/ --out run/ --steps 3000 --resume

Every `--measure-every` steps the run measures the validation loss, adds a line to `log.jsonl` and writes
`checkpoint.pt`. Which samples a step sees depends on the seed and the step's number alone, so a resumed run goes on
exactly where the checkpoint was. The learning rate rises, stays, and falls in the last `--decay-steps` (Hu et al.
2024, WSD), so that a run can be made longer from `steady.pt`, its state before the fall. Matrices inside the layers
are trained with Muon (Jordan et al. 2024), the rest with AdamW. The weights that are measured and exported are an
exponential moving average.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from evaluate import bits_per_character
from model import ModelConfig, StoryModel
from prepare_data import read_stories
from samples import IGNORED, batches, collate, epoch_samples
from story_requests import RequestMaker
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the weights become, apart from the stories."""

    steps: int = 3000
    warmup_steps: int = 50
    decay_steps: int = 1200
    tokens_per_batch: int = 3072
    matrix_learning_rate: float = 0.02
    learning_rate: float = 0.003
    weight_decay: float = 0.05
    dropout: float = 0.1
    average: float = 0.998
    seed: int = 1

    def schedule(self, step: int) -> float:
        """The share of the full learning rate at this step (counted from 0)."""
        rise = (step + 1) / self.warmup_steps
        fall = (self.steps - step) / self.decay_steps
        return max(0.0, min(1.0, rise, fall))


class Optimizers:
    """Muon for the layers' matrices, AdamW for embeddings and norms, on one schedule."""

    def __init__(self, model: StoryModel, recipe: Recipe) -> None:
        in_layers = [p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name]
        matrices = {id(parameter) for parameter in in_layers}
        others = [p for p in model.parameters() if id(p) not in matrices]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                in_layers, lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="original"
            ),
            torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.full_rates = [recipe.matrix_learning_rate, recipe.learning_rate]

    def step(self, share: float) -> None:
        for optimizer, full_rate in zip(self.all, self.full_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * full_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, object]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def restore(self, states: Sequence[dict[str, object]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


class Run:
    """A training run: the model, its moving average, the optimizers, and how far they have come."""

    def __init__(self, config: ModelConfig, recipe: Recipe, stories: Sequence[str], tokenizer: Tokenizer) -> None:
        torch.manual_seed(recipe.seed)
        self.config, self.recipe, self.stories, self.tokenizer = config, recipe, stories, tokenizer
        self.model = StoryModel(config, recipe.dropout)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizers = Optimizers(self.model, recipe)
        self.maker = RequestMaker(stories)
        self.step = self.tokens = 0
        self.seconds = 0.0

    def epoch_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = random.Random(f"{self.recipe.seed} {epoch}")
        longest = self.config.max_position_embeddings
        samples = epoch_samples(self.stories, self.maker, self.tokenizer, longest, generator)
        return map(collate, batches(samples, self.recipe.tokens_per_batch, generator))

    def steps(self) -> Iterator[float]:
        """Trains to the recipe's last step; gives each step's mean loss in nats per learned token."""
        first, epoch = 0, 0
        while self.step < self.recipe.steps:
            for inputs, labels in self.epoch_batches(epoch):
                if first >= self.step and self.step < self.recipe.steps:
                    yield self.train_step(inputs, labels)
                first += 1
            epoch += 1

    def train_step(self, inputs: Tensor, labels: Tensor) -> float:
        started = time.monotonic()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(inputs)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(self.recipe.schedule(self.step))
        keep = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        self.follow(keep)
        self.step += 1
        self.tokens += inputs.numel()
        self.seconds += time.monotonic() - started
        return loss.item()

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        for average, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(parameter, 1 - keep)

    def save(self, path: Path) -> None:
        """Writes the checkpoint beside its place first, so that a killed run leaves the old one whole."""
        state = {
            "config": asdict(self.config),
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": self.optimizers.state(),
            "progress": (self.step, self.tokens, self.seconds),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        state = torch.load(path)
        if state["config"] != asdict(self.config):
            sys.exit(f"{path} was trained with other sizes: {state['config']}. Give the same sizes, or drop --resume.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizers.restore(state["optimizers"])
        self.step, self.tokens, self.seconds = state["progress"]


def train(run: Run, out: Path, validation: Sequence[str], every: int) -> None:
    """Trains, measuring every `every` steps; writes `log.jsonl`, `checkpoint.pt` and, before the fall, `steady.pt`."""
    losses: list[float] = []
    for loss in run.steps():
        losses.append(loss)
        if not math.isfinite(loss):
            sys.exit(
                f"the loss at step {run.step} is {loss}: resume from {out}/checkpoint.pt with a lower learning rate"
            )
        is_last = run.step == run.recipe.steps
        if run.step % every == 0 or is_last:
            entry = {
                "step": run.step,
                "tokens": run.tokens,
                "seconds": round(run.seconds, 1),
                "train_loss": round(sum(losses) / len(losses), 4),
                "validation_bits": round(bits_per_character(run.average, run.tokenizer, validation), 4),
            }
            losses.clear()
            print(json.dumps(entry), flush=True)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            run.save(out / "checkpoint.pt")
        if run.step == run.recipe.steps - run.recipe.decay_steps:
            run.save(out / "steady.pt")


def continue_log(log: Path, step: int) -> None:
    """Drops what a killed run wrote after its last checkpoint."""
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
    log.write_text("".join(line + "\n" for line in lines))


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: giving them back and faulting them in again took half of each step."""
    if sys.platform == "linux":
        trim_threshold, mmap_max = -1, -4  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)


def add_fields(parser: argparse.ArgumentParser, kind: type[ModelConfig] | type[Recipe]) -> None:
    """One option for each field, with the field's default."""
    for field in fields(kind):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what prepare_data.py and train_tokenizer.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--extra", type=Path, action="append", default=[], help="a .jsonl file of more stories")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure-every", type=int, default=100)
    add_fields(parser, ModelConfig)
    add_fields(parser, Recipe)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(options.data / "tokenizer.json"))
    options.vocab_size = tokenizer.get_vocab_size()
    config = ModelConfig(**{field.name: getattr(options, field.name) for field in fields(ModelConfig)})
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    files = [options.data / "cased.jsonl", options.data / "recased.jsonl", *options.extra]
    run = Run(config, recipe, [story for file in files for story in read_stories(file)], tokenizer)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.resume:
        run.restore(options.out / "checkpoint.pt")
        continue_log(options.out / "log.jsonl", run.step)
    print(f"{sum(p.numel() for p in run.model.parameters()):,} parameters, from step {run.step} to {recipe.steps}")
    train(run, options.out, read_stories(options.data / "validation.jsonl"), options.measure_every)


if __name__ == "__main__":
    main()
