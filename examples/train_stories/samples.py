"""Turns stories into training samples: plain stories, answered requests, and conversations of two turns."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from story_requests import ANOTHER, NEXT, RequestMaker
from tokenizers import Tokenizer
from torch import Tensor
from train_tokenizer import BEGIN, END, STORY, USER

IGNORED = -100
LENGTH_STEP = 16
PLAIN_SHARE, REQUEST_SHARE, ANOTHER_SHARE = 0.45, 0.40, 0.08  # the rest goes on after "What happened next?"


@dataclass(frozen=True)
class Part:
    """A stretch of a sample. The loss is taken on what the model has to write, not on what it is told."""

    text: str
    is_learned: bool


@dataclass(frozen=True)
class Sample:
    token_ids: list[int]
    labels: list[int]


def turn(request: str, story: str, *, is_whole: bool = True) -> list[Part]:
    """One exchange. The end of a story that was cut is shown but not learned."""
    return [Part(f"{USER}{request}{STORY}", False), Part(story, True), Part(END, is_whole)]


def sample_parts(story: str, other: str, maker: RequestMaker, generator: random.Random) -> list[Part]:
    """One sample in one of the four forms, drawn by their shares."""
    form = generator.random()
    if form < PLAIN_SHARE:
        return [Part(story, True), Part(END, True)]
    request = maker.request(story, generator)
    paragraphs = re.split(r"(?<=[.!?\"])\n", story)
    if form < PLAIN_SHARE + REQUEST_SHARE or len(paragraphs) < 2:
        return turn(request, story)
    if form < PLAIN_SHARE + REQUEST_SHARE + ANOTHER_SHARE:
        again = generator.choice(ANOTHER) if generator.random() < 0.4 else maker.request(other, generator)
        return turn(request, story) + turn(again, other)
    cut = generator.randint(1, len(paragraphs) - 1)
    first, rest = "\n".join(paragraphs[:cut]), "\n".join(paragraphs[cut:])
    return turn(request, first, is_whole=False) + turn(generator.choice(NEXT), rest)


def encode(parts_of_samples: Sequence[Sequence[Part]], tokenizer: Tokenizer, max_length: int) -> list[Sample]:
    """Token ids and labels, `<|begin|>` first, cut at `max_length` tokens."""
    texts = [part.text for parts in parts_of_samples for part in parts]
    encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    begin = tokenizer.token_to_id(BEGIN)
    samples = []
    for parts in parts_of_samples:
        token_ids, labels = [begin], [IGNORED]
        for part in parts:
            ids = next(encodings).ids
            token_ids += ids
            labels += ids if part.is_learned else [IGNORED] * len(ids)
        samples.append(Sample(token_ids[:max_length], labels[:max_length]))
    return samples


def epoch_samples(
    stories: Sequence[str], maker: RequestMaker, tokenizer: Tokenizer, max_length: int, generator: random.Random
) -> list[Sample]:
    """Each story once, in a form drawn for this epoch."""
    others = generator.sample(stories, len(stories))
    parts = [sample_parts(story, other, maker, generator) for story, other in zip(stories, others, strict=True)]
    return encode(parts, tokenizer, max_length)


def padded_length(sample: Sample) -> int:
    """The sample's length rounded up, so that an epoch has a few dozen shapes and not hundreds: each costs memory."""
    return -(-len(sample.token_ids) // LENGTH_STEP) * LENGTH_STEP


def batches(samples: Sequence[Sample], tokens_per_batch: int, generator: random.Random) -> Iterator[list[Sample]]:
    """Samples of one padded length together, at most `tokens_per_batch` tokens with their padding, in random order."""
    by_length: dict[int, list[Sample]] = {}
    for sample in samples:
        by_length.setdefault(padded_length(sample), []).append(sample)
    found = []
    for length, group in by_length.items():
        generator.shuffle(group)
        rows = max(1, tokens_per_batch // length)
        found += [group[start : start + rows] for start in range(0, len(group), rows)]
    generator.shuffle(found)
    return iter(found)


def collate(batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Inputs and the labels one token ahead, both [rows, padded length]; labels of padding are ignored."""
    length = max(map(padded_length, batch))
    inputs = torch.zeros((len(batch), length), dtype=torch.long)
    labels = torch.full((len(batch), length), IGNORED)
    for row, sample in enumerate(batch):
        inputs[row, : len(sample.token_ids)] = torch.tensor(sample.token_ids)
        labels[row, : len(sample.labels) - 1] = torch.tensor(sample.labels[1:])
    return inputs, labels
