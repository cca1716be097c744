"""The sampler's parameters of the running sequences, kept as records so that a step only picks rows from them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from headrace.batch import SamplingBatch, neutral_rows
from headrace.engine.rows import MaskTable, Row
from headrace.engine.sequence import Sequence
from headrace.types import FloatArray, IntArray, Request

_COPIED = (
    *("temperature", "dynatemp_range", "dynatemp_exponent", "top_n_sigma", "min_p", "top_k", "typical_p", "top_p"),
    *("xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "no_repeat_ngram_size"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
)
_NEUTRAL_WITHOUT_HISTORY = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "no_repeat_ngram_size": 0,
}


class SamplingTable:
    """One record of parameters for each running sequence; filled when it enters a row, picked from in each step."""

    def __init__(self, num_rows: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows = neutral_rows(num_rows)
        self._owner: list[Sequence | None] = [None] * num_rows
        self._extras: list[_Extras | None] = [None] * num_rows
        self._laid_out: list[_Extras] = []
        """Whose parts stand in …"""
        self._tables = SamplingBatch(self._rows[:0])
        """… the tables of this, in that order"""

    def batch(self, of_rows: SequenceOf[Row], masks: MaskTable | None = None) -> SamplingBatch:
        """The parameters of the given rows of logits, in that order."""
        index = []
        special: list[tuple[int, _Extras]] = []
        for at, row in enumerate(of_rows):
            sequence = row.sequence
            if self._owner[sequence.row] is not sequence:
                self._enter(sequence)
            index.append(sequence.row)
            extras = self._extras[sequence.row]
            if extras is not None:
                special.append((at, extras))
        if special:
            self._lay_out([extras for _, extras in special])
        rows = self._rows[index]
        rows["position"] = [row.num_output for row in of_rows]
        if masks is not None:
            rows["mask"] = masks.row
        batch = SamplingBatch(rows) if masks is None else SamplingBatch(rows, masks=masks.masks)
        if special:
            tables = self._tables
            batch.bias_ids, batch.bias_values = tables.bias_ids, tables.bias_values
            batch.phrase_ids, batch.phrase_start = tables.phrase_ids, tables.phrase_start
            batch.token_sets = tables.token_sets
            batch.history = _fill_changing(rows, of_rows, special)
        return batch

    def _enter(self, sequence: Sequence) -> None:
        at, params = sequence.row, sequence.request.params
        self._owner[at] = sequence
        self._rows[at] = neutral_rows(1)[0]
        record = self._rows[at]
        for name in _COPIED:
            record[name] = getattr(params, name)
        record["seed"] = sequence.request.seed & 0xFFFFFFFFFFFFFFFF
        record["stream"] = sequence.index
        self._extras[at] = _Extras(sequence, self._vocab_size) if _has_extras(sequence.request) else None

    def _lay_out(self, special: list[_Extras]) -> None:
        """Put the parts that stay from step to step into tables, one after the other; only when they change."""
        extras = list(dict.fromkeys(special))
        if extras == self._laid_out:
            return
        self._laid_out = extras
        tables = self._tables = SamplingBatch(self._rows[:0])
        tables.bias_ids = np.concatenate([each.bias_ids for each in extras])
        tables.bias_values = np.concatenate([each.bias_values for each in extras])
        phrases: list[tuple[int, ...]] = []
        sets: list[NDArray[np.uint32]] = []
        num_biases = 0
        for each in extras:
            record = self._rows[each.row]
            record["bias_start"] = num_biases + each.num_early
            num_biases += len(each.bias_ids)
            record["bias_end"] = num_biases
            for name, own in (("ban", each.banned), ("breaker", each.breakers)):
                record[f"{name}_start"] = len(phrases)
                phrases += own
                record[f"{name}_end"] = len(phrases)
            for name, bits in (("allowed_set", each.allowed_set), ("breaker_set", each.breaker_set)):
                record[name] = -1 if bits is None else len(sets)
                sets += [] if bits is None else [bits]
        tables.phrase_ids = np.array([token_id for phrase in phrases for token_id in phrase], np.int32)
        tables.phrase_start = np.array([0, *accumulate(len(phrase) for phrase in phrases)], np.int32)
        if sets:
            tables.token_sets = np.stack(sets)


class _Extras:
    """What a sequence has besides its record."""

    __slots__ = (
        *("allowed_set", "banned", "bias_ids", "bias_values", "breaker_set", "breakers", "history"),
        *("min_tokens", "mirostat", "num_early", "penalty_last_n", "row"),
    )

    def __init__(self, sequence: Sequence, vocab_size: int) -> None:
        request = sequence.request
        params = request.params
        early = request.eos_token_ids.union(params.stop_token_ids or ()) if params.min_tokens else ()
        bias = params.logit_bias or {}
        breakers = request.dry_breakers if params.dry_multiplier else ()
        self.row = sequence.row
        self.min_tokens = params.min_tokens
        self.mirostat = bool(params.mirostat)
        self.penalty_last_n = params.penalty_last_n
        self.num_early = len(early)
        """Leading biases that hold for the first min_tokens only"""
        self.bias_ids: IntArray = np.array([*early, *bias], np.int32)
        self.bias_values: FloatArray = np.array([*[-np.inf] * len(early), *bias.values()], np.float32)
        self.banned = request.bad_phrases
        self.breakers = [phrase for phrase in breakers if len(phrase) > 1]
        self.breaker_set = (
            _bits((phrase[0] for phrase in breakers if len(phrase) == 1), vocab_size) if breakers else None
        )
        self.allowed_set = None if params.allowed_token_ids is None else _bits(params.allowed_token_ids, vocab_size)
        self.history = _History() if _needs_history(request) else None


class _History:
    """Prompt and output of a sequence as an array that grows with them."""

    __slots__ = ("_buffer", "_known")

    def __init__(self) -> None:
        self._buffer: IntArray = np.empty(0, np.int32)
        self._known = 0

    def with_drafts(self, sequence: Sequence) -> IntArray:
        """The sequence's tokens and all its drafts; valid until the next call."""
        known = len(sequence.token_ids)
        size = known + len(sequence.drafts)
        if size > len(self._buffer):
            grown = np.empty(2 * size, np.int32)
            grown[: self._known] = self._buffer[: self._known]
            self._buffer = grown
        self._buffer[self._known : known] = sequence.token_ids[self._known :]
        self._buffer[known:size] = sequence.drafts
        self._known = known
        return self._buffer[:size]


def _fill_changing(
    rows: NDArray[np.void], of_rows: SequenceOf[Row], special: SequenceOf[tuple[int, _Extras]]
) -> IntArray:
    """Set what changes from step to step; returns the histories, each once for all rows of its sequence."""
    histories: list[IntArray] = []
    start = end = 0
    last: _Extras | None = None
    for at, extras in special:
        row, record = of_rows[at], rows[at]
        if row.num_output < extras.min_tokens:
            record["bias_start"] -= extras.num_early
        if extras.mirostat:
            record["mirostat_mu"] = row.sequence.mirostat_mu
        if extras.history is None:
            continue
        if extras is not last:
            last = extras
            histories.append(extras.history.with_drafts(row.sequence))
            start, end = end, end + len(histories[-1])
        output, known = start + row.sequence.num_prompt, start + row.sequence.num_prompt + row.num_output
        first = start if extras.penalty_last_n == -1 else max(start, known - extras.penalty_last_n)
        record["history_start"] = first
        record["output_start"] = max(first, output)
        record["history_end"] = known
    return np.concatenate(histories) if histories else np.empty(0, np.int32)


def _has_extras(request: Request) -> bool:
    params = request.params
    plain = not (params.logit_bias or params.min_tokens or params.mirostat) and params.allowed_token_ids is None
    return not plain or _needs_history(request)


def _needs_history(request: Request) -> bool:
    changed = any(getattr(request.params, name) != value for name, value in _NEUTRAL_WITHOUT_HISTORY.items())
    return changed or bool(request.bad_phrases)


def _bits(token_ids: Iterable[int], vocab_size: int) -> NDArray[np.uint32]:
    """A set of tokens as [ceil(V / 32)] words."""
    is_in = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
    is_in[list(token_ids)] = True
    return np.packbits(is_in, bitorder="little").view(np.uint32)
