"""What is sent and when: random prompts or a data set's, as a Poisson process or as a trace says.

Traces: Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens) and Mooncake's JSONL (timestamp in milliseconds,
input_length, output_length, hash_ids: prompts share the blocks of 512 tokens that have the same number).
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from headrace.cli.load.client import Job
from headrace.errors import ConfigError

_BLOCK = 512
"""Tokens that one of Mooncake's hash_ids stands for"""

_WORDS = (
    *("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his"),
    *("they", "at", "be", "this", "have", "from", "or", "one", "had", "by", "but", "not", "what", "all", "were", "we"),
    *("when", "your", "can", "said", "there", "use", "an", "each", "which", "she", "do", "how", "their", "if", "will"),
)
"""A token each in most vocabularies, with the blank before it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How requests are made."""

    model: str
    chat: bool = False
    """/v1/chat/completions instead of /v1/completions"""
    words: bool = False
    """Random prompts are words instead of token ids, about one token each; always in chats"""
    vocabulary: int = 2000
    """Random ids lie below this …"""
    lowest_id: int = 300
    """… and from this on: special tokens and bytes lie below"""
    ignore_eos: bool = True
    """Answers go on to their length (headrace and vLLM know that parameter; others may refuse it)"""
    temperature: float | None = 0.0

    @property
    def path(self) -> str:
        """Of the requests."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A line of a trace: when it comes, in seconds, its lengths, and which blocks its prompt has."""

    at: float
    prompt_tokens: int
    tokens: int
    blocks: Sequence[int] = ()


def random_prompt(shape: Shape, rng: random.Random, num_tokens: int) -> str | list[int]:
    """So many tokens that nothing else has."""
    if shape.chat or shape.words:
        return " ".join(rng.choices(_WORDS, k=num_tokens))
    return rng.choices(range(shape.lowest_id, shape.vocabulary), k=num_tokens)


def make_job(shape: Shape, at: float, prompt: str | list[int] | list[dict[str, Any]], tokens: int) -> Job:
    """A streamed request; a list of messages is a chat already."""
    body: dict[str, Any] = {"model": shape.model, "max_tokens": tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if shape.temperature is not None:
        body["temperature"] = shape.temperature
    if shape.ignore_eos:
        body["ignore_eos"] = True
    if not shape.chat:
        body["prompt"] = prompt
    elif isinstance(prompt, str):
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["messages"] = prompt
    return Job(at, json.dumps(body).encode())


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """Times of arrival for ever; an infinite rate is all at once."""
    at = 0.0
    while True:
        yield at
        at += rng.expovariate(rate) if math.isfinite(rate) else 0.0


def read_trace(path: Path) -> list[Arrival]:
    """The requests of a trace, by time from its first on.

    Raises:
        ConfigError: it is in neither form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [*(_of_mooncake(file) if path.suffix == ".jsonl" else _of_azure(file))]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a trace ({type(error).__name__}: {error}); it should be a CSV file of TIMESTAMP,"
            " ContextTokens, GeneratedTokens, or a .jsonl file of timestamp, input_length, output_length"
        ) from error
    if not rows:
        raise ConfigError(f"{path} has no requests; give another trace")
    rows.sort(key=lambda row: row.at)
    begin = rows[0].at
    return [Arrival(row.at - begin, row.prompt_tokens, row.tokens, row.blocks) for row in rows]


def _of_azure(lines: Iterator[str]) -> Iterator[Arrival]:
    for row in csv.DictReader(lines):
        when = datetime.fromisoformat(row["TIMESTAMP"][:26])  # it has seven digits of a second, one too many
        yield Arrival(when.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _of_mooncake(lines: Iterator[str]) -> Iterator[Arrival]:
    for line in filter(str.strip, lines):
        row = json.loads(line)
        blocks = tuple(row.get("hash_ids", ()))
        yield Arrival(row["timestamp"] / 1e3, int(row["input_length"]), int(row["output_length"]), blocks)


def traced_jobs(
    shape: Shape,
    trace: Sequence[Arrival],
    rng: random.Random,
    *,
    time_scale: float = 1.0,
    length_scale: float = 1.0,
    max_context: int | None = None,
) -> Iterator[Job]:
    """The jobs of a trace; its times and lengths are multiplied by the scales.

    With `max_context` longer requests are shortened to it, the answer to half of it at most.
    """
    salt = rng.getrandbits(64)

    @cache
    def block(number: int) -> list[int] | list[str]:
        own = random.Random(f"{salt} {number}")
        length = max(round(_BLOCK * length_scale), 1)
        if shape.chat or shape.words:
            return own.choices(_WORDS, k=length)
        return own.choices(range(shape.lowest_id, shape.vocabulary), k=length)

    for row in trace:
        tokens = max(round(row.tokens * length_scale), 1)
        num_prompt = max(round(row.prompt_tokens * length_scale), 1)
        wanted = num_prompt + tokens
        if max_context is not None:
            tokens = min(tokens, max_context // 2)
            num_prompt = min(num_prompt, max_context - tokens)
        prompt: Any
        if row.blocks:
            shared = list(chain.from_iterable(map(block, row.blocks)))[:num_prompt]
            prompt = " ".join(map(str, shared)) if shape.chat or shape.words else shared
        else:
            prompt = random_prompt(shape, rng, num_prompt)
        job = make_job(shape, row.at * time_scale, prompt, tokens)
        yield replace(job, is_shortened=num_prompt + tokens < wanted)


def read_dataset(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file: each has a `prompt` (text or token ids) or `messages`, and maybe `max_tokens`.

    Raises:
        ConfigError: a row has neither or both.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error}); write one JSON object in each line") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number} is no JSON object ({error})") from error
        if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
            raise ConfigError(f"{path}, line {number} should have either a prompt or messages")
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} has no prompts; write one JSON object in each line")
    return rows


def dataset_job(shape: Shape, at: float, row: dict[str, Any], tokens: int) -> Job:
    """The job of a data set's row; `tokens` is the length of its answer where the row says none.

    Raises:
        ConfigError: the row has messages, and chats are not wanted; or token ids, and they are.
    """
    tokens = row.get("max_tokens", tokens)
    if "messages" in row:
        if not shape.chat:
            raise ConfigError("the data set has messages; send them with --chat")
        return make_job(shape, at, row["messages"], tokens)
    if shape.chat and not isinstance(row["prompt"], str):
        raise ConfigError("the data set has token ids, which no chat takes; leave --chat out")
    return make_job(shape, at, row["prompt"], tokens)
