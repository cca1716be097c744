"""The sampler's parameters of the running sequences, kept in arrays so that a step only picks rows from them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from headrace.engine.sequence import Sequence
from headrace.types import SamplingBatch

_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
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

    def batch(self, sequences: SequenceOf[Sequence]) -> SamplingBatch:
        """The parameters of the given sequences, in that order."""
        for sequence in sequences:
            self.set(sequence)
        rows = [sequence.row for sequence in sequences]
        history, history_start, output_start = self._histories(sequences, self._has_penalties[rows])
        bias_ids, bias_values, bias_start = _biases(sequences)
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
            position=np.array([s.num_output for s in sequences], np.uint32),
            history=np.array(history, np.int32),
            history_start=np.array(history_start, np.int32),
            output_start=np.array(output_start, np.int32),
            bias_ids=np.array(bias_ids, np.int32),
            bias_values=np.array(bias_values, np.float32),
            bias_start=np.array(bias_start, np.int32),
        )

    @staticmethod
    def _histories(
        sequences: SequenceOf[Sequence], has_penalties: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> tuple[list[int], list[int], list[int]]:
        history: list[int] = []
        history_start, output_start = [0], []
        for sequence, has in zip(sequences, has_penalties, strict=True):
            output_start.append(len(history) + (sequence.num_prompt if has else 0))
            if has:
                history.extend(sequence.token_ids)
            history_start.append(len(history))
        return history, history_start, output_start


def _biases(sequences: SequenceOf[Sequence]) -> tuple[list[int], list[float], list[int]]:
    ids: list[int] = []
    values: list[float] = []
    start = [0]
    for sequence in sequences:
        params = sequence.request.params
        if params.logit_bias:
            ids.extend(params.logit_bias)
            values.extend(params.logit_bias.values())
        if sequence.num_output < params.min_tokens:
            banned = sequence.request.eos_token_ids.union(params.stop_token_ids or ())
            ids.extend(banned)
            values.extend([-np.inf] * len(banned))
        start.append(len(ids))
    return ids, values, start
