"""Native sampling and log-probabilities against the reference, and against the distribution they should have."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray
from ops_cases import floats

from headrace.ops.cpu import CpuOps
from headrace.ops.reference import ReferenceOps
from headrace.types import FloatArray, SamplingBatch


def _agree(ops: CpuOps, reference: ReferenceOps, logits: FloatArray, batch: SamplingBatch, allowed: int = 0) -> None:
    """Ids are equal, but for `allowed` draws that fall within float32's rounding of a boundary."""
    ours, expected = ops.sample(logits, batch), reference.sample(logits, batch)
    assert ours.dtype == np.int32
    assert (ours != expected).sum() <= allowed, np.flatnonzero(ours != expected)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.3},
        {"temperature": 5.0, "top_k": 7},
        {"top_k": 1},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"top_p": 1e-6},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
        {"temperature": 2.0, "top_p": 0.999},
    ],
)
@pytest.mark.parametrize("vocabulary", [1, 7, 300, 5001])
def test_ids_equal_the_reference(
    ops: CpuOps, reference: ReferenceOps, params: dict[str, float], vocabulary: int
) -> None:
    rows = 150
    logits = floats(vocabulary, rows, vocabulary) * np.float32(3)
    draws = {"seed": np.arange(rows, dtype=np.uint64) * 0x9E3779B97F4A7C15, "stream": 3, "position": 11}
    _agree(ops, reference, logits, SamplingBatch.of(rows, **draws, **params), allowed=1)


def _random_batch(random: np.random.Generator, rows: int, vocabulary: int) -> SamplingBatch:
    counts = random.integers(0, 30, rows)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    biases = random.integers(0, 4, rows)
    pick = lambda *choices: random.choice(choices, rows).astype(np.float32)  # noqa: E731
    return SamplingBatch.of(
        rows,
        temperature=pick(0, 0.5, 1, 1.7),
        top_k=random.choice([0, 1, 3, 50], rows).astype(np.int32),
        top_p=pick(1, 0.9, 0.3),
        min_p=pick(0, 0.05),
        repetition_penalty=pick(1, 1.3, 0.7),
        presence_penalty=pick(0, 0.5, -1),
        frequency_penalty=pick(0, 0.2, 2),
        seed=random.integers(0, 1 << 63, rows).astype(np.uint64),
        stream=random.integers(0, 5, rows).astype(np.uint32),
        position=random.integers(0, 1000, rows).astype(np.uint32),
        history=random.integers(0, vocabulary, start[-1]).astype(np.int32),
        history_start=start,
        output_start=(start[:-1] + random.integers(0, counts + 1)).astype(np.int32),
        bias_ids=random.integers(0, vocabulary, biases.sum()).astype(np.int32),
        bias_values=random.choice([-np.inf, -100, 1.5, 8], biases.sum()).astype(np.float32),
        bias_start=np.concatenate([[0], np.cumsum(biases)]).astype(np.int32),
        masks=_masks(random, 5, vocabulary),
        mask_row=random.integers(-1, 5, rows),
    )


def _masks(random: np.random.Generator, count: int, vocabulary: int) -> NDArray[np.uint32]:
    bits = random.random((count, -(-vocabulary // 32) * 32)) < random.choice([0.02, 0.5, 0.98], (count, 1))
    bits[:, random.integers(0, vocabulary)] = True
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("seed", range(6))
def test_mixes_of_parameters(ops: CpuOps, reference: ReferenceOps, seed: int) -> None:
    random = np.random.default_rng(seed)
    _agree(ops, reference, floats(seed, 200, 97) * np.float32(2), _random_batch(random, 200, 97), allowed=1)


def test_rounded_logits_tie_as_the_reference_says(ops: CpuOps, reference: ReferenceOps) -> None:
    logits = np.round(floats(1, 200, 50))
    for params in ({"temperature": 0.0}, {"top_k": 4}, {"top_p": 0.4}, {"top_k": 9, "top_p": 0.7}):
        _agree(
            ops, reference, logits, SamplingBatch.of(200, position=np.arange(200, dtype=np.uint32), **params), allowed=1
        )


def test_draws_follow_the_distribution(ops: CpuOps) -> None:
    probabilities = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities).astype(np.float32)
    rows = 20000
    batch = SamplingBatch.of(rows, position=np.arange(rows, dtype=np.uint32))
    counts = np.bincount(ops.sample(np.tile(logits, (rows, 1)), batch), minlength=5)
    assert counts[1] == 0
    kept = probabilities > 0
    chi_squared = ((counts[kept] - rows * probabilities[kept]) ** 2 / (rows * probabilities[kept])).sum()
    assert chi_squared < 16.3  # 3 degrees of freedom, one in a thousand


def test_a_row_does_not_depend_on_the_others(ops: CpuOps) -> None:
    random = np.random.default_rng(5)
    logits, batch = floats(5, 40, 300), _random_batch(random, 40, 300)
    whole = ops.sample(logits, batch)
    for r in range(40):
        assert ops.sample(logits[r : r + 1], _row(batch, r))[0] == whole[r]


def _row(batch: SamplingBatch, r: int) -> SamplingBatch:
    values = {field.name: getattr(batch, field.name)[r : r + 1].copy() for field in fields(batch)}
    for name, ragged in (("history", ("history",)), ("bias", ("bias_ids", "bias_values"))):
        start, end = getattr(batch, f"{name}_start")[r : r + 2]
        values |= {field: getattr(batch, field)[start:end].copy() for field in ragged}
        values[f"{name}_start"] = np.array([0, end - start], np.int32)
    values["masks"] = batch.masks
    values["output_start"] = batch.output_start[r : r + 1] - batch.history_start[r]
    return SamplingBatch(**values)


@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1, "temperature": 1e-4}]
)
def test_nan_and_infinity_give_an_id(ops: CpuOps, params: dict[str, float]) -> None:
    nan, inf = np.nan, np.inf
    rows = [
        ([nan] * 4, {0, 1, 2, 3}),
        ([-inf] * 4, {0, 1, 2, 3}),
        ([nan, 1, nan, -inf], {1}),
        ([1, inf, 2, -inf], {1}),
        ([-inf, -inf, 3e38, -3e38], {2}),
    ]
    logits = np.array([row for row, _ in rows], np.float32)
    for id_, (row, allowed) in zip(ops.sample(logits, SamplingBatch.of(len(rows), **params)), rows, strict=True):
        assert int(id_) in allowed, (row, id_)


@pytest.mark.parametrize("top", [0, 1, 5, 300])
def test_logprobs(ops: CpuOps, reference: ReferenceOps, top: int) -> None:
    logits = np.concatenate(
        [floats(1, 8, 300) * np.float32(4), np.round(floats(2, 4, 300)), np.zeros((1, 300), np.float32)]
    )
    ids = np.random.default_rng(0).integers(0, 300, 13).astype(np.int32)
    ours, expected = ops.logprobs(logits, ids, top), reference.logprobs(logits, ids, top)
    for index in (1, 2):
        assert np.array_equal(ours[index], expected[index])
    for index in (0, 3):
        assert ours[index].shape == expected[index].shape
        assert np.max(np.abs(ours[index] - expected[index]), initial=0) < 2e-6


def test_logprobs_of_nan_end(ops: CpuOps) -> None:
    logits = np.array([[np.nan] * 6, [1, np.nan, 3, 2, -np.inf, 0]], np.float32)
    _, rank, top_ids, _ = ops.logprobs(logits, np.array([0, 3], np.int32), 4)
    assert rank[1] == 2
    assert top_ids[1].tolist() == [2, 3, 0, 5]
    assert sorted(top_ids[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 3.0}, {"top_k": 3}, {"top_p": 0.2}])
def test_nothing_but_what_the_mask_allows_is_drawn(ops: CpuOps, params: dict[str, float]) -> None:
    random = np.random.default_rng(7)
    masks = _masks(random, 300, 67)
    batch = SamplingBatch.of(300, masks=masks, mask_row=np.arange(300), position=np.arange(300), **params)
    logits = floats(7, 300, 67)
    logits[:100] = [[np.nan], [-np.inf], [np.inf], [0]] * 25  # nothing to choose by
    ids = ops.sample(logits, batch)
    assert all(masks[r, token // 32] >> (token % 32) & 1 for r, token in enumerate(ids.tolist()))


def test_rows_share_a_mask_and_do_without(ops: CpuOps) -> None:
    masks = np.array([[0b1000], [0b0110]], np.uint32)
    logits = np.tile(np.array([4, 3, 2, 1], np.float32), (4, 1))
    batch = SamplingBatch.of(4, temperature=0, masks=masks, mask_row=np.array([1, -1, 0, 1]))
    assert ops.sample(logits, batch).tolist() == [1, 0, 3, 1]
