"""A compiled forward pass against the same one run operation by operation: bit for bit, for every family."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import VARIANTS, prompt

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.hub.files import ModelFiles
from headrace.model import rope
from headrace.model.decoder import Decoder
from headrace.model.loader import load_decoder
from headrace.ops.base import Forward, RecordableForward

cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
from headrace import _core  # noqa: E402, TID251

Tiny = Callable[[str], Path]
BLOCK = 16
NUM_BLOCKS = 16


class PlainOps(cpu.CpuOps):
    """The CPU backend, one call for each operation."""

    def compile(self, forward: RecordableForward) -> Forward:
        return partial(forward, self)


def load(folder: Path, ops: Any, **options: Any) -> Decoder:
    return load_decoder(ModelFiles("tiny", folder=folder), ops, **options)


def batch_of(decoder: Decoder, spans: list[tuple[int, int, int]], logits: list[int] | None = None) -> Batch:
    """A step of the sequences (seed, first position, last + 1); by default, the last token of each needs logits."""
    positions = [np.arange(first, last, dtype=np.int32) for _, first, last in spans]
    token_ids = [prompt(last, seed)[first:] for seed, first, last in spans]
    start = np.cumsum([0, *map(len, positions)]).astype(np.int32)
    flat = np.concatenate(positions)
    widest = max(-(-last // BLOCK) for _, _, last in spans)
    blocks = np.random.default_rng(5).permutation(NUM_BLOCKS).reshape(4, 4)[:, :widest]  # of sequences 0 … 3
    return Batch(
        token_ids=np.concatenate(token_ids).astype(np.int32),
        positions=flat,
        rope_rows=decoder.rope_rows(flat, 0),
        query_start=start,
        block_tables=blocks[[seed for seed, _, _ in spans]].astype(np.int32),
        logit_rows=start[1:] - 1 if logits is None else np.array(logits, np.int32),
    )


def steps(decoder: Decoder) -> list[Batch]:
    """Prompts whole and in chunks, mixed with single tokens; no logits, some twice, of all tokens."""
    return [
        batch_of(decoder, [(0, 0, 5), (1, 0, 17)]),
        batch_of(decoder, [(0, 5, 6), (1, 17, 18), (2, 0, 33)]),
        batch_of(decoder, [(3, 0, 20)], logits=[]),
        batch_of(decoder, [(0, 6, 7)]),
        batch_of(decoder, [(2, 33, 34), (3, 20, 39), (0, 7, 8)], logits=[0, 20]),
        batch_of(decoder, [(3, 39, 45)], logits=[5, 0, 5, 1, 2, 3, 4]),
        batch_of(decoder, [(0, 8, 9), (1, 18, 19), (2, 34, 35), (3, 45, 46)]),
    ]


def run(decoder: Decoder, dtype: CacheType = CacheType.F16) -> list[bytes]:
    cache = decoder.new_cache(NUM_BLOCKS, BLOCK, dtype)
    return [decoder.forward(batch, cache).tobytes() for batch in steps(decoder)]


@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_is_plain(name: str, tiny: Tiny) -> None:
    plain = run(load(tiny(name), PlainOps(1)))
    assert [len(logits) // (96 * 4) for logits in plain] == [2, 3, 0, 1, 2, 7, 4]
    for threads in (1, 2):
        assert run(load(tiny(name), cpu.CpuOps(threads))) == plain


@pytest.mark.parametrize("quantize", ["q8", "q4"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-moe", "gemma2", "gpt-neox"])
def test_compiled_is_plain_when_quantised(name: str, quantize: str, tiny: Tiny) -> None:
    ops = (PlainOps(1), cpu.CpuOps(2))
    plain, compiled = (run(load(tiny(name), each, quantize=quantize), CacheType.F32) for each in ops)
    assert compiled == plain


@pytest.mark.parametrize("name", ["gemma3", "phi4-partial", "gpt-neox"])
def test_rope_tables_that_grow(name: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(load(tiny(name), cpu.CpuOps(1)))
    monkeypatch.setattr(rope, "CHUNK", 8)
    assert run(load(tiny(name), cpu.CpuOps(1))) == whole


def test_a_clock_measures_every_step_while_it_runs(tiny: Tiny) -> None:
    ops = cpu.CpuOps(1)
    decoder = load(tiny("qwen3-moe"), ops)
    plain = run(decoder)
    assert not ops.clock.seconds
    ops.clock.is_running = True
    started = time.perf_counter()
    assert run(decoder) == plain
    wall = time.perf_counter() - started
    kinds = {"embed", "norm", "rope and cache write", "attention", "mixture", "select"}
    assert {kind for kind in ops.clock.seconds if not kind.startswith("linear f32 ")} == kinds
    assert all(seconds > 0 for seconds in ops.clock.seconds.values())
    assert sum(ops.clock.seconds.values()) < wall


def test_a_compiled_forward_is_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    class CountingOps(cpu.CpuOps):
        def compile(self, forward: RecordableForward) -> Forward:
            compiled.append(forward)
            return super().compile(forward)

    for chunk, times in ((1024, 1), (16, 3)):  # 16, 64 (not 32, which would not do) …
        compiled.clear()
        monkeypatch.setattr(rope, "CHUNK", chunk)
        decoder = load(tiny("llama"), CountingOps(1))
        run(decoder)
        run(decoder)
        assert len(compiled) <= times
        assert compiled


@pytest.mark.parametrize("shared", [True, False])
def test_two_models_in_turn(shared: bool, tiny: Tiny) -> None:
    names = ("gemma2", "gpt2")
    alone = [run(load(tiny(name), cpu.CpuOps(2))) for name in names]
    ops = cpu.CpuOps(2)
    decoders = [load(tiny(name), ops if shared else cpu.CpuOps(2)) for name in names]
    caches = [decoder.new_cache(NUM_BLOCKS, BLOCK) for decoder in decoders]
    found: list[list[bytes]] = [[], []]
    for pair in zip(*(steps(decoder) for decoder in decoders), strict=True):
        for at, batch in enumerate(pair):
            found[at].append(decoders[at].forward(batch, caches[at]).tobytes())
    assert found == alone


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt2", "llama-mha-biases", "olmo2"])
def test_a_tape_keeps_what_it_needs(name: str, tiny: Tiny) -> None:
    decoder = load(tiny(name), cpu.CpuOps(1))
    expected = run(decoder)
    batches, cache = steps(decoder), decoder.new_cache(NUM_BLOCKS, BLOCK)
    compiled = decoder._compiled["logits"]
    del decoder
    gc.collect()
    rubbish = [np.full(n, 7e7, np.float32) for n in (16, 32, 64, 96, 128, 192, 4096, 8192) for _ in range(50)]
    assert [compiled(batch, cache).tobytes() for batch in batches] == expected
    del rubbish


def test_memory_does_not_grow_with_layers(tiny: Tiny) -> None:
    tapes = []
    for name in ("llama", "gemma3"):
        decoder = load(tiny(name), cpu.CpuOps(1))
        run(decoder)
        tapes.append(decoder._compiled["logits"]._tape)  # type: ignore[attr-defined]
    few, many = tapes
    assert (many.num_steps, few.num_steps) == (7 * 15 + 7, 3 * 13 + 7)
    # The stream, what a norm gave, gate and up, their product: not more than is used at the same time, but for a gap.
    assert few.floats_per_row <= 2 * 64 + 192 + 96
    assert many.floats_per_row <= 2 * 64 + 192 + 96


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "token id": ({"token_ids": np.array([1, 96], np.int32)}, "a token id is outside of the table"),
    "negative token id": ({"token_ids": np.array([1, -1], np.int32)}, "a token id is outside of the table"),
    "fewer token ids": ({"token_ids": np.array([1], np.int32)}, "positions must be"),
    "position of the table": ({"positions": np.array([255, 256], np.int32)}, "a position is outside of the table"),
    "block": ({"block_tables": np.array([[NUM_BLOCKS]], np.int32)}, "a block id is outside of the cache"),
    "block table": ({"positions": np.array([15, 16], np.int32)}, "a position lies behind its sequence's block table"),
    "rope row": ({"rope_rows": np.array([0, -1], np.int32)}, "a rope row is outside of the table"),
    "fewer rope rows": ({"rope_rows": np.array([0], np.int32)}, "rope_rows must be"),
    "logit row": ({"logit_rows": np.array([2], np.int32)}, "a row that needs logits is outside of the batch"),
    "negative logit row": ({"logit_rows": np.array([-1], np.int32)}, "a row that needs logits is outside of the batch"),
    "more adapters": ({"adapters": np.array([-1, -1, -1], np.int32)}, "adapters must be"),
    "query start": ({"query_start": np.array([0, 3], np.int32)}, "query_start must rise from 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_batch_is_refused_and_changes_nothing(what: str, tiny: Tiny) -> None:
    changes, message = REFUSED[what]
    decoder = load(tiny("gpt2" if what == "position of the table" else "llama"), cpu.CpuOps(2))
    cache = decoder.new_cache(NUM_BLOCKS, BLOCK)
    good = batch_of(decoder, [(0, 0, 2)])
    if what == "position of the table":
        changes = changes | {"block_tables": np.arange(17, dtype=np.int32)[None] % NUM_BLOCKS}
    expected = decoder.forward(good, cache).tobytes()
    with pytest.raises(ValueError, match=message):
        decoder.forward(replace(good, **changes), cache)
    after = replace(batch_of(decoder, [(0, 1, 2)]), logit_rows=np.array([0], np.int32))  # reads position 0
    assert decoder.forward(after, cache).tobytes() == expected


def test_a_bad_cache_is_refused(tiny: Tiny) -> None:
    decoder = load(tiny("llama"), cpu.CpuOps(2))
    batch = batch_of(decoder, [(0, 0, 2)])
    for sizes, message in (((2, 2, 16), "layer is outside"), ((3, 1, 16), "other heads"), ((3, 2, 32), "other heads")):
        layers, kv_heads, dim = sizes
        with pytest.raises(ValueError, match=message):
            decoder.forward(batch, _core.KVCache("f16", layers, NUM_BLOCKS, BLOCK, kv_heads, dim))
    with pytest.raises(TypeError):
        decoder.forward(replace(batch, token_ids=batch.token_ids.astype(np.int64)), decoder.new_cache(4, BLOCK))


def test_a_forward_that_computes_is_refused() -> None:
    ops = cpu.CpuOps(1)
    table = ops.pack([_tensor(8, 16)])
    forwards: list[RecordableForward] = [
        lambda o, batch, cache: o.embed(table, batch.positions + 2),
        lambda o, batch, cache: o.embed(table, batch.token_ids) * 2,
        lambda o, batch, cache: o.select(o.embed(table, batch.token_ids), batch.positions),
        lambda o, batch, cache: o.attention(
            o.embed(table, batch.token_ids), None, 0, batch, _layout(1, 1, 16), 1.0, None, None
        ),
    ]
    for forward in forwards:
        with pytest.raises(TypeError):
            ops.compile(forward)


def _tensor(rows: int, columns: int) -> Any:
    from headrace.formats.tensor import Tensor

    return Tensor.from_array("w", np.ones((rows, columns), np.float32))


def _layout(*sizes: int) -> Any:
    from headrace.ops.base import HeadLayout

    return HeadLayout(*sizes)


def test_a_recording_that_does_not_fit_is_refused() -> None:
    ops = cpu.CpuOps(1)
    wide, square, narrow = (ops.pack([_tensor(*shape)]).native for shape in ((8, 16), (16, 16), (8, 8)))
    ones = np.ones(16, np.float32)

    def refuse(message: str, record: Callable[[_core.Tape, int, int], object]) -> None:
        tape = _core.Tape()
        x = tape.embed(wide, "token_ids", 1.0, None, 0)
        with pytest.raises(ValueError, match=message):
            record(tape, x, tape.select(x))

    refuse("a slot that this tape has not given", lambda tape, x, rows: tape.select(7))
    refuse("a slot that this tape has not given", lambda tape, x, rows: tape.linear(x, square, None, 1.0, 9))
    refuse("x must be", lambda tape, x, rows: tape.linear(x, narrow, None, 1.0, None))
    refuse("add must have", lambda tape, x, rows: tape.linear(x, wide, None, 1.0, x))
    refuse("add must have", lambda tape, x, rows: tape.linear(x, square, None, 1.0, rows))
    refuse("bias must be", lambda tape, x, rows: tape.linear(x, wide, ones, 1.0, None))
    refuse("weight and bias", lambda tape, x, rows: tape.norm(x, ones[:8].copy(), None, "rms", 0.0, None))
    refuse("norm must be", lambda tape, x, rows: tape.norm(x, ones, None, "batch", 0.0, None))
    of_x, of_table = _core.Deltas(16, 16, False), _core.Deltas(16, 8, True)
    refuse("a table's adapters", lambda tape, x, rows: tape.adapt(x, x, of_table, 1.0))
    refuse("a matrix's adapters", lambda tape, x, rows: tape.adapt_embedding(x, of_x, 1.0, None))
    refuse("y must be", lambda tape, x, rows: tape.adapt(x, x, _core.Deltas(8, 16, False), 1.0))
    refuse("x must be", lambda tape, x, rows: tape.adapt(x, x, _core.Deltas(16, 8, False), 1.0))
    refuse("the same rows", lambda tape, x, rows: tape.adapt(rows, x, of_x, 1.0))
    refuse("has all tokens", lambda tape, x, rows: tape.adapt_embedding(rows, of_table, 1.0, None))
    refuse("selected already", lambda tape, x, rows: tape.select(rows))
    refuse("offset must be", lambda tape, x, rows: tape.embed(wide, "positions", 1.0, None, 8))
    refuse("ids must be", lambda tape, x, rows: tape.embed(wide, "rope_rows", 1.0, None, 0))
    refuse("cap must be", lambda tape, x, rows: tape.softcap(x, 0.0))
    refuse("unknown activation", lambda tape, x, rows: tape.activate(x, "swish", True))
    refuse("q must be", lambda tape, x, rows: tape.attention(x, 0, 2, 1, 16, 1.0, 0, 0.0, True))
    refuse("multiple of kv heads", lambda tape, x, rows: tape.attention(x, 0, 1, 2, 16, 1.0, 0, 0.0, True))
    refuse("attention needs all", lambda tape, x, rows: tape.attention(rows, 0, 1, 1, 16, 1.0, 0, 0.0, True))
    refuse("one row for each", lambda tape, x, rows: tape.finish(x))
    refuse("router must be", lambda tape, x, rows: tape.moe(x, wide, (square,), (square,), 1, True, "silu", 1.0, None))
    refuse(
        "the last step's",
        lambda tape, x, rows: (tape.softcap(rows, 1.0), tape.finish(rows)),
    )
    refuse("is finished", lambda tape, x, rows: (tape.finish(rows), tape.softcap(rows, 1.0)))
    refuse("is finished", lambda tape, x, rows: (tape.finish(rows), tape.finish(rows)))


def test_an_unfinished_tape_does_not_run() -> None:
    none = np.empty(0, np.int32)
    start, tables = np.zeros(1, np.int32), np.empty((0, 1), np.int32)
    backend = _core.Backend(1, "baseline", False)
    cache = _core.KVCache("f16", 1, 1, 16, 1, 16)
    with pytest.raises(ValueError, match="not finished"):
        backend.run(
            _core.Tape(),
            cache,
            none,
            none,
            none,
            none,
            start,
            tables,
            none,
            none,
            np.empty((0, 1), np.float32),
            None,
        )
