"""Rows of logits of a step that are sampled from, and what comes of them.

A sequence with k drafts has up to k + 1 rows: the token after its known ones, and the token after each draft. Row by
row the sampler draws what it would have drawn without drafts (the draw depends on seed and position only), so a draft
stands as long as it is what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Sequence
from headrace.types import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """The token after a sequence's known tokens and its first `num_drafts` drafts."""

    sequence: Sequence
    num_drafts: int = 0

    @property
    def num_output(self) -> int:
        """Output tokens before the row's own, drafts included."""
        return self.sequence.num_output + self.num_drafts


@dataclass(frozen=True, slots=True)
class MaskTable:
    """Masks of the rows that have one."""

    masks: NDArray[np.uint32]
    """[M, ceil(V / 32)]"""
    row: IntArray
    """[R]: which of them, -1 for none"""


@dataclass(slots=True)
class Masks:
    """Computes the rows' masks in a thread of its own, while the model runs.

    Buffers are kept from step to step; a table is valid until the next `start`.
    """

    vocab_size: int
    _buffer: NDArray[np.uint32] = field(init=False)
    _worker: ThreadPoolExecutor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._buffer = np.empty((0, -(-self.vocab_size // 32)), np.uint32)

    def start(self, rows: SequenceOf[Row]) -> Future[MaskTable] | None:
        """Begin; None if no row is constrained."""
        if all(row.sequence.constraint is None for row in rows):
            return None
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "headrace-masks")
        return self._worker.submit(self._compute, rows)

    def _compute(self, rows: SequenceOf[Row]) -> MaskTable:
        if len(self._buffer) < len(rows):
            self._buffer = np.empty((len(rows), self._buffer.shape[1]), np.uint32)
        index = np.full(len(rows), -1, np.int32)
        for at, row in enumerate(rows):
            if row.num_drafts == 0 and row.sequence.constraint is not None:
                self._compute_one(row.sequence, at, _count(rows, at), index)
        return MaskTable(self._buffer[: len(rows)], index)

    def _compute_one(self, sequence: Sequence, first: int, count: int, index: IntArray) -> None:
        """The rows of one sequence. Behind a draft that is not allowed nothing is drawn that will stand."""
        constraint, pushed = sequence.constraint, 0
        assert constraint is not None
        for at in range(first, first + count):
            mask = self._buffer[at]
            mask.fill(0xFFFFFFFF)
            if constraint.fill(mask):
                index[at] = at
            if at + 1 == first + count or not constraint.push(sequence.drafts[at - first]):
                break
            pushed += 1
        constraint.pop(pushed)


def accept(rows: SequenceOf[Row], token_ids: SequenceOf[int]) -> dict[Sequence, list[int]]:
    """The tokens that each sequence gets of those drawn: up to the first that differs from its draft, or that ends it.

    Advances the constraints. The tokens of a sequence belong to its first rows, in order.
    """
    taken: dict[Sequence, list[int]] = {}
    drawn = zip(rows, token_ids, strict=True)
    for sequence, group in groupby(drawn, key=lambda each: each[0].sequence):
        taken[sequence] = own = []
        for row, drawn_id in group:
            token_id, constraint = drawn_id, sequence.constraint
            if constraint is not None:
                token_id = constraint.take(drawn_id, sequence.request.max_tokens - row.num_output)
            own.append(token_id)
            if sequence.ends_with(token_id, row.num_output + 1) is not None:
                break
            if token_id != drawn_id:  # the next row's mask knows nothing of that
                break
            if row.num_drafts == len(sequence.drafts) or sequence.drafts[row.num_drafts] != token_id:
                break
    return taken


def _count(rows: SequenceOf[Row], first: int) -> int:
    """Rows of the sequence whose first row is `first`."""
    end = first + 1
    while end < len(rows) and rows[end].sequence is rows[first].sequence:
        end += 1
    return end - first
