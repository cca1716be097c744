"""Random arrivals, cancellations and long prompts for a while; memory must stay flat and no block may be lost.

    python bench/soak.py --minutes 10 [--model stories]

Prints a line every ten seconds and, at the end, one JSON object. Exit status 1 when memory grew by more than 5 % (and
8 MiB) after the first fifth of the time, a block is held at the end, or an answer differs from the first one of its
request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time

import psutil

from headrace import AsyncLLM, EngineConfig, HeadraceError, SamplingParams

WORDS = "once upon a time there was little girl dog who loved to play in the park with her big red ball".split()  # noqa: SIM905


def a_prompt(rng: random.Random, longest: int) -> str:
    length = rng.choice([3, 10, 40, longest])
    return "Once upon a time " + " ".join(rng.choice(WORDS) for _ in range(length))


async def one_request(
    model: AsyncLLM, rng: random.Random, known: dict[tuple[str, int], str], counts: dict[str, int]
) -> None:
    # Half the requests come from a small set, so that prefixes are shared and answers can be compared.
    seed = rng.randrange(40)
    prompt = a_prompt(random.Random(seed) if rng.random() < 0.5 else rng, longest=150)
    params = SamplingParams(seed=seed, temperature=(seed % 3) * 0.5, max_tokens=100, n=1 + seed % 2)
    try:
        stream = model.submit(prompt, params)
    except HeadraceError as error:
        counts["refused"] += 1
        print(error, file=sys.stderr)
        return
    leave_after = rng.randrange(60) if rng.random() < 0.3 else None
    texts = ["", ""]
    async with stream:
        received = 0
        async for chunk in stream:
            texts[chunk.index] += chunk.text
            received += 1
            if received == leave_after:
                counts["cancelled"] += 1
                return
    counts["finished"] += 1
    text = "\0".join(texts)
    if known.setdefault((prompt, seed), text) != text:
        counts["different"] += 1
    if len(known) > 500:
        known.pop(next(iter(known)))


async def soak(model_name: str, minutes: float, seed: int) -> int:
    rng = random.Random(seed)
    counts = {"finished": 0, "cancelled": 0, "refused": 0, "different": 0}
    known: dict[tuple[str, int], str] = {}
    process = psutil.Process()
    memory: list[float] = []
    # A small cache and batch, so that eviction and preemption happen all the time.
    model = AsyncLLM(model_name, EngineConfig(kv_memory=3 << 19, max_sequences=24, max_batch_tokens=128))
    tasks: set[asyncio.Task[None]] = set()
    started = last = time.monotonic()
    while time.monotonic() - started < minutes * 60:
        if len(tasks) < 60:
            task = asyncio.create_task(one_request(model, rng, known, counts))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(rng.expovariate(150))
        if time.monotonic() - last > 10:
            last = time.monotonic()
            memory.append(process.memory_info().rss / 2**20)
            stats = model.stats()
            print(
                f"{last - started:5.0f} s  {memory[-1]:7.1f} MiB  {counts}  running {stats.num_running}"
                f"  used {stats.kv_blocks_used}  preemptions {stats.num_preemptions}",
                file=sys.stderr,
            )
    await asyncio.gather(*tasks)
    stats = model.stats()
    await model.close()
    settled = memory[len(memory) // 5] if memory else 0.0
    grew = max(memory[len(memory) // 5 :], default=0.0) - settled
    is_flat = grew <= max(0.05 * settled, 8)
    result = {
        "minutes": minutes,
        **counts,
        "tokens": stats.generation_tokens,
        "preemptions": stats.num_preemptions,
        "prefix_hit_tokens": stats.prefix_hits,
        "memory_mib_settled": round(settled, 1),
        "memory_mib_grew": round(grew, 1),
        "blocks_held_at_end": stats.kv_blocks_used,
    }
    print(json.dumps(result))
    return 0 if is_flat and stats.kv_blocks_used == 0 and counts["different"] == 0 else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(asyncio.run(soak(options.model, options.minutes, options.seed)))


if __name__ == "__main__":
    main()
