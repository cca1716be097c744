"""The measurements of `headrace bench kernels`: every native operation alone, in percent of the machine's limits."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from headrace import __version__
from headrace.batch import Batch, SamplingBatch
from headrace.cli.cost import Work
from headrace.cli.machine import Limits, describe_machine, measure_limits, median_limits
from headrace.config import CacheType
from headrace.formats.codecs import CODECS, Codec
from headrace.formats.tensor import Tensor
from headrace.ops.base import HeadLayout, MoeWeights, RopeTable, Weight
from headrace.ops.cpu import CpuOps, codec_names
from headrace.ops.kinds import Activation, NormKind
from headrace.types import FloatArray

_T = TypeVar("_T")
_BLOCK = 16
"""Tokens of a cache block"""
_LAYOUT = HeadLayout(num_heads=32, num_kv_heads=8, head_dim=128)
_SANE_BYTES = (0x20, 0x3C)
"""Whatever a codec reads from bytes in this range is a usual number: no infinity, no NaN, nothing denormal"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the operands are. Those that an operation reads once are taken in turn from `cold_bytes` of them."""

    hidden: int = 4096
    vocabulary: int = 151_936
    layout: HeadLayout = _LAYOUT
    context: int = 8192
    tokens: tuple[int, ...] = (1, 8, 32, 256)
    rows: int = 256
    """Of the operations on single rows"""
    cold_bytes: int = 128 << 20
    """More than the caches of most processors hold"""
    seconds: float = 0.1
    """Of each measurement, and at least three runs"""


@dataclass(frozen=True, slots=True)
class Case:
    """One operation: `run` does it once; `work` is what it must read and compute for that."""

    name: str
    tokens: int
    run: Callable[[], object]
    work: Work


def measure_kernels(ops: CpuOps, sizes: Sizes, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every operation of `ops`; `say` gets status lines."""
    results, limits = [], []
    for group in (_linear, _mixture, _attention, _rowwise, _sampling):
        say(f"measuring {group.__name__.strip('_')}")
        limits.append(measure_limits(ops))
        results += [_measured(case, sizes.seconds, limits[-1]) for case in group(ops, sizes)]
    return {
        "benchmark": "headrace kernels",
        "machine": asdict(describe_machine()),
        "limits": asdict(median_limits(limits)),
        "versions": {"headrace": __version__, "numpy": np.__version__},
        "backend": {"name": ops.name, "instruction_set": ops.instruction_set, "threads": ops.threads},
        "results": results,
    }


def _measured(case: Case, seconds: float, limits: Limits) -> dict[str, Any]:
    """The median of as many runs as fit into the time, after one to warm up."""
    case.run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        case.run()
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return {
        "kernel": case.name,
        "tokens": case.tokens,
        "milliseconds": 1000 * median,
        "gigabytes_per_second": case.work.nbytes / median / 1e9,
        "giga_operations_per_second": case.work.operations / median / 1e9,
        "percent_of_limit": 100 * case.work.least_seconds(limits) / median,
        "limit": case.work.bound(limits),
        "runs": len(times),
    }


def _linear(ops: CpuOps, sizes: Sizes) -> Iterator[Case]:
    """A square matrix in every codec."""
    n = sizes.hidden
    for name in codec_names():
        weights = _weights(ops, CODECS[name], n, n, sizes)
        for tokens in sizes.tokens:
            x = _values(tokens, n)
            work = Work.of_matrix(weights[0], tokens)
            yield Case(f"linear {name}", tokens, _in_turn(weights, partial(ops.linear, x)), work)


def _mixture(ops: CpuOps, sizes: Sizes) -> Iterator[Case]:
    """Sixteen experts of which a token takes two."""
    experts, top_k, hidden, inner = 16, 2, sizes.hidden // 2, sizes.hidden // 4
    codec = CODECS["q4_0"]
    router = _weights(ops, CODECS["f32"], experts, hidden, sizes)[0]
    up, down = _weights(ops, codec, 2 * inner, hidden, sizes), _weights(ops, codec, hidden, inner, sizes)
    few = max(experts, min(len(up), len(down)) // experts * experts)
    up, down = (list(itertools.islice(itertools.cycle(some), few)) for some in (up, down))
    layers = [
        MoeWeights(router, up[i : i + experts], down[i : i + experts], top_k, True, Activation.SILU)
        for i in range(0, few, experts)
    ]
    for tokens in sizes.tokens[:3]:
        x = _values(tokens, hidden)
        touched = experts * (1 - (1 - top_k / experts) ** tokens)
        one = up[0].nbytes + down[0].nbytes
        work = Work(touched * one, 0, 2 * tokens * top_k * 3 * hidden * inner)
        yield Case("mixture q4_0", tokens, _in_turn(layers, partial(ops.moe, x)), work)


def _attention(ops: CpuOps, sizes: Sizes) -> Iterator[Case]:
    """One long sequence, many short ones, and prompts at both ends of the context."""
    layout, context, chunk = sizes.layout, sizes.context, sizes.rows
    qkv = _values(chunk, (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim)
    angles = np.zeros((context, layout.head_dim // 2), np.float32)
    rope = RopeTable(np.cos(angles), np.sin(angles))
    few = 16
    cases = (
        (f"attention decode, context {context}", _batch([context - 1], 1, context)),
        (f"attention decode x {few}, context {context // few}", _batch([context // few - 1] * few, 1, context // few)),
        (f"attention prefill {chunk}", _batch([0], chunk, context)),
        (f"attention prefill {chunk}, context {context}", _batch([context - chunk], chunk, context)),
    )
    for dtype in (CacheType.F16, CacheType.Q8):
        layers = max(1, sizes.cold_bytes // ops.new_kv_cache(1, context // _BLOCK, _BLOCK, layout, dtype).nbytes)
        cache = ops.new_kv_cache(layers, context // _BLOCK, _BLOCK, layout, dtype)
        kv_bytes = cache.nbytes / layers / context
        for layer, start in itertools.product(range(layers), range(0, context, chunk)):
            ops.rope_write(qkv.copy(), cache, layer, _batch([start], chunk, context), layout, rope, None)
        for name, batch in cases:
            tokens = len(batch.positions)
            q = _values(tokens, layout.num_heads * layout.head_dim)
            last = batch.positions[batch.query_start[1:] - 1]
            seen = int(np.sum(batch.positions + 1))
            work = Work(int(np.sum(last + 1)) * kv_bytes, 4 * layout.num_heads * layout.head_dim * seen)
            attend = partial(ops.attention, batch=batch, layout=layout, scale=0.1, window=None, softcap=None)
            yield Case(f"{name}, {dtype}", tokens, _in_turn(range(layers), partial(attend, q, cache)), work)
    cache = ops.new_kv_cache(1, context // _BLOCK, _BLOCK, layout)
    rows = [_values(*qkv.shape) for _ in range(_copies(qkv.nbytes, sizes))]
    batch = _batch([0], chunk, context)
    run = _in_turn(rows, lambda row: ops.rope_write(row, cache, 0, batch, layout, rope, None))
    yield Case("rope and cache write", chunk, run, Work(qkv.nbytes, 0))


def _rowwise(ops: CpuOps, sizes: Sizes) -> Iterator[Case]:
    rows, n = sizes.rows, sizes.hidden
    ones = np.ones(n, np.float32)
    narrow = [_values(rows, n) for _ in range(_copies(4 * rows * n, sizes))]
    wide = [_values(rows, 2 * n) for _ in range(_copies(8 * rows * n, sizes))]
    table = _weights(ops, CODECS["q8_0"], sizes.cold_bytes // n, n, sizes)[0]
    ids = np.random.default_rng(1).integers(0, table.shape[0], rows).astype(np.int32)
    read = narrow[0].nbytes
    yield Case("norm rms", rows, _in_turn(narrow, lambda x: ops.norm(x, ones, None, NormKind.RMS, 1e-6)), Work(read, 0))
    yield Case(
        "norm layer", rows, _in_turn(narrow, lambda x: ops.norm(x, ones, ones, NormKind.LAYER, 1e-6)), Work(read, 0)
    )
    yield Case(
        "activate silu", rows, _in_turn(wide, lambda x: ops.activate(x, Activation.SILU, True)), Work(2 * read, 0)
    )
    yield Case(
        "activate gelu", rows, _in_turn(wide, lambda x: ops.activate(x, Activation.GELU, True)), Work(2 * read, 0)
    )
    yield Case("softcap", rows, _in_turn(narrow, lambda x: ops.softcap(x, 30.0)), Work(read, 0))
    yield Case("embed q8_0", rows, lambda: ops.embed(table, ids), Work(table.nbytes / table.shape[0] * rows, 0))


def _sampling(ops: CpuOps, sizes: Sizes) -> Iterator[Case]:
    rows, vocabulary = 8, sizes.vocabulary
    logits = [_values(rows, vocabulary) for _ in range(_copies(4 * rows * vocabulary, sizes))]
    work = Work(logits[0].nbytes, 0)
    for name, batch in (
        ("sample greedy", SamplingBatch.of(rows, temperature=0)),
        ("sample", SamplingBatch.of(rows)),
        ("sample top-k 40, top-p 0.95", SamplingBatch.of(rows, top_k=40, top_p=0.95)),
        ("sample typical-p 0.95", SamplingBatch.of(rows, typical_p=0.95)),
        ("sample mirostat", SamplingBatch.of(rows, mirostat=2, mirostat_mu=10)),
        (f"sample, all filters and penalties, history {sizes.context}", _everything(rows, sizes)),
    ):
        yield Case(name, rows, _in_turn(logits, partial(ops.sample, batch=batch)), work)
    ids = np.arange(rows, dtype=np.int32)
    yield Case("logprobs", rows, _in_turn(logits, lambda x: ops.logprobs(x, ids, 5)), work)


def _everything(rows: int, sizes: Sizes) -> SamplingBatch:
    """Whatever can be on at once; the history is one text that repeats itself."""
    history = np.tile(np.arange(sizes.context // 8, dtype=np.int32), 8)
    return SamplingBatch.of(
        rows,
        **{"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1},
        **{"dry_multiplier": 0.8, "no_repeat_ngram_size": 4, "dynatemp_range": 0.5},
        **{"top_n_sigma": 3, "min_p": 0.001, "top_k": 1000, "typical_p": 0.99, "top_p": 0.95, "xtc_probability": 1},
        history=history,
        history_end=len(history),
    )


def _in_turn(operands: Sequence[_T], run: Callable[[_T], object]) -> Callable[[], object]:
    """`run` on the next of the operands, so that none is still in a cache."""
    turn = itertools.cycle(operands)
    return lambda: run(next(turn))


def _copies(nbytes: int, sizes: Sizes) -> int:
    return max(2, -(-sizes.cold_bytes // nbytes))


def _weights(ops: CpuOps, codec: Codec, rows: int, columns: int, sizes: Sizes) -> list[Weight]:
    """Enough matrices of that codec to fill the cold memory."""
    nbytes = codec.row_bytes(columns)
    copies = _copies(rows * nbytes, sizes)
    data = np.random.default_rng(0).integers(*_SANE_BYTES, (copies, rows, nbytes), np.uint8)
    return [ops.pack([Tensor(codec.name, codec, (rows, columns), part)]) for part in data]


def _values(*shape: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _batch(starts: list[int], tokens: int, context: int) -> Batch:
    """A step of as many sequences as there are starts, with cache blocks of their own."""
    positions = np.concatenate([np.arange(start, start + tokens) for start in starts]).astype(np.int32)
    blocks = context // _BLOCK
    return Batch(
        token_ids=positions,
        positions=positions,
        rope_rows=positions,
        query_start=np.arange(len(starts) + 1, dtype=np.int32) * np.int32(tokens),
        block_tables=np.arange(len(starts) * blocks, dtype=np.int32).reshape(len(starts), blocks),
        logit_rows=np.zeros(0, np.int32),
    )
