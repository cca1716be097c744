"""What a step computes, as arrays: its tokens, and how the next ones are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace.types import FloatArray, IntArray


@dataclass(slots=True)
class Batch:
    """One step's input: every scheduled token of every scheduled sequence, flat, sequence after sequence.

    T tokens of S sequences; a sequence's tokens are `query_start[s]:query_start[s + 1]`. A token attends to all
    positions up to its own (in an encoder, to all of its sequence); keys and values of position p lie in block
    `block_tables[s, p // block_size]`.
    """

    token_ids: IntArray
    """[T] int32"""
    positions: IntArray
    """[T] int32, ascending by one within a sequence"""
    rope_rows: IntArray
    """[T] int32: row of the rope tables, from `Decoder.rope_rows`; not the positions where longrope has two sets"""
    query_start: IntArray
    """[S + 1] int32"""
    block_tables: IntArray
    """[S, widest] int32, rows padded with 0"""
    logit_rows: IntArray
    """[R] int32: which of the T tokens need logits"""
    token_types: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    """[T] int32 for models that tell texts of a pair apart; empty for others"""
    adapters: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    """[T] int32: slot of each token's adapter, -1 for none; empty when no token has one"""
    logit_adapters: IntArray = field(init=False)
    """[R] int32: the same of the rows that need logits"""

    def __post_init__(self) -> None:
        none = np.empty(0, np.int32)  # of its own: operations know a recorded batch's arrays by their identity
        self.logit_adapters = self.adapters[self.logit_rows] if len(self.adapters) else none


_SAMPLING_FIELDS: Mapping[str, tuple[type[np.generic], float]] = {
    "seed": (np.uint64, 0),
    "stream": (np.uint32, 0),  # index of the completion within its request
    "position": (np.uint32, 0),  # number of output tokens so far; with seed and stream the key of the draw
    # SamplingParams
    "temperature": (np.float32, 1),
    "dynatemp_range": (np.float32, 0),
    "dynatemp_exponent": (np.float32, 1),
    "repetition_penalty": (np.float32, 1),
    "presence_penalty": (np.float32, 0),
    "frequency_penalty": (np.float32, 0),
    "dry_multiplier": (np.float32, 0),
    "dry_base": (np.float32, 1.75),
    "top_n_sigma": (np.float32, 0),
    "min_p": (np.float32, 0),
    "typical_p": (np.float32, 1),
    "top_p": (np.float32, 1),
    "xtc_probability": (np.float32, 0),
    "xtc_threshold": (np.float32, 0.1),
    "mirostat_tau": (np.float32, 5),
    "mirostat_eta": (np.float32, 0.1),
    "mirostat_mu": (np.float32, 0),  # mirostat's state; `sample` writes the one behind the token that it draws
    "mirostat": (np.int32, 0),
    "top_k": (np.int32, 0),
    "no_repeat_ngram_size": (np.int32, 0),
    "dry_allowed_length": (np.int32, 2),
    "dry_penalty_last_n": (np.int32, -1),
    # What the row takes of the batch's tables: an index, -1 for none, or a range
    "mask": (np.int32, -1),
    "allowed_set": (np.int32, -1),  # of token_sets: the only tokens that may be drawn
    "breaker_set": (np.int32, -1),  # of token_sets: tokens over which DRY sees no repetition
    "history_start": (np.int32, 0),
    "output_start": (np.int32, 0),  # where in its history the row's output begins
    "history_end": (np.int32, 0),
    "bias_start": (np.int32, 0),
    "bias_end": (np.int32, 0),
    "ban_start": (np.int32, 0),  # phrases of which the last token is banned behind the others
    "ban_end": (np.int32, 0),
    "breaker_start": (np.int32, 0),  # phrases over which DRY sees no repetition
    "breaker_end": (np.int32, 0),
}
SAMPLING_ROW = np.dtype([(name, kind) for name, (kind, _) in _SAMPLING_FIELDS.items()])
"""One row's parameters of a SamplingBatch; the native sampler reads the same record (csrc/sampling.h)"""


def neutral_rows(num_rows: int) -> NDArray[np.void]:
    """SAMPLING_ROW records that draw from the whole distribution."""
    return np.full(num_rows, np.array(tuple(neutral for _, neutral in _SAMPLING_FIELDS.values()), SAMPLING_ROW))


def _no_ids() -> IntArray:
    return np.empty(0, np.int32)


def _no_bits() -> NDArray[np.uint32]:
    return np.empty((0, 0), np.uint32)


@dataclass(slots=True)
class SamplingBatch:
    """The sampler's parameters for R rows of logits, and tables of which the rows name their parts."""

    rows: NDArray[np.void]
    """[R] records of SAMPLING_ROW"""
    history: IntArray = field(default_factory=_no_ids)
    """Prompt and output ids of rows with penalties, n-grams or phrases; rows may share parts of it"""
    bias_ids: IntArray = field(default_factory=_no_ids)
    bias_values: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    """Added to the logits; -inf bans a token"""
    phrase_ids: IntArray = field(default_factory=_no_ids)
    phrase_start: IntArray = field(default_factory=lambda: np.zeros(1, np.int32))
    """[P + 1]: where each of P phrases begins in `phrase_ids`, and the end of the last one; none is empty"""
    masks: NDArray[np.uint32] = field(default_factory=_no_bits)
    """[M, ceil(V / 32)]: bit i % 32 of word i // 32 says whether token i may be drawn"""
    token_sets: NDArray[np.uint32] = field(default_factory=_no_bits)
    """[N, ceil(V / 32)]: the same of sets that stay from step to step"""

    @classmethod
    def of(cls, num_rows: int, **values: Any) -> Self:
        """Neutral rows but for `values`: fields of SAMPLING_ROW (arrays, or a number for all rows) or of this class."""
        rows = neutral_rows(num_rows)
        for name in [name for name in values if name in _SAMPLING_FIELDS]:
            rows[name] = values.pop(name)
        return cls(rows, **values)
