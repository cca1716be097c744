"""How good the answers are: perplexity, and the error of log-probabilities against float32, headrace beside llama.cpp.

    python bench/quality.py MODEL.gguf --text wiki.test.txt --llama-perplexity .../llama-perplexity --json quality.json

Perplexity is llama.cpp's: the text in chunks of `--context` tokens, the first of each replaced by BOS where the model
wants one, the second half of each scored. The float32 reference runs the same weights, decoded, with float32
activations and a float32 cache (or `--reference MODEL`, such as the unquantised one). llama.cpp's log-probabilities
are read from the file that its `--kl-divergence-base` writes, in steps of at most 16/65535.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace import LLM
from headrace.batch import Batch
from headrace.config import CacheType, EngineConfig, available_threads
from headrace.types import FloatArray, IntArray

BLOCK_SIZE = 16
KV_MEMORY = 1 << 30
LIKELY = 12.0
"""Errors are those of tokens whose reference log-probability is within this of the best one's (llama.cpp's file says
nothing about tokens 16 below it)."""


@dataclass(frozen=True)
class Quality:
    """One engine's figures over all scored tokens."""

    engine: str
    perplexity: float
    perplexity_error: float
    """One standard error of the estimate"""
    kl_mean: float
    """Kullback-Leibler divergence of the engine from the reference, nats for a token"""
    kl_error: float
    """One standard error of that mean"""
    kl_largest: float
    error_rms: float
    """Root mean square of the log-probabilities' errors, over the likely tokens"""
    error_largest: float
    same_best: float
    """Share of positions where both name the same most likely token"""
    tokens: int


class Tally:
    """Adds up one engine's rows."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._losses: list[FloatArray] = []
        self._divergences: list[FloatArray] = []
        self._largest = 0.0
        self._squares = 0.0
        self._likely = 0
        self._same = 0

    def add(self, ours: FloatArray, reference: FloatArray, targets: IntArray) -> None:
        """Log-probabilities [rows, V] of both, and the tokens [rows] that came next."""
        for row, expected, target in zip(ours, reference, targets, strict=True):
            self._losses.append(-row[target])
            likely = expected > expected.max() - LIKELY
            error = (row - expected)[likely].astype(np.float64)
            self._divergences.append(0.0 - np.sum(np.exp(expected[likely].astype(np.float64)) * error))
            self._largest = max(self._largest, float(np.abs(error).max()))
            self._squares += float(np.square(error).sum())
            self._likely += len(error)
            self._same += int(row.argmax() == expected.argmax())

    def result(self) -> Quality:
        losses = np.array(self._losses, np.float64)
        perplexity, count = math.exp(losses.mean()), len(losses)
        return Quality(
            engine=self.engine,
            perplexity=perplexity,
            perplexity_error=perplexity * float(losses.std()) / math.sqrt(max(count - 1, 1)),
            kl_mean=float(np.mean(self._divergences)),
            kl_error=float(np.std(self._divergences)) / math.sqrt(max(count - 1, 1)),
            kl_largest=float(np.max(self._divergences)),
            error_rms=math.sqrt(self._squares / self._likely),
            error_largest=self._largest,
            same_best=self._same / count,
            tokens=count,
        )


def log_softmax(logits: FloatArray) -> FloatArray:
    """Of each row, summed in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: FloatArray = shifted - np.log(total).astype(np.float32)
    return result


def cut(token_ids: Sequence[int], context: int, most_tokens: int) -> IntArray:
    """Whole chunks of `context` tokens → [chunks, context], as llama.cpp cuts them."""
    if len(token_ids) < 2 * context:
        raise SystemExit(f"the text has {len(token_ids):,} tokens; it needs at least two contexts, {2 * context:,}")
    num_chunks = max(1, min(len(token_ids), most_tokens) // context)
    return np.array(token_ids[: num_chunks * context], np.int32).reshape(num_chunks, context)


def scored(context: int) -> slice:
    """Positions of a chunk whose next token counts."""
    return slice(context // 2, context - 1)


class Headrace:
    """Log-probabilities from headrace's decoder."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        self._llm = LLM(model, config=config)
        self._decoder = self._llm.decoder
        self._cache_type = CacheType(config.kv_dtype) if config.kv_dtype else self._decoder.natural_cache_type

    def tokenize(self, text: str) -> list[int]:
        if self._llm.tokenizer is None:
            raise SystemExit("the model has no tokenizer, which perplexity of a text needs")
        return self._llm.tokenizer.encode(text)

    @property
    def bos_id(self) -> int | None:
        """What each chunk starts with; None for a model without."""
        tokenizer = self._llm.tokenizer
        return tokenizer.encode("")[0] if tokenizer is not None and tokenizer.add_bos else None

    def log_probabilities(self, chunk: IntArray) -> FloatArray:
        """Of every token after each scored position of a chunk [context] → [rows, V]."""
        token_ids = chunk.copy()
        if self.bos_id is not None:
            token_ids[0] = self.bos_id
        context = len(chunk)
        num_blocks = -(-context // BLOCK_SIZE)
        positions = np.arange(context, dtype=np.int32)
        batch = Batch(
            token_ids=token_ids,
            positions=positions,
            rope_rows=self._decoder.rope_rows(positions, 0),
            query_start=np.array([0, context], np.int32),
            block_tables=np.arange(num_blocks, dtype=np.int32)[None],
            logit_rows=positions[scored(context)],
        )
        cache = self._decoder.new_cache(num_blocks, BLOCK_SIZE, self._cache_type)
        return log_softmax(np.asarray(self._decoder.forward(batch, cache)))


class LlamaFile:
    """What llama-perplexity --kl-divergence-base wrote.

    "_logits_", int32 context, int32 vocabulary, int32 chunks, the tokens; then for each scored position a float32 step,
    a float32 lowest log-probability and the vocabulary's uint16 steps above that, padded to even.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        if self._file.read(8) != b"_logits_":
            raise SystemExit(f"{path} is not a file of llama-perplexity --kl-divergence-base")
        context, self._vocabulary, num_chunks = np.fromfile(self._file, np.int32, 3).tolist()
        self.chunks: IntArray = np.fromfile(self._file, np.int32, num_chunks * context).reshape(num_chunks, context)

    def log_probabilities(self) -> FloatArray:
        """[rows, V] of the next chunk."""
        rows, width = len(self.chunks[0, scored(self.chunks.shape[1])]), 4 + 2 * ((self._vocabulary + 1) // 2)
        records = np.fromfile(self._file, np.uint16, rows * width).reshape(rows, width)
        head: NDArray[np.float32] = records[:, :4].copy().view(np.float32)
        return head[:, :1] * records[:, 4 : 4 + self._vocabulary] + head[:, 1:]

    def close(self) -> None:
        self._file.close()


@contextmanager
def run_llama(binary: Path, model: Path, text: Path, *, context: int, tokens: int, threads: int) -> Iterator[LlamaFile]:
    """llama-perplexity at its default settings."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "log-probabilities"
        flags = {"-m": model, "-f": text, "-c": context, "--chunks": max(1, tokens // context), "-t": threads}
        flags["--kl-divergence-base"] = out
        command = [str(binary), *(str(part) for pair in flags.items() for part in pair)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            raise SystemExit(f"{binary.name} failed ({done.returncode}): {done.stderr.strip().splitlines()[-1:]}")
        with closing(LlamaFile(out)) as file:
            yield file


def compare(
    model: str, text: Path, *, context: int, tokens: int, threads: int, llama: Path | None, reference: str | None
) -> list[Quality]:
    """The reference's figures first, then headrace's and llama.cpp's.

    With llama.cpp the tokens are llama.cpp's, which takes special tokens written in a text for plain text.
    """
    base = EngineConfig(threads=threads, kv_memory=KV_MEMORY)
    exact = Headrace(reference or model, replace(base, activations="f32", kv_dtype="f32"))
    engines = {
        "headrace, 8-bit activations": Headrace(model, base),
        "headrace, float32 activations": Headrace(model, replace(base, activations="f32")),
    }
    with ExitStack() as stack:
        file = None
        if llama is None:
            chunks = cut(exact.tokenize(text.read_text(encoding="utf-8")), context, tokens)
        else:
            run = run_llama(llama, Path(model), text, context=context, tokens=tokens, threads=threads)
            file = stack.enter_context(run)
            chunks = file.chunks
        tallies = {name: Tally(name) for name in ("float32 reference", *engines, *(["llama.cpp"] if file else []))}
        for chunk in chunks:
            targets = chunk[context // 2 + 1 :]
            expected = exact.log_probabilities(chunk)
            tallies["float32 reference"].add(expected, expected, targets)
            for name, engine in engines.items():
                tallies[name].add(engine.log_probabilities(chunk), expected, targets)
            if file is not None:
                tallies["llama.cpp"].add(file.log_probabilities(), expected, targets)
    return [tally.result() for tally in tallies.values()]


def table(rows: Sequence[Quality]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| engine | perplexity | mean KL | largest KL | RMS error | largest error | same best token |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.engine} | {row.perplexity:.4f} ± {row.perplexity_error:.2f} | {row.kl_mean:.2e} ± {row.kl_error:.0e} |"
        f" {row.kl_largest:.2e} | {row.error_rms:.4f} | {row.error_largest:.3f} | {row.same_best:.2%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file (or, without llama.cpp, whatever headrace loads)")
    parser.add_argument("--text", type=Path, required=True, help="a UTF-8 file, such as wikitext-2's test set")
    parser.add_argument("--tokens", type=int, default=10_240, help="the text's first tokens")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--llama-perplexity", type=Path, help="llama.cpp's tool of that name")
    parser.add_argument("--reference", help="another model to compare with, such as the unquantised one")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    rows = compare(
        options.model,
        options.text,
        context=options.context,
        tokens=options.tokens,
        threads=options.threads,
        llama=options.llama_perplexity,
        reference=options.reference,
    )
    print(f"{Path(options.model).name}: {rows[0].tokens:,} tokens scored, context {options.context}\n\n{table(rows)}")
    if options.json is not None:
        settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"settings": settings, "engines": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
