"""Measures transformers: one JSON job a line on standard input, one JSON answer a line on standard output."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    setup = json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(setup["model"], dtype=getattr(torch, setup["settings"])).eval()
    load_seconds = time.perf_counter() - started
    for line in sys.stdin:
        print(json.dumps({"load_seconds": load_seconds, **measure(model, json.loads(line))}), flush=True)


@torch.inference_mode()
def measure(model: Any, job: dict[str, Any]) -> dict[str, float]:
    context, tokens, batch = job["context"], job["tokens"], job["batch"]
    if job["kind"] != "start":
        model(torch.randint(300, 4000, (1, 32)), use_cache=True, logits_to_keep=1)
    ids = torch.randint(300, 4000, (batch, context))
    started = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    following = out.logits[:, -1:].argmax(-1)
    if job["kind"] == "start":
        return {}
    if job["kind"] == "prefill":
        return {"value": context / (time.perf_counter() - started)}
    started = time.perf_counter()
    for _ in range(tokens):
        out = model(following, past_key_values=out.past_key_values, use_cache=True)
        following = out.logits[:, -1:].argmax(-1)
    return {"value": batch * tokens / (time.perf_counter() - started)}


if __name__ == "__main__":
    main()
