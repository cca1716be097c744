"""Over many seeds the native samplers draw as transformers' processors or plain formulas say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.batch import SamplingBatch
from headrace.ops.cpu import CpuOps

DRAWS = 20_000
VOCABULARY = 40
Probabilities = NDArray[np.float64]


def _logits(seed: int = 3) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(VOCABULARY) * 2).astype(np.float32)


def _softmax(logits: NDArray[Any]) -> Probabilities:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(weights / weights.sum())


def _draws(ops: CpuOps, logits: NDArray[np.float32], **params: Any) -> NDArray[np.int64]:
    """How often each token is drawn, by as many seeds."""
    batch = SamplingBatch.of(DRAWS, **{"seed": np.arange(DRAWS), "position": 5, **params})
    return np.bincount(ops.sample(np.tile(logits, (DRAWS, 1)), batch), minlength=len(logits))


def _check(counts: NDArray[np.int64], expected: Probabilities) -> None:
    """The chi-squared test at one in 2,000; nothing is drawn that has no probability."""
    assert counts[expected == 0].sum() == 0, np.flatnonzero((expected == 0) & (counts > 0))
    kept = np.flatnonzero(expected)
    kept = kept[np.argsort(expected[kept])]
    groups, mass = [], 0.0  # each expected at least ten times
    for token in kept:
        if mass == 0 or mass * counts.sum() >= 10:
            groups.append([token])
            mass = 0.0
        else:
            groups[-1].append(token)
        mass += expected[token]
    if len(groups) < 2:
        return
    wanted = np.array([expected[group].sum() for group in groups]) * counts.sum()
    found = np.array([counts[group].sum() for group in groups])
    k = len(groups) - 1
    limit = k * (1 - 2 / (9 * k) + 3.29 * np.sqrt(2 / (9 * k))) ** 3  # Wilson and Hilferty
    assert ((found - wanted) ** 2 / wanted).sum() < limit


def _transformers(name: str, *args: Any, logits: NDArray[Any] | None = None, history: Any = ()) -> Probabilities:
    """The distribution behind one of its processors."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    torch = pytest.importorskip("torch")
    scores = torch.tensor((_logits() if logits is None else logits)[None])
    ids = torch.tensor([list(history)], dtype=torch.long)
    return torch.softmax(getattr(processors, name)(*args)(ids, scores)[0].double(), -1).numpy()


@pytest.mark.parametrize(
    ("name", "argument", "params"),
    [
        ("TemperatureLogitsWarper", 0.6, {"temperature": 0.6}),
        ("TopKLogitsWarper", 5, {"top_k": 5}),
        ("TopPLogitsWarper", 0.8, {"top_p": 0.8}),
        ("MinPLogitsWarper", 0.05, {"min_p": 0.05}),
        ("TypicalLogitsWarper", 0.9, {"typical_p": 0.9}),
        ("TypicalLogitsWarper", 0.5, {"typical_p": 0.5}),
        ("TypicalLogitsWarper", 0.05, {"typical_p": 0.05}),
    ],
)
def test_filters_of_transformers(ops: CpuOps, name: str, argument: float, params: dict[str, float]) -> None:
    _check(_draws(ops, _logits(), **params), _transformers(name, argument))


HISTORY = [1, 2, 3, 9, 1, 2, 4, 7, 1, 2]


def _with_history(history: list[int]) -> dict[str, Any]:
    return {"history": np.array(history, np.int32), "history_end": len(history)}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 11])
def test_no_repeat_ngram_of_transformers(ops: CpuOps, size: int) -> None:
    expected = _transformers("NoRepeatNGramLogitsProcessor", size, history=HISTORY)
    _check(_draws(ops, _logits(), no_repeat_ngram_size=size, **_with_history(HISTORY)), expected)


def test_repetition_penalty_of_transformers(ops: CpuOps) -> None:
    expected = _transformers("RepetitionPenaltyLogitsProcessor", 1.4, history=HISTORY)
    _check(_draws(ops, _logits(), repetition_penalty=1.4, **_with_history(HISTORY)), expected)


def test_bad_words_of_transformers(ops: CpuOps) -> None:
    phrases = [[5], [2, 6], [1, 2, 8], [3, 2, 10], [7, 11]]
    expected = _transformers("NoBadWordsLogitsProcessor", phrases, history=HISTORY)
    assert np.flatnonzero(expected == 0).tolist() == [5, 6, 8]
    counts = _draws(
        ops,
        _logits(),
        phrase_ids=np.concatenate(phrases).astype(np.int32),
        phrase_start=np.array([0, 1, 3, 6, 9, 11], np.int32),
        ban_end=5,
        **_with_history(HISTORY),
    )
    _check(counts, expected)


def test_bad_words_begin_in_the_output(ops: CpuOps) -> None:
    ids = {"phrase_ids": np.array([1, 2, 8], np.int32), "phrase_start": np.array([0, 3], np.int32), "ban_end": 1}
    whole, half = (_draws(ops, _logits(), output_start=start, **ids, **_with_history(HISTORY)) for start in (8, 9))
    assert whole[8] == 0
    _check(half, _softmax(_logits()))


@pytest.mark.parametrize("n", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_top_n_sigma(ops: CpuOps, n: float, temperature: float) -> None:
    """arXiv:2411.07641: the temperature does not change which tokens are kept."""
    logits = _logits()
    kept = logits >= logits.max() - n * logits.std()
    expected = _softmax(np.where(kept, logits / temperature, -np.inf))
    _check(_draws(ops, logits, top_n_sigma=n, temperature=temperature), expected)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.6])
def test_xtc(ops: CpuOps, probability: float, threshold: float) -> None:
    plain = _softmax(_logits())
    top = np.flatnonzero(plain >= threshold)
    excluded = plain.copy()
    if len(top) > 1:
        excluded[top[np.argsort(plain[top])[1:]]] = 0
    expected = (1 - probability) * plain + probability * excluded / excluded.sum()
    _check(_draws(ops, _logits(), xtc_probability=probability, xtc_threshold=threshold), expected)


def _dry(history: list[int], breakers: set[int], multiplier: float, base: float, allowed: int) -> Probabilities:
    """By its definition: for each place of the history, the longest common end of it and the whole."""
    logits = _logits().astype(np.float64)
    longest: dict[int, int] = {}
    for at, token in enumerate(history):
        length = 0
        while length < at and history[at - 1 - length] == history[-1 - length] not in breakers:
            length += 1
        longest[token] = max(longest.get(token, 0), length)
    for token, length in longest.items():
        if length >= allowed and token not in breakers:
            logits[token] -= multiplier * base ** (length - allowed)
    return _softmax(logits)


@pytest.mark.parametrize("breakers", [set(), {1}, {2}, {3}])
@pytest.mark.parametrize("allowed", [1, 2, 3])
@pytest.mark.parametrize("history", [HISTORY, [6] * 9, [1, 2, 3] * 3, [5]])
def test_dry(ops: CpuOps, breakers: set[int], allowed: int, history: list[int]) -> None:
    bits = np.array([[sum(1 << token for token in breakers), 0]], np.uint32)
    counts = _draws(
        ops,
        _logits(),
        dry_multiplier=0.8,
        dry_base=1.75,
        dry_allowed_length=allowed,
        token_sets=bits,
        breaker_set=0,
        **_with_history(history),
    )
    _check(counts, _dry(history, breakers, 0.8, 1.75, allowed))


def test_dry_breakers_of_several_tokens(ops: CpuOps) -> None:
    """Behind the breaker 9, 1 only the 2 at the end is left to repeat."""
    history = [4, 9, 1, 2, 3, 4, 9, 1, 2]
    phrase = {"phrase_ids": np.array([9, 1], np.int32), "phrase_start": np.array([0, 2], np.int32), "breaker_end": 1}
    params = {"dry_multiplier": 3.0, **phrase, **_with_history(history)}
    _check(_draws(ops, _logits(), dry_allowed_length=2, **params), _softmax(_logits()))
    once = _logits()
    once[3] -= 3
    _check(_draws(ops, _logits(), dry_allowed_length=1, **params), _softmax(once))


@pytest.mark.parametrize("mu", [-1.0, 0.5, 2.0, 4.0, 30.0])
def test_mirostat(ops: CpuOps, mu: float) -> None:
    """arXiv:2007.14966, algorithm 2, as llama.cpp has it: the surprise is that among the tokens kept."""
    logits, tau, eta = _logits(), 3.0, 0.2
    plain = _softmax(logits)
    kept = -np.log2(plain) <= mu
    kept[np.argmax(plain)] = True
    expected = np.where(kept, plain, 0) / plain[kept].sum()
    fields = {"mirostat": 2, "mirostat_tau": tau, "mirostat_eta": eta, "mirostat_mu": mu}
    _check(_draws(ops, logits, top_k=1, top_p=0.1, **fields), expected)

    batch = SamplingBatch.of(500, position=np.arange(500), **fields)
    drawn = ops.sample(np.tile(logits, (500, 1)), batch)
    assert np.allclose(batch.rows["mirostat_mu"], mu - eta * (-np.log2(expected[drawn]) - tau), atol=1e-4)


def test_mirostat_holds_the_surprise(ops: CpuOps) -> None:
    """On one sequence, whatever its first limit: the mean surprise comes to tau."""
    random = np.random.default_rng(0)
    for tau in (1.0, 2.5):
        mu, surprises = 2 * tau, []
        for position in range(1500):
            logits = (random.standard_normal((1, 400)) * 2).astype(np.float32)
            batch = SamplingBatch.of(
                1, mirostat=2, mirostat_tau=tau, mirostat_eta=0.1, mirostat_mu=mu, position=position
            )
            ops.sample(logits, batch)
            surprises.append(tau + (mu - batch.rows["mirostat_mu"][0]) / 0.1)
            mu = batch.rows["mirostat_mu"][0]
        assert abs(np.mean(surprises[200:]) - tau) < 0.1


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_dynamic_temperature(ops: CpuOps, exponent: float) -> None:
    logits = _logits()
    logits[7] = -np.inf
    plain = _softmax(logits)
    entropy = -(plain[plain > 0] * np.log(plain[plain > 0])).sum() / np.log(VOCABULARY - 1)
    temperature = 0.3 + (1.7 - 0.3) * entropy**exponent
    counts = _draws(ops, logits, temperature=1.0, dynatemp_range=0.7, dynatemp_exponent=exponent)
    _check(counts, _softmax(logits / temperature))


def test_allowed_tokens(ops: CpuOps) -> None:
    allowed, grammar = {3, 8, 20, 33}, {3, 20, 34, 5}
    bits = [np.array([[sum(1 << t for t in each if t < 32), sum(1 << t - 32 for t in each if t >= 32)]], np.uint32)
            for each in (allowed, grammar)]  # fmt: skip
    logits = _logits()
    both = np.full(VOCABULARY, -np.inf)
    both[[3, 20]] = logits[[3, 20]]
    _check(_draws(ops, logits, token_sets=bits[0], allowed_set=0, masks=bits[1], mask=0), _softmax(both))
    alone = np.full(VOCABULARY, -np.inf)
    alone[list(allowed)] = logits[list(allowed)]
    _check(_draws(ops, logits, token_sets=bits[0], allowed_set=0), _softmax(alone))


def test_the_order_of_the_filters(ops: CpuOps) -> None:
    """Temperature, then min_p, top_k, typical_p, top_p: each on what the one before leaves."""
    weights = _softmax(_logits() / np.float32(1.5))
    weights[weights < 0.05 * weights.max()] = 0
    weights[np.argsort(weights)[:-12]] = 0
    shares = weights / weights.sum()
    surprise = np.where(shares > 0, -np.log(np.where(shares > 0, shares, 1)), np.inf)
    distance = np.abs(surprise - (shares[shares > 0] * surprise[shares > 0]).sum())
    order = np.argsort(distance)
    shares[order[np.cumsum(shares[order]) - shares[order] >= 0.9]] = 0
    shares /= shares.sum()
    order = np.argsort(-shares)
    shares[order[np.cumsum(shares[order]) - shares[order] >= 0.8]] = 0
    counts = _draws(ops, _logits(), temperature=1.5, min_p=0.05, top_k=12, typical_p=0.9, top_p=0.8)
    _check(counts, shares / shares.sum())


@pytest.mark.parametrize(
    "params",
    [
        {"typical_p": 0.1},
        {"top_n_sigma": 0.1},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0},
        {"dynatemp_range": 3.0},
        {"mirostat": 2, "mirostat_mu": 3.0},
    ],
)
def test_temperature_0_takes_the_likeliest_whatever_the_filters(ops: CpuOps, params: dict[str, float]) -> None:
    counts = _draws(ops, _logits(), temperature=0.0, **params)
    assert counts[np.argmax(_logits())] == DRAWS
