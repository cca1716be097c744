"""Turns a plan into a Batch, runs the model on it and samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from headrace.engine.sampling import SamplingTable
from headrace.engine.sequence import Sequence
from headrace.model.decoder import Decoder
from headrace.ops.base import Array, KVCache, Ops
from headrace.types import Batch, FloatArray, IntArray, Logprob, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Sampled:
    """The token that a sequence got in this step."""

    token_id: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class _LogitRow:
    """A row of logits: the next token of a sequence, or a prompt position whose logprobs were asked for."""

    sequence: Sequence
    prompt_position: int | None


class Runner:
    """Runs steps. Reads the sequences; appends only to their `prompt_logprobs` and `num_tabled`."""

    def __init__(self, decoder: Decoder, ops: Ops, cache: KVCache, *, max_sequences: int, max_blocks: int) -> None:
        self._decoder = decoder
        self._ops = ops
        self._cache = cache
        self._tables = np.zeros((max_sequences, max_blocks), np.int32)
        self._sampling = SamplingTable(max_sequences)
        self.seconds_in_forward = 0.0
        self.seconds_in_sampling = 0.0

    def run(self, plan: Mapping[Sequence, int]) -> dict[Sequence, Sampled]:
        """Compute num_tokens further tokens of each sequence; those that reach their last token get a new one."""
        batch, rows = self._batch(plan)
        started = time.perf_counter()
        logits = self._decoder.forward(batch, self._cache)
        forwarded = time.perf_counter()
        sampled = self._sample(logits, rows) if rows else {}
        self.seconds_in_forward += forwarded - started
        self.seconds_in_sampling += time.perf_counter() - forwarded
        return sampled

    def _batch(self, plan: Mapping[Sequence, int]) -> tuple[Batch, list[_LogitRow]]:
        token_ids: list[int] = []
        starts: list[int] = []
        logit_rows: list[int] = []
        rows: list[_LogitRow] = []
        for sequence, num_tokens in plan.items():
            start = sequence.num_computed
            end = start + num_tokens
            if sequence.wants_prompt_logprobs:
                asked = range(start, min(end, sequence.num_prompt - 1))
                logit_rows.extend(len(token_ids) + p - start for p in asked)
                rows.extend(_LogitRow(sequence, p) for p in asked)
            starts.append(start)
            if num_tokens == 1:
                token_ids.append(sequence.token_ids[start])
            else:
                token_ids.extend(sequence.token_ids[start:end])
            if end == len(sequence.token_ids):
                logit_rows.append(len(token_ids) - 1)
                rows.append(_LogitRow(sequence, None))
            self._write_table(sequence)
        counts = list(plan.values())
        query_start = np.array([0, *accumulate(counts)], np.int32)
        positions = np.arange(len(token_ids), dtype=np.int32)
        positions += np.repeat(np.array(starts, np.int32) - query_start[:-1], counts)
        return (
            Batch(
                token_ids=np.array(token_ids, np.int32),
                positions=positions,
                rope_rows=self._rope_rows(plan, positions),
                query_start=query_start,
                block_tables=self._table_rows(plan),
                logit_rows=np.array(logit_rows, np.int32),
            ),
            rows,
        )

    def _rope_rows(self, plan: Mapping[Sequence, int], positions: IntArray) -> IntArray:
        if self._decoder.spec.rope_switch is None:
            return positions
        variants = np.repeat(np.array([s.rope_variant for s in plan], np.int32), list(plan.values()))
        return self._decoder.rope_rows(positions, variants)

    def _write_table(self, sequence: Sequence) -> None:
        written, held = sequence.num_tabled, len(sequence.block_ids)
        if written < held:
            self._tables[sequence.row, written:held] = sequence.block_ids[written:held]
            sequence.num_tabled = held

    def _table_rows(self, plan: Mapping[Sequence, int]) -> IntArray:
        widest = max(len(sequence.block_ids) for sequence in plan)
        return self._tables[[sequence.row for sequence in plan], :widest]

    def _sample(self, logits: Array, rows: list[_LogitRow]) -> dict[Sequence, Sampled]:
        prompt = [at for at, row in enumerate(rows) if row.prompt_position is not None]
        if prompt:
            self._add_prompt_logprobs(logits, rows, prompt)
        chosen = [at for at, row in enumerate(rows) if row.prompt_position is None]
        if not chosen:
            return {}
        if prompt:
            logits = self._ops.select(logits, np.array(chosen, np.int32))
        sequences = [rows[at].sequence for at in chosen]
        token_ids = self._ops.sample(logits, self._sampling.batch(sequences))
        logprobs = self._logprobs(logits, sequences, token_ids)
        return {
            sequence: Sampled(token_id, logprobs.get(at))
            for at, (sequence, token_id) in enumerate(zip(sequences, token_ids.tolist(), strict=True))
        }

    def _logprobs(self, logits: Array, sequences: list[Sequence], token_ids: IntArray) -> dict[int, TokenLogprobs]:
        counts = {at: s.request.params.logprobs for at, s in enumerate(sequences)}
        asked = {at: count for at, count in counts.items() if count is not None}
        if not asked:
            return {}
        rows = np.array(list(asked), np.int32)
        found = self._ops.logprobs(self._ops.select(logits, rows), token_ids[rows], max(asked.values()))
        return dict(zip(asked, _as_dicts(token_ids[rows], list(asked.values()), *found), strict=True))

    def _add_prompt_logprobs(self, logits: Array, rows: list[_LogitRow], prompt: list[int]) -> None:
        positions = [rows[at].prompt_position or 0 for at in prompt]
        sequences = [rows[at].sequence for at in prompt]
        counts = [s.request.params.prompt_logprobs or 0 for s in sequences]
        next_ids = [s.token_ids[p + 1] for s, p in zip(sequences, positions, strict=True)]
        token_ids = np.array(next_ids, np.int32)
        found = self._ops.logprobs(self._ops.select(logits, np.array(prompt, np.int32)), token_ids, max(counts))
        for sequence, position, entry in zip(sequences, positions, _as_dicts(token_ids, counts, *found), strict=True):
            if len(sequence.prompt_logprobs) == position + 1:  # else known from before a preemption
                sequence.prompt_logprobs.append(entry)


def _as_dicts(
    token_ids: IntArray,
    counts: list[int],
    logprob: FloatArray,
    rank: IntArray,
    top_ids: IntArray,
    top_logprobs: FloatArray,
) -> list[TokenLogprobs]:
    """One dict for each row: the token itself first, then the `count` most likely ones, best first."""
    entries: list[TokenLogprobs] = []
    columns = zip(
        token_ids.tolist(),
        counts,
        logprob.tolist(),
        rank.tolist(),
        top_ids.tolist(),
        top_logprobs.tolist(),
        strict=True,
    )
    for token_id, count, own, own_rank, ids, values in columns:
        entry = {token_id: Logprob(own, own_rank)}
        for at in range(min(count, len(ids))):
            entry.setdefault(ids[at], Logprob(values[at], at + 1))
        entries.append(entry)
    return entries
