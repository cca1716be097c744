"""Sampling in plain numpy, step by step as SamplingParams lists them: what the fast samplers are checked against."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.batch import SamplingBatch
from headrace.types import FloatArray, IntArray

Weights: TypeAlias = NDArray[np.float64]
Record: TypeAlias = Any
"""One record of SAMPLING_ROW"""

TOKEN, EXCLUDE_TOP_CHOICES = 0, 1
"""What a random number is for: a word of the generator's counter"""


def sample_row(logits: FloatArray, batch: SamplingBatch, row: Record) -> int:
    """A token for one row of logits [V]; writes the next mirostat_mu into `row`."""
    logits = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    mask, allowed = (
        _bits(batch.masks, row["mask"], len(logits)),
        _bits(batch.token_sets, row["allowed_set"], len(logits)),
    )
    logits[~(mask & allowed)] = -np.inf
    for at in range(row["bias_start"], row["bias_end"]):
        logits[batch.bias_ids[at]] += batch.bias_values[at]
    logits[np.isnan(logits)] = -np.inf
    history = batch.history[row["history_start"] : row["history_end"]]
    output = batch.history[row["output_start"] : row["history_end"]]
    for phrase in _phrases(batch, row["ban_start"], row["ban_end"]):
        before = len(phrase) - 1
        if before == 0 or output[-before:].tolist() == phrase[:-1]:
            logits[phrase[-1]] = -np.inf
    logits[repeated_ngram_ends(history.tolist(), int(row["no_repeat_ngram_size"]))] = -np.inf
    if len(history):
        logits = _penalised(logits, row, history, output)
        logits = logits - _dry_penalties(len(logits), batch, row, history.tolist())
    if logits.max() == -np.inf:
        both = mask & allowed
        return int(np.argmax(both if both.any() else mask))
    if row["temperature"] == 0:
        return int(np.argmax(logits))
    return _draw(logits, row)


def _draw(logits: FloatArray, row: Record) -> int:
    temperature = row["temperature"]
    if row["dynatemp_range"] > 0:
        temperature = np.float32(dynamic_temperature(logits, row))
    if temperature == 0:
        return int(np.argmax(logits))
    with np.errstate(over="ignore"):
        logits = logits / temperature
    weights = np.exp(_below_highest(logits).astype(np.float64))
    if row["mirostat"]:
        least = weights.sum() * 2.0 ** -float(row["mirostat_mu"])
        weights[(weights < least) & (np.arange(len(weights)) != np.argmax(weights))] = 0
    else:
        weights = _filtered(weights, logits, row)
    cumulative = np.cumsum(weights)
    drawn = int(np.searchsorted(cumulative, _uniform(row, TOKEN) * cumulative[-1], side="right"))
    if row["mirostat"]:
        surprise = np.log2(cumulative[-1] / weights[drawn])
        row["mirostat_mu"] = float(row["mirostat_mu"]) - float(row["mirostat_eta"]) * (
            surprise - float(row["mirostat_tau"])
        )
    return drawn


def _filtered(weights: Weights, logits: FloatArray, row: Record) -> Weights:
    if row["top_n_sigma"] > 0:
        known = logits[logits > -np.inf].astype(np.float64)
        with np.errstate(invalid="ignore"):
            weights[logits < known.max() - row["top_n_sigma"] * known.std()] = 0
    weights[weights < row["min_p"]] = 0
    if 0 < row["top_k"] < len(logits):
        weights[logits < np.sort(logits)[-row["top_k"]]] = 0
    if row["typical_p"] < 1:
        below = np.where(weights > 0, _below_highest(logits), 0).astype(np.float64)
        distance = np.abs(below - (weights * below).sum() / weights.sum())
        _keep_until(row["typical_p"], np.where(weights > 0, distance, np.inf).astype(np.float32), weights)
    if row["top_p"] < 1:
        _keep_until(row["top_p"], -weights, weights)
    if row["xtc_probability"] > 0 and _uniform(row, EXCLUDE_TOP_CHOICES) < row["xtc_probability"]:
        top = np.flatnonzero((weights > 0) & (weights >= row["xtc_threshold"] * weights.sum()))
        if len(top) > 1:
            keep = top[weights[top] == weights[top].min()][-1]
            weights[top[top != keep]] = 0
    return weights


def _keep_until(share: float, key: NDArray[Any], weights: Weights) -> None:
    """Keep the weights of the lowest keys until they reach that share of the whole; equal keys in order of id."""
    order = np.argsort(key, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= share * weights.sum()]] = 0


def dynamic_temperature(logits: FloatArray, row: Record) -> float:
    """From temperature - range to temperature + range, by the entropy as a part of the most that it could be."""
    known = logits[logits > -np.inf]
    if len(known) < 2:
        return float(row["temperature"])
    below = _below_highest(known).astype(np.float64)
    weights = np.exp(below)
    shares = weights / weights.sum()
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    low = max(float(row["temperature"]) - float(row["dynatemp_range"]), 0.0)
    high = float(row["temperature"]) + float(row["dynatemp_range"])
    part = min(max(entropy / np.log(len(known)), 0.0), 1.0)
    return float(low + (high - low) * part ** float(row["dynatemp_exponent"]))


def repeated_ngram_ends(history: list[int], size: int) -> list[int]:
    """Tokens that would end an n-gram of that size which stands in `history`; none if the size is 0."""
    if size == 0 or len(history) < size:
        return []
    last = history[len(history) - size + 1 :]
    return [history[at] for at in range(size - 1, len(history)) if history[at - size + 1 : at] == last]


def dry_matches(history: list[int], longest: int) -> dict[int, int]:
    """Token → how many of the last tokens stand before an earlier occurrence of it, up to `longest`."""
    found: dict[int, int] = {}
    for at in range(1, len(history)):
        length = 0
        while length < min(at, longest) and history[at - 1 - length] == history[-1 - length]:
            length += 1
        found[history[at]] = max(found.get(history[at], 0), length)
    return found


def _dry_penalties(vocabulary: int, batch: SamplingBatch, row: Record, history: list[int]) -> FloatArray:
    penalties = np.zeros(vocabulary, np.float32)
    if row["dry_multiplier"] == 0 or row["dry_penalty_last_n"] == 0:
        return penalties
    breakers = np.zeros(vocabulary, np.bool_)
    if row["breaker_set"] >= 0:
        breakers = _bits(batch.token_sets, row["breaker_set"], vocabulary)
    phrases = _phrases(batch, row["breaker_start"], row["breaker_end"])
    longest = 0
    window = history[-row["dry_penalty_last_n"] :] if row["dry_penalty_last_n"] > 0 else history
    for end in range(len(history), len(history) - len(window), -1):
        if breakers[history[end - 1]] or any(history[:end][-len(phrase) :] == phrase for phrase in phrases):
            break
        longest += 1
    for token, length in dry_matches(window, longest).items():
        if length >= max(int(row["dry_allowed_length"]), 1) and not breakers[token]:
            exponent = length - int(row["dry_allowed_length"])
            with np.errstate(over="ignore"):
                penalties[token] = min(float(row["dry_multiplier"]) * np.float64(row["dry_base"]) ** exponent, 1e30)
    return penalties


def _penalised(logits: FloatArray, row: Record, history: IntArray, output: IntArray) -> FloatArray:
    seen, penalty = np.unique(history), row["repetition_penalty"]
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    produced, counts = np.unique(output, return_counts=True)
    logits[produced] -= row["frequency_penalty"] * counts.astype(np.float32) + row["presence_penalty"]
    return logits


def _bits(table: NDArray[np.uint32], index: int, vocabulary: int) -> NDArray[np.bool_]:
    if index < 0:
        return np.ones(vocabulary, np.bool_)
    return np.unpackbits(table[index].view(np.uint8), bitorder="little")[:vocabulary].astype(np.bool_)


def _phrases(batch: SamplingBatch, start: int, end: int) -> list[list[int]]:
    bounds = batch.phrase_start
    return [batch.phrase_ids[bounds[at] : bounds[at + 1]].tolist() for at in range(start, end)]


def _below_highest(logits: FloatArray) -> FloatArray:
    """Logits less the highest, which may be infinite."""
    highest = logits.max()
    with np.errstate(invalid="ignore"):
        below: FloatArray = np.where(logits == highest, np.float32(0), logits - highest)
    return below


def _uniform(row: Record, purpose: int) -> float:
    return philox_uniform(int(row["seed"]), int(row["stream"]), int(row["position"]), purpose)


def philox_uniform(seed: int, stream: int, position: int, purpose: int = TOKEN) -> float:
    """A fraction in [0, 1) with 53 bits from Philox4x32-10: key = seed, counter = (position, stream, purpose, 0)."""
    mask = 0xFFFFFFFF
    key = [seed & mask, (seed >> 32) & mask]
    counter = [position & mask, stream & mask, purpose, 0]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 32) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((counter[0] << 21) ^ (counter[1] >> 11)) * 2.0**-53
