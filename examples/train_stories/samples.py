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


def batches(samples: Sequence[Sample], tokens_per_batch: int, generator: random.Random) -> Iterator[list[Sample]]:
    """Samples of like length together, at most `tokens_per_batch` tokens with their padding, in random order."""
    ordered = sorted(samples, key=lambda sample: len(sample.token_ids) + generator.random() * 24)
    found: list[list[Sample]] = []
    current: list[Sample] = []
    longest = 0
    for sample in ordered:
        longest = max(longest, len(sample.token_ids))
        if current and longest * (len(current) + 1) > tokens_per_batch:
            found.append(current)
            current, longest = [], len(sample.token_ids)
        current.append(sample)
    generator.shuffle(found := [*found, current])
    return iter(found)


def collate(batch: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Inputs and the labels one token ahead, both [rows, length - 1]; labels of padding are ignored."""
    longest = max(len(sample.token_ids) for sample in batch)
    inputs = torch.zeros((len(batch), longest), dtype=torch.long)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, sample in enumerate(batch):
        inputs[row, : len(sample.token_ids)] = torch.tensor(sample.token_ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    return inputs[:, :-1], labels[:, 1:]
