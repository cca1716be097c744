"""Measures headrace: one JSON job a line on standard input, one JSON answer a line on standard output."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from headrace import LLM, EngineConfig, SamplingParams
from headrace.types import Chunk

SETTLED_TOKENS = 2


def main() -> None:
    setup = json.loads(sys.argv[1])
    started = time.perf_counter()
    config = EngineConfig(  # random weights soon repeat themselves, and the peers do not guess either
        threads=setup["threads"], max_context=setup["context"], prefix_cache=False, speculation="off"
    )
    llm = LLM(setup["model"], config)
    load_seconds = time.perf_counter() - started
    for line in sys.stdin:
        print(json.dumps({"load_seconds": load_seconds, **measure(llm, json.loads(line))}), flush=True)


def measure(llm: LLM, job: dict[str, Any]) -> dict[str, float]:
    if job["kind"] == "start":
        next(open_stream(llm, job["context"], 1))
        return {}
    time_of(llm, job)  # once to warm up: the system hands out the cache's memory as it is first written
    return time_of(llm, job)


def time_of(llm: LLM, job: dict[str, Any]) -> dict[str, float]:
    context, tokens, batch = job["context"], job["tokens"], job["batch"]
    if job["kind"] == "prefill":
        stream = open_stream(llm, context, 1)
        started = time.perf_counter()
        next(stream)
        return {"value": context / (time.perf_counter() - started)}
    streams = [open_stream(llm, context, tokens + batch + SETTLED_TOKENS) for _ in range(batch)]
    advance(streams, SETTLED_TOKENS)  # they begin one by one, so some are ahead by now
    before, started = llm.stats().generation_tokens, time.perf_counter()
    advance(streams, tokens)
    seconds = time.perf_counter() - started
    return {"value": (llm.stats().generation_tokens - before) / seconds}


def open_stream(llm: LLM, context: int, tokens: int) -> Iterator[Chunk]:
    prompt = random.choices(range(300, 4000), k=context)  # nothing is shared between sequences
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return llm.stream(prompt, params)


def advance(streams: list[Iterator[Chunk]], tokens: int) -> None:
    for _ in range(tokens):
        for stream in streams:
            next(stream)


if __name__ == "__main__":
    main()
