"""The sampler's parameters of the running sequences, kept in arrays so that a step only picks rows from them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from headrace.engine.rows import MaskTable, Row
from headrace.engine.sequence import Sequence
from headrace.types import SamplingBatch

_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_NO_MASKS = np.empty((0, 0), np.uint32)
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class SamplingTable:
    """One row of parameters for each running sequence; `set` when it enters a row, `batch` in each step."""

    def __init__(self, num_rows: int) -> None:
        self._floats = {name: np.zeros(num_rows, np.float32) for name in _FLOATS}
        self._top_k = np.zeros(num_rows, np.int32)
        self._seed = np.zeros(num_rows, np.uint64)
        self._stream = np.zeros(num_rows, np.uint32)
        self._has_penalties = np.zeros(num_rows, np.bool_)
        self._owner: list[Sequence | None] = [None] * num_rows

    def set(self, sequence: Sequence) -> None:
        """Fill the sequence's row. Does nothing when it is filled already."""
        row, params = sequence.row, sequence.request.params
        if self._owner[row] is sequence:
            return
        self._owner[row] = sequence
        for name, column in self._floats.items():
            column[row] = getattr(params, name)
        self._top_k[row] = params.top_k
        self._seed[row] = sequence.request.seed & 0xFFFFFFFFFFFFFFFF
        self._stream[row] = sequence.index
        self._has_penalties[row] = any(getattr(params, name) != value for name, value in _NEUTRAL.items())

    def batch(self, of_rows: SequenceOf[Row], masks: MaskTable | None = None) -> SamplingBatch:
        """The parameters of the given rows of logits, in that order."""
        for row in of_rows:
            self.set(row.sequence)
        rows = [row.sequence.row for row in of_rows]
        history, history_start, output_start = self._histories(of_rows, self._has_penalties[rows])
        bias_ids, bias_values, bias_start = _biases(of_rows)
        floats = {name: column[rows] for name, column in self._floats.items()}
        return SamplingBatch(
            temperature=floats["temperature"],
            top_k=self._top_k[rows],
            top_p=floats["top_p"],
            min_p=floats["min_p"],
            repetition_penalty=floats["repetition_penalty"],
            presence_penalty=floats["presence_penalty"],
            frequency_penalty=floats["frequency_penalty"],
            seed=self._seed[rows],
            stream=self._stream[rows],
            position=np.array([row.num_output for row in of_rows], np.uint32),
            history=np.array(history, np.int32),
            history_start=np.array(history_start, np.int32),
            output_start=np.array(output_start, np.int32),
            bias_ids=np.array(bias_ids, np.int32),
            bias_values=np.array(bias_values, np.float32),
            bias_start=np.array(bias_start, np.int32),
            masks=_NO_MASKS if masks is None else masks.masks,
            mask_row=np.full(len(rows), -1, np.int32) if masks is None else masks.row,
        )

    @staticmethod
    def _histories(
        of_rows: SequenceOf[Row], has_penalties: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> tuple[list[int], list[int], list[int]]:
        history: list[int] = []
        history_start, output_start = [0], []
        for row, has in zip(of_rows, has_penalties, strict=True):
            output_start.append(len(history) + (row.sequence.num_prompt if has else 0))
            if has:
                history.extend(row.sequence.token_ids)
                history.extend(row.sequence.drafts[: row.num_drafts])
            history_start.append(len(history))
        return history, history_start, output_start


def _biases(of_rows: SequenceOf[Row]) -> tuple[list[int], list[float], list[int]]:
    ids: list[int] = []
    values: list[float] = []
    start = [0]
    for row in of_rows:
        request = row.sequence.request
        if request.params.logit_bias:
            ids.extend(request.params.logit_bias)
            values.extend(request.params.logit_bias.values())
        if row.num_output < request.params.min_tokens:
            banned = request.eos_token_ids.union(request.params.stop_token_ids or ())
            ids.extend(banned)
            values.extend([-np.inf] * len(banned))
        start.append(len(ids))
    return ids, values, start
