"""Measures OpenVINO GenAI: one JSON job a line on standard input, one JSON answer a line on standard output.

Rates come from wall time between tokens (one sequence: a streamer's clock; several: steps, or the time less that of
one token), never from the pipeline's own per-token figures, which count a batch as one.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai


def main() -> None:
    setup = json.loads(sys.argv[1])
    started = time.perf_counter()
    properties = {"INFERENCE_NUM_THREADS": setup["threads"]}
    batched = setup["settings"] == "continuous batching"
    if batched:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        pipeline = genai.ContinuousBatchingPipeline(setup["model"], scheduler, "CPU", properties)
    else:
        pipeline = genai.LLMPipeline(setup["model"], "CPU", {**properties, "ATTENTION_BACKEND": "SDPA"})
    load_seconds = time.perf_counter() - started
    for line in sys.stdin:
        measure = batches if batched else sequences
        print(json.dumps({"load_seconds": load_seconds, **measure(pipeline, json.loads(line))}), flush=True)


def config(tokens: int) -> Any:
    made = genai.GenerationConfig()
    made.max_new_tokens = made.min_new_tokens = tokens
    made.ignore_eos = True
    made.do_sample = False
    return made


def prompts(batch: int, length: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng().integers(300, 4000, (batch, length), dtype=np.int64)


def sequences(pipeline: Any, job: dict[str, Any]) -> dict[str, float]:
    context, tokens, batch = job["context"], job["tokens"], job["batch"]

    def timed(count: int) -> tuple[float, list[float]]:
        times: list[float] = []

        def note(_: str) -> Any:
            times.append(time.perf_counter())
            return genai.StreamingStatus.RUNNING

        ids = ov.Tensor(prompts(batch, context))
        started = time.perf_counter()
        result = pipeline.generate(ids, config(count), note) if batch == 1 else pipeline.generate(ids, config(count))
        seconds = time.perf_counter() - started
        assert len(result.tokens) == batch
        assert all(len(row) == count for row in result.tokens)
        return seconds, times

    if job["kind"] == "start":
        timed(1)
        return {}
    pipeline.generate(ov.Tensor(prompts(1, 32)), config(4))
    if job["kind"] == "prefill":
        return {"value": context / timed(1)[0]}
    first = timed(1)[0]
    return {"value": batch * tokens / (timed(tokens + 1)[0] - first)}


def batches(pipeline: Any, job: dict[str, Any]) -> dict[str, float]:
    tokens, batch = job["tokens"], job["batch"]
    for warm in (True, False):
        count = 2 if warm else tokens + 1
        ids = prompts(batch, job["context"])
        handles = [  # a request whose handle is let go is dropped
            pipeline.add_request(2 * number + warm, ov.Tensor(ids[number : number + 1]), config(count))
            for number in range(batch)
        ]
        times = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
            times.append(time.perf_counter())
        assert all(len(handle.read_all()[0].generated_ids) == count for handle in handles)
    return {"value": batch * tokens / (times[-1] - times[-1 - tokens])}


if __name__ == "__main__":
    main()
