"""A toy decoder whose next token is a hash of the whole history, read back through the block tables.

Any mistake in blocks, positions, sharing or chunking changes the history that it sees, and so its output.
"""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np

from headrace.batch import Batch
from headrace.config import EngineConfig
from headrace.engine.constraint import NewConstraint, unconstrained
from headrace.engine.engine import Engine
from headrace.engine.memory import KVPlan
from headrace.ops.reference import ReferenceOps
from headrace.sampling_params import SamplingParams
from headrace.types import Request, StepOutput

VOCABULARY = 64


class ToyDecoder:
    def __init__(self, rope_switch: int | None = None) -> None:
        self.spec = SimpleNamespace(rope_switch=rope_switch, vocab_size=VOCABULARY)
        self.num_tokens = 0
        self.batches: list[Batch] = []

    def new_cache(self, num_blocks: int, block_size: int, dtype: object) -> np.ndarray:
        return np.full((num_blocks, block_size, 2), -1, np.int64)

    def rope_rows(self, positions: np.ndarray, variants: np.ndarray) -> np.ndarray:
        return positions + 1000 * variants

    def forward(self, batch: Batch, cache: np.ndarray) -> np.ndarray:
        size = cache.shape[1]
        self.num_tokens += len(batch.token_ids)
        self.batches.append(batch)
        logits = np.zeros((len(batch.logit_rows), VOCABULARY), np.float32)
        rows = {int(t): at for at, t in enumerate(batch.logit_rows)}
        for s in range(len(batch.query_start) - 1):
            for t in range(batch.query_start[s], batch.query_start[s + 1]):
                position = batch.positions[t]
                block = batch.block_tables[s, position // size]
                cache[block, position % size] = batch.token_ids[t], batch.rope_rows[t]
        for s in range(len(batch.query_start) - 1):
            for t in range(batch.query_start[s], batch.query_start[s + 1]):
                if t in rows:
                    at = np.arange(batch.positions[t] + 1)
                    history = cache[batch.block_tables[s, at // size], at % size]
                    assert (history >= 0).all()
                    rng = np.random.default_rng(zlib.crc32(history.tobytes()))
                    logits[rows[t]] = rng.standard_normal(VOCABULARY)
        return logits


class ToyOps(ReferenceOps):
    def copy_blocks(self, cache: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> None:
        cache[targets] = cache[sources]


def make_engine(
    num_blocks: int = 64,
    max_context: int = 512,
    rope_switch: int | None = None,
    new_constraint: NewConstraint = unconstrained,
    **settings: object,
) -> tuple[Engine, ToyDecoder]:
    config = EngineConfig(backend="reference", **settings)
    decoder = ToyDecoder(rope_switch)
    plan = KVPlan(num_blocks, config.block_size, 1, max_context, 0)
    return Engine(decoder, ToyOps(), config, plan, new_constraint), decoder


def make_request(id_: str, prompt: list[int], *, max_tokens: int = 20, **params: object) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, **{"temperature": 1.0, **params})
    return Request(id=id_, prompt_token_ids=tuple(prompt), params=sampling, seed=7, max_tokens=max_tokens)


def drain(engine: Engine, limit: int = 10_000) -> dict[tuple[str, int], list[StepOutput]]:
    """Step until nothing is left; outputs by (request id, index)."""
    outputs: dict[tuple[str, int], list[StepOutput]] = {}
    for _ in range(limit):
        if not engine.has_work:
            return outputs
        for output in engine.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
    raise AssertionError("the engine does not come to an end")


def ids(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]
