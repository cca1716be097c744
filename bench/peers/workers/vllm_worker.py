"""Measures vLLM's CPU build: one JSON job a line on standard input, one JSON answer a line on standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    setup = json.loads(sys.argv[1])
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="3", VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1"
    )
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine logs is no answer
    import torch
    from vllm import LLM

    torch.set_num_threads(setup["threads"])
    dtype, _, mode = setup["settings"].partition(" ")
    started = time.perf_counter()
    llm = LLM(
        setup["model"],
        dtype=dtype,
        max_model_len=setup["context"],
        max_num_seqs=32,
        max_num_batched_tokens=max(4096, setup["context"]),
        enforce_eager=mode == "eager",
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    load_seconds = time.perf_counter() - started
    for line in sys.stdin:
        answer = {"load_seconds": load_seconds, **measure(llm, json.loads(line))}
        print(json.dumps(answer), file=answers, flush=True)


def measure(llm: Any, job: dict[str, Any]) -> dict[str, float]:
    import numpy as np
    from vllm import SamplingParams

    context, tokens, batch = job["context"], job["tokens"], job["batch"]

    def timed(count: int) -> float:
        ids = np.random.default_rng().integers(300, 4000, (batch, context))
        prompts = [{"prompt_token_ids": row.tolist()} for row in ids]
        params = SamplingParams(temperature=0, max_tokens=count, min_tokens=count, ignore_eos=True)
        started = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started

    if job["kind"] == "start":
        timed(1)
        return {}
    first = timed(1) if job["kind"] == "decode" else 0.0
    if job["kind"] == "prefill":
        return {"value": context / timed(1)}
    return {"value": batch * tokens / (timed(tokens + 1) - first)}


if __name__ == "__main__":
    main()
