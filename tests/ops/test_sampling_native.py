"""Native sampling and log-probabilities against the reference, and against the distribution they should have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from ops_cases import floats

from headrace.batch import SAMPLING_ROW, SamplingBatch
from headrace.ops.cpu import CpuOps
from headrace.ops.reference import ReferenceOps
from headrace.types import FloatArray


def _agree(ops: CpuOps, reference: ReferenceOps, logits: FloatArray, batch: SamplingBatch, allowed: int = 0) -> None:
    """Ids are equal, but for `allowed` draws that fall within float32's rounding of a boundary."""
    theirs = replace(batch, rows=batch.rows.copy())
    ours, expected = ops.sample(logits, batch), reference.sample(logits, theirs)
    assert ours.dtype == np.int32
    assert (ours != expected).sum() <= allowed, np.flatnonzero(ours != expected)
    same = ours == expected
    for name in SAMPLING_ROW.names or ():
        assert np.allclose(batch.rows[name][same], theirs.rows[name][same], rtol=0, atol=1e-5), name


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
        {"typical_p": 0.9},
        {"typical_p": 0.2, "temperature": 0.5},
        {"typical_p": 1e-6},
        {"top_n_sigma": 1.0},
        {"top_n_sigma": 0.01},
        {"xtc_probability": 0.5, "xtc_threshold": 0.01},
        {"dynatemp_range": 0.7, "temperature": 0.8},
        {"dynatemp_range": 5.0, "dynatemp_exponent": 3.0},
        {"mirostat": 2, "mirostat_mu": 4.0},
        {"mirostat": 2, "mirostat_mu": -1.0},
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
    """Rows with any mix of all parameters; half of the histories have few tokens, and so repeat themselves."""
    counts = random.integers(0, 30, rows)
    end = np.cumsum(counts)
    repetitive = np.repeat(random.random(rows) < 0.5, counts)
    history = random.integers(0, np.where(repetitive, min(4, vocabulary), vocabulary))
    num_biases, num_phrases, num_sets = 60, 12, 5
    bias_start, ban_start, breaker_start = (random.integers(0, n, rows) for n in (num_biases, num_phrases, num_phrases))
    sizes = random.integers(1, 4, num_phrases)
    pick = lambda *choices: random.choice(choices, rows)  # noqa: E731
    return SamplingBatch.of(
        rows,
        temperature=pick(0, 0.5, 1, 1.7),
        dynatemp_range=pick(0, 0, 0.4, 2),
        dynatemp_exponent=pick(0.5, 1, 2),
        top_n_sigma=pick(0, 0, 0.3, 1, 3),
        min_p=pick(0, 0, 0.05),
        top_k=pick(0, 0, 1, 3, 50),
        typical_p=pick(1, 1, 0.9, 0.2),
        top_p=pick(1, 0.9, 0.3),
        xtc_probability=pick(0, 0.5, 1),
        xtc_threshold=pick(0, 0.05, 0.1, 0.6),
        mirostat=pick(0, 0, 2),
        mirostat_tau=pick(1, 5),
        mirostat_eta=pick(0.1, 1),
        mirostat_mu=pick(-2, 0.5, 3, 10),
        repetition_penalty=pick(1, 1.3, 0.7),
        presence_penalty=pick(0, 0.5, -1),
        frequency_penalty=pick(0, 0.2, 2),
        dry_multiplier=pick(0, 0.8, 3),
        dry_base=pick(1, 1.75, 1000),
        dry_allowed_length=pick(1, 2, 5),
        dry_penalty_last_n=pick(-1, 0, 7, 1000),
        no_repeat_ngram_size=pick(0, 0, 1, 2, 3),
        seed=random.integers(0, 1 << 63, rows),
        stream=random.integers(0, 5, rows),
        position=random.integers(0, 1000, rows),
        mask=random.integers(-1, num_sets, rows),
        allowed_set=random.integers(-1, num_sets, rows),
        breaker_set=random.integers(-1, num_sets, rows),
        history_start=end - counts,
        output_start=end - counts + random.integers(0, counts + 1),
        history_end=end,
        bias_start=bias_start,
        bias_end=np.minimum(bias_start + pick(0, 0, 3), num_biases),
        ban_start=ban_start,
        ban_end=random.integers(ban_start, num_phrases + 1),
        breaker_start=breaker_start,
        breaker_end=random.integers(breaker_start, num_phrases + 1),
        history=history.astype(np.int32),
        bias_ids=random.integers(0, vocabulary, num_biases).astype(np.int32),
        bias_values=random.choice([-np.inf, -100, 1.5, 8], num_biases).astype(np.float32),
        phrase_ids=random.integers(0, min(4, vocabulary), sizes.sum()).astype(np.int32),
        phrase_start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        masks=_masks(random, num_sets, vocabulary),
        token_sets=_masks(random, num_sets, vocabulary),
    )


def _masks(random: np.random.Generator, count: int, vocabulary: int) -> NDArray[np.uint32]:
    bits = random.random((count, -(-vocabulary // 32) * 32)) < random.choice([0.02, 0.5, 0.98], (count, 1))
    bits[:, random.integers(0, vocabulary)] = True
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("seed", range(6))
def test_mixes_of_parameters(ops: CpuOps, reference: ReferenceOps, seed: int) -> None:
    random = np.random.default_rng(seed)
    vocabulary = (97, 33, 1, 400, 5, 64)[seed]
    for _ in range(3):
        logits = floats(seed, 200, vocabulary) * np.float32(2)
        _agree(ops, reference, logits, _random_batch(random, 200, vocabulary), allowed=2)


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
    before = batch.rows.copy()
    whole = ops.sample(logits, batch)
    for r in range(40):
        alone = replace(batch, rows=before[r : r + 1])
        assert ops.sample(logits[r : r + 1], alone)[0] == whole[r]
        assert alone.rows[0] == batch.rows[r]


@pytest.mark.parametrize(
    "params",
    [
        *({"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1, "temperature": 1e-4}),
        *({"typical_p": 0.5}, {"top_n_sigma": 1.0}, {"xtc_probability": 1.0}, {"dynatemp_range": 2.0}),
        {"mirostat": 2, "mirostat_mu": 1.0},
    ],
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
    batch = SamplingBatch.of(300, masks=masks, mask=np.arange(300), position=np.arange(300), **params)
    logits = floats(7, 300, 67)
    logits[:100] = [[np.nan], [-np.inf], [np.inf], [0]] * 25  # nothing to choose by
    ids = ops.sample(logits, batch)
    assert all(masks[r, token // 32] >> (token % 32) & 1 for r, token in enumerate(ids.tolist()))


def test_rows_share_a_mask_and_do_without(ops: CpuOps) -> None:
    masks = np.array([[0b1000], [0b0110]], np.uint32)
    logits = np.tile(np.array([4, 3, 2, 1], np.float32), (4, 1))
    batch = SamplingBatch.of(4, temperature=0, masks=masks, mask=np.array([1, -1, 0, 1]))
    assert ops.sample(logits, batch).tolist() == [1, 0, 3, 1]
