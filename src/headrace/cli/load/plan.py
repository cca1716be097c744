"""What a run of load sends and when, as its options say."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.cli.load.client import Job
from headrace.cli.load.jobs import (
    Shape,
    dataset_job,
    make_job,
    poisson,
    random_prompt,
    read_dataset,
    read_trace,
    traced_jobs,
)
from headrace.errors import ConfigError

_OF_WORDS = 7 / 8
"""Of a context, what prompts of so many words fill at most: some words are two tokens, and chats have a template"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests as a Poisson process, or as a trace has them; see the options of `headrace bench serve`."""

    rate: float
    trace: Path | None
    time_scale: float
    length_scale: float
    max_context: int | None
    dataset: Path | None
    requests: int | None
    seconds: float | None
    input_tokens: int
    output_tokens: int
    chat: bool
    words: bool
    vocabulary: int
    stop_at_eos: bool
    temperature: float
    seed: int

    def shape(self, model: str) -> Shape:
        """How its requests to this model are made."""
        return Shape(
            model=model,
            chat=self.chat,
            words=self.words,
            vocabulary=self.vocabulary,
            ignore_eos=not self.stop_at_eos,
            temperature=self.temperature,
        )

    def jobs(self, shape: Shape, served_context: int | None) -> list[Job]:
        """All requests, at least one.

        Args:
            shape: How they are made.
            served_context: What the server says that its context is; a trace's longer requests are cut to it.

        Raises:
            ConfigError: a file cannot be read, or is not for such requests; or they have no end.
        """
        rng = random.Random(self.seed)
        endless = self._traced(shape, rng, served_context) if self.trace is not None else self._drawn(shape, rng)
        within = itertools.takewhile(lambda job: self.seconds is None or job.at < self.seconds, endless)
        return list(itertools.islice(within, self._count))

    @property
    def _count(self) -> int | None:
        """The most requests; None where the trace's length or the time limits them."""
        return self.requests or (100 if self.trace is None and self.seconds is None else None)

    def _traced(self, shape: Shape, rng: random.Random, served_context: int | None) -> Iterator[Job]:
        assert self.trace is not None
        context = self.max_context
        if context is None and served_context is not None:
            context = max(int(served_context * (_OF_WORDS if self.chat or self.words else 1)), 2)
        return traced_jobs(
            shape,
            read_trace(self.trace),
            rng,
            time_scale=self.time_scale,
            length_scale=self.length_scale,
            max_context=context,
        )

    def _drawn(self, shape: Shape, rng: random.Random) -> Iterator[Job]:
        if self.seconds is not None and self.requests is None and math.isinf(self.rate):
            raise ConfigError("all at once has no end within a time; give --rate or --requests")
        rows = None if self.dataset is None else itertools.cycle(read_dataset(self.dataset))
        for at in poisson(self.rate, rng):
            if rows is None:
                yield make_job(shape, at, random_prompt(shape, rng, self.input_tokens), self.output_tokens)
            else:
                yield dataset_job(shape, at, next(rows), self.output_tokens)
