"""What adapters cost: the same batch with and without them, in turn, in one process; ends in one JSON line.

    python bench/lora.py MODEL --adapters 8 --batch 32 --rank 16

The adapters are random, in float16, of every linear layer; MODEL has Llama's names of layers (Llama, Qwen, Mistral).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from headrace import LLM, EngineConfig, SamplingParams
from headrace.formats.codecs import F16
from headrace.formats.safetensors import write_safetensors
from headrace.formats.tensor import Tensor
from headrace.model.spec import ModelSpec

NAMES = {
    **{name: f"self_attn.{name}_proj" for name in "qkvo"},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}


def make_adapter(folder: Path, spec: ModelSpec, rank: int, seed: int) -> Path:
    """A random adapter of every linear layer."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in spec.expected_weights().items():
        parts = name.split(".")
        if len(parts) != 4 or parts[2] not in NAMES or parts[3] != "weight":
            continue
        start = f"base_model.model.model.layers.{parts[1]}.{NAMES[parts[2]]}"
        for letter, size in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
            values = (rng.standard_normal(size) * 0.01).astype(np.float16)
            data = values.view(np.uint8).reshape(size[0], 2 * size[1])
            tensors[f"{start}.lora_{letter}.weight"] = Tensor("w", F16, size, data)
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(NAMES.values())}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def seconds_of(llm: LLM, prompts: list[list[int]], tokens: int, adapters: list[str | None]) -> float:
    """Seconds of one batch's decoding."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    llm.clear_prefix_cache()
    started = time.perf_counter()
    llm.generate(prompts, params, adapter=adapters, use_tqdm=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    llm = LLM(options.model, EngineConfig(prefix_cache=False, kv_memory=1 << 29, speculation="off"))
    names = [f"adapter-{index}" for index in range(options.adapters)]
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(names):
            llm.load_adapter(name, make_adapter(Path(folder) / name, llm.spec, options.rank, seed))
    prompts = [[index + 5] * options.prompt_tokens for index in range(options.batch)]
    plain: list[str | None] = [None] * options.batch
    adapted: list[str | None] = [names[index % len(names)] for index in range(options.batch)]
    pairs = [
        [seconds_of(llm, prompts, options.tokens, adapters) for adapters in (plain, adapted)]
        for _ in range(options.pairs + 1)
    ][1:]
    tokens = options.batch * options.tokens
    result = {
        "tokens_per_second": round(tokens / min(first for first, _ in pairs), 1),
        "with_adapters": round(tokens / min(second for _, second in pairs), 1),
        "cost_of_best": round(1 - min(first for first, _ in pairs) / min(second for _, second in pairs), 4),
        "median_cost": round(statistics.median(1 - first / second for first, second in pairs), 4),
        "adapter_mib": round(sum(each.nbytes for each in llm.adapters.values()) / 2**20, 1),
        **{name: value for name, value in vars(options).items() if name != "model"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
