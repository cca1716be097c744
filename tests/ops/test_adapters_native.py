"""What adapters add: the kernels against the reference, with outliers, and each row as if it were alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from headrace.batch import Batch
from headrace.formats.codecs import BF16, F16, F32, Q8_0, Codec
from headrace.formats.tensor import Tensor
from headrace.ops.base import HeadLayout, LowRankPart
from headrace.ops.reference import ReferenceOps

cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
from headrace import _core  # noqa: E402, TID251

ROWS, COLUMNS, TOKENS = 75, 600, 50
RANKS = (1, 5, 16, 33, 64, 100)


def _tensor(rng: np.random.Generator, codec: Codec, *shape: int) -> Tensor:
    values = rng.standard_normal(shape).astype(np.float32)
    values[rng.integers(shape[0]), rng.integers(shape[1])] *= 100
    assert codec.encode is not None or codec is F32
    data = Tensor.from_array("w", values)
    return data if codec is F32 else Tensor("w", codec, shape, codec.encode(values))  # type: ignore[misc]


def _deltas(ops: Any, codec: Codec) -> Any:
    """One adapter for each of RANKS, of one to three parts; one of them is a whole matrix and a part."""
    rng = np.random.default_rng(3)
    deltas = ops.new_deltas(ROWS, COLUMNS)
    for slot, rank in enumerate(RANKS):
        borders = sorted({0, ROWS, *rng.integers(1, ROWS, slot % 3)})
        parts = [
            LowRankPart(
                ops.pack([_tensor(rng, codec, rank, COLUMNS)]),
                ops.pack([_tensor(rng, codec, end - first, rank)]),
                int(first),
                0.25 + slot,
            )
            for first, end in itertools.pairwise(borders)
            if slot != 4 or first == 0
        ]
        deltas.set(slot, parts)
    whole = LowRankPart(None, ops.pack([_tensor(rng, codec, ROWS, COLUMNS)]))
    deltas.set(
        len(RANKS), [whole, LowRankPart(*(ops.pack([_tensor(rng, codec, *s)]) for s in ((2, COLUMNS), (9, 2))), 4)]
    )
    return deltas


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((TOKENS, size)).astype(np.float32) for size in (COLUMNS, ROWS))
    slots = rng.integers(-1, len(RANKS) + 2, TOKENS).astype(np.int32)  # the last one has no adapter
    return x, y, slots


@pytest.mark.parametrize("instruction_set", cpu.instruction_sets())
@pytest.mark.parametrize("codec", [F32, F16, BF16], ids=lambda codec: codec.name)
def test_against_the_reference(instruction_set: str, codec: Codec) -> None:
    x, y, slots = _inputs()
    ops, reference = cpu.CpuOps(2, instruction_set), ReferenceOps()
    ours = ops.adapt(y.copy(), x, _deltas(ops, codec), slots, 0.5)
    expected = reference.adapt(y.astype(np.float64), x, _deltas(reference, codec), slots, 0.5)
    spread = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(ours - expected) / spread).max() < 1e-5
    untouched = (slots < 0) | (slots > len(RANKS))
    assert ours[untouched].tobytes() == y[untouched].tobytes()
    assert 0 < untouched.sum() < TOKENS


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_the_others(threads: int) -> None:
    x, y, slots = _inputs()
    ops = cpu.CpuOps(threads)
    deltas = _deltas(ops, F16)
    together = ops.adapt(y.copy(), x, deltas, slots)
    for t in range(TOKENS):
        alone = ops.adapt(y[t : t + 1].copy(), x[t : t + 1], deltas, slots[t : t + 1])
        assert alone.tobytes() == together[t].tobytes()
    order = np.random.default_rng(2).permutation(TOKENS)
    assert ops.adapt(y[order], x[order], deltas, slots[order]).tobytes() == together[order].tobytes()


def _beside(ops: Any, weights: list[Any], deltas: list[Any], batch: Batch) -> np.ndarray:
    """Two matrices in turn, recorded with what adapters add to them; the same operations one by one must agree."""
    table = ops.pack_table(_tensor(np.random.default_rng(7), F32, 40, weights[0].shape[1]))
    add = ops.pack_table(_tensor(np.random.default_rng(8), F32, 40, weights[0].shape[0]))

    def forward(ops: Any, batch: Batch, cache: Any) -> Any:
        x, added = ops.embed(table, batch.token_ids), ops.embed(add, batch.token_ids)
        y = ops.linear(x, weights[0], None, 0.5, added)
        y = ops.adapt(y, x, deltas[0], batch.adapters, 0.5)
        y = ops.select(y, batch.logit_rows)
        z = ops.linear(y, weights[1])
        return ops.adapt(z, y, deltas[1], batch.logit_adapters)

    cache = ops.new_kv_cache(1, 16, 16, HeadLayout(1, 1, 16))
    recorded = ops.compile(forward)(batch, cache)
    assert recorded.tobytes() == forward(ops, batch, cache).tobytes()
    return recorded


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("borders", [(0, 160), (0, 64, 96, 160), (0, 16, 160), (0, 35, 160), (0, 90)])
def test_beside_its_matrix(borders: tuple[int, ...], quantized: bool) -> None:
    """In one go with the matrix, in parts that begin at panels and elsewhere: the bits of one after the other."""
    columns, rows, many = 608, 160, 230
    rng = np.random.default_rng(11)
    slots = rng.integers(-1, 5, many).astype(np.int32)
    ids = rng.integers(0, 40, many).astype(np.int32)
    results = []
    for instruction_set, threads in [(name, 2) for name in cpu.instruction_sets()] + [(cpu.instruction_sets()[0], 1)]:
        ops = cpu.CpuOps(threads, instruction_set)
        rng = np.random.default_rng(12)
        shapes = ((96, columns), (64, columns), (rows, rows))
        first, second, square = (_tensor(rng, Q8_0 if quantized else F16, *shape) for shape in shapes)
        weights = [ops.pack([first, second]), ops.pack([square])]
        deltas = [ops.new_deltas(rows, columns), ops.new_deltas(rows, rows)]
        for slot, rank in enumerate((16, 3, 300, 16)):  # slot 4 has nothing
            for matrix, of in zip(deltas, (columns, rows), strict=True):
                parts = [
                    LowRankPart(
                        ops.pack([_tensor(rng, F16, rank, of)]),
                        ops.pack([_tensor(rng, F16, end - start, rank)]),
                        start,
                        0.5 + slot,
                    )
                    for start, end in itertools.pairwise(borders)
                ]
                matrix.set(slot, parts)
        replaced = LowRankPart(None, ops.pack([_tensor(rng, F16, rows, rows)]))

        def batch_of(tokens: slice, slots: np.ndarray = slots) -> Batch:
            every = np.arange(len(ids[tokens]), dtype=np.int32)
            start, tables = np.array([0, len(every)], np.int32), np.arange(16, dtype=np.int32)[None]
            return Batch(ids[tokens], every, every, start, tables, every, adapters=slots[tokens])

        together = _beside(ops, weights, deltas, batch_of(slice(None)))
        for token in (0, 7, many - 1):
            alone = _beside(ops, weights, deltas, batch_of(slice(token, token + 1)))
            assert alone.tobytes() == together[token].tobytes()
        deltas[1].set(5, [replaced])
        other = np.where(np.arange(many) == 3, 5, slots).astype(np.int32)
        _beside(ops, weights, deltas, batch_of(slice(0, 9), other))
        results += [together.tobytes()] if instruction_set != "baseline" else []
    assert len(set(results)) <= 1


def test_a_table() -> None:
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 40, TOKENS).astype(np.int32)
    slots = rng.integers(-1, 3, TOKENS).astype(np.int32)
    y, add = (rng.standard_normal((TOKENS, ROWS)).astype(np.float32) for _ in range(2))
    down, up, whole = (_tensor(rng, F16, *shape) for shape in ((40, 6), (ROWS, 6), (40, ROWS)))
    results = []
    for ops in (cpu.CpuOps(2), ReferenceOps()):
        deltas = ops.new_deltas(ROWS, 40, is_table=True)
        deltas.set(0, [LowRankPart(ops.pack_table(down), ops.pack([up]), 0, 1.5)])
        deltas.set(1, [LowRankPart(None, ops.pack_table(whole))])
        results.append(ops.adapt_embedding(y.copy(), ids, deltas, slots, 3.0, add))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-4)
    is_whole = slots == 1
    np.testing.assert_array_equal(results[0][is_whole], whole.decode()[ids[is_whole]] * np.float32(3) + add[is_whole])


def test_what_does_not_fit_is_refused() -> None:
    ops = cpu.CpuOps(1)
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return ops.pack([_tensor(rng, F32, *shape)])

    deltas = ops.new_deltas(8, 16)
    for down, up, first_row, message in (
        (weight(2, 15), weight(8, 2), 0, "down must be"),
        (weight(2, 16), weight(8, 3), 0, "up must be"),
        (weight(2, 16), weight(8, 2), 1, "behind the matrix's last"),
        (weight(2, 16), weight(9, 2), 0, "behind the matrix's last"),
        (None, weight(8, 15), 0, "must have the shape"),
        (None, weight(8, 16), 1, "must be the first part"),
        (ops.pack_table(_tensor(rng, F32, 2, 16)), weight(8, 2), 0, "multiplied with"),
        (None, ops.pack_table(_tensor(rng, F32, 8, 16)), 0, "multiplied with"),
    ):
        with pytest.raises(ValueError, match=message):
            deltas.set(0, [LowRankPart(down, up, first_row)])
    with pytest.raises(ValueError, match="must be the first part"):
        deltas.set(0, [LowRankPart(weight(2, 16), weight(8, 2)), LowRankPart(None, weight(8, 16))])
    x, y = np.zeros((2, 16), np.float32), np.zeros((2, 8), np.float32)
    none = np.array([-1, -1], np.int32)
    for arguments, message in (
        ((y, x[:1], deltas, none), "x must be"),
        ((y[:, :7].copy(), x, deltas, none), "y must be"),
        ((y, x, deltas, none[:1]), "slots must be"),
        ((y, x, ops.new_deltas(8, 16, is_table=True), none), "a table's adapters"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.adapt(*arguments)
    table = ops.new_deltas(8, 4, is_table=True)
    for ids, message in ((np.array([0, 4], np.int32), "outside of the table"), (none[:1], "must be")):
        with pytest.raises(ValueError, match=message):
            ops.adapt_embedding(y, ids, table, none)


def test_weights_are_kept_alive() -> None:
    import gc

    x, y, slots = _inputs()
    ops = cpu.CpuOps(1)
    deltas = _deltas(ops, F32)
    expected = ops.adapt(y.copy(), x, deltas, slots).tobytes()
    gc.collect()
    rubbish = [np.full(n, 7e7, np.float32) for n in (256, 4096, 65536) for _ in range(50)]
    assert ops.adapt(y.copy(), x, deltas, slots).tobytes() == expected
    del rubbish
    native = deltas.native
    assert isinstance(native, _core.Deltas)
