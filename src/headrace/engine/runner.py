"""Turns a plan into a Batch, runs the model on it and samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from headrace.batch import Batch
from headrace.engine.adapters import AdapterTable
from headrace.engine.beams import Candidates
from headrace.engine.rows import Masks, MaskTable, Row, accept
from headrace.engine.sampling import SamplingTable
from headrace.engine.scoring import Path, Scoring
from headrace.engine.sequence import Sequence
from headrace.model.decoder import Decoder
from headrace.ops.base import Array, KVCache, Ops
from headrace.types import FloatArray, IntArray, Logprob, TokenLogprobs

_NO_ADAPTERS = np.empty(0, np.int32)
_ROWS_AT_ONCE = 64
"""Copies of a row of logits of which several tokens are asked for"""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that a sequence got in this step."""

    token_id: int
    logprobs: TokenLogprobs | None
    mirostat_mu: float | None = None
    """Mirostat's state behind it; None without mirostat"""


@dataclass(slots=True)
class _LogitRows:
    """What the step's rows of logits are for."""

    prompt: list[tuple[Sequence, int]] = field(default_factory=list)
    """Prompt positions whose logprobs were asked for …"""
    prompt_at: list[int] = field(default_factory=list)
    """… and their rows"""
    sampled: list[Row] = field(default_factory=list)
    sampled_at: list[int] = field(default_factory=list)
    beams: list[Sequence] = field(default_factory=list)
    """Beams that get their candidates"""
    beams_at: list[int] = field(default_factory=list)
    scored: list[tuple[Scoring, Path]] = field(default_factory=list)
    """What given tokens follow"""
    scored_at: list[int] = field(default_factory=list)


class Runner:
    """Runs steps. Reads the sequences; writes only their `prompt_logprobs`, `num_tabled`, and what their beams
    and scorings wait for."""

    def __init__(
        self,
        decoder: Decoder,
        ops: Ops,
        cache: KVCache,
        adapters: AdapterTable,
        *,
        max_sequences: int,
        max_blocks: int,
    ) -> None:
        self._decoder = decoder
        self._ops = ops
        self._cache = cache
        self._adapters = adapters
        self._tables = np.zeros((max_sequences, max_blocks), np.int32)
        self._sampling = SamplingTable(max_sequences, decoder.spec.vocab_size)
        self._masks = Masks(decoder.spec.vocab_size)
        self.seconds_in_forward = 0.0
        self.seconds_in_sampling = 0.0

    def run(self, plan: Mapping[Sequence, int]) -> dict[Sequence, list[Sampled]]:
        """Compute num_tokens further tokens of each sequence, drafts included.

        Those that reach their last token get a new one, and another one for each draft that turns out to be right.
        """
        batch, rows = self._batch(plan)
        started = time.perf_counter()
        masks = self._masks.start(rows.sampled)
        logits = self._decoder.forward(batch, self._cache)
        forwarded = time.perf_counter()
        if rows.prompt:
            self._add_prompt_logprobs(logits, rows)
        if rows.beams:
            self._set_candidates(logits, rows)
        if rows.scored:
            self._score(logits, rows)
        sampled = self._sample(logits, rows, None if masks is None else masks.result()) if rows.sampled else {}
        self.seconds_in_forward += forwarded - started
        self.seconds_in_sampling += time.perf_counter() - forwarded
        return sampled

    def copy_blocks(self, copied: SequenceOf[tuple[int, int]]) -> None:
        """Copy blocks of the cache, each (from, to)."""
        if copied:
            sources, targets = np.array(copied, np.int32).T
            self._ops.copy_blocks(self._cache, np.ascontiguousarray(sources), np.ascontiguousarray(targets))

    def _batch(self, plan: Mapping[Sequence, int]) -> tuple[Batch, _LogitRows]:
        token_ids: list[int] = []
        starts: list[int] = []
        logit_rows: list[int] = []
        rows = _LogitRows()
        for sequence, num_tokens in plan.items():
            start, known = sequence.num_computed, len(sequence.token_ids)
            end = start + num_tokens
            first = len(token_ids)
            if sequence.wants_prompt_logprobs:
                for position in range(start, min(end, sequence.num_prompt - 1)):
                    rows.prompt.append((sequence, position))
                    rows.prompt_at.append(len(logit_rows))
                    logit_rows.append(first + position - start)
            starts.append(start)
            if num_tokens == 1 and end <= known:
                token_ids.append(sequence.token_ids[start])
            else:
                token_ids.extend(sequence.token_ids[start:end])
                token_ids.extend(sequence.drafts[max(start - known, 0) : max(end - known, 0)])
            if sequence.scoring is not None:
                for position in range(max(start, sequence.num_prompt - 1), end):
                    path = tuple(sequence.token_ids[sequence.num_prompt : position + 1])
                    if sequence.scoring.wanted(path):
                        rows.scored.append((sequence.scoring, path))
                        rows.scored_at.append(len(logit_rows))
                        logit_rows.append(first + position - start)
            if sequence.beam is not None and end == known:
                rows.beams.append(sequence)
                rows.beams_at.append(len(logit_rows))
                logit_rows.append(first + known - 1 - start)
            first_row = max(start - known + 1, 0)  # beyond 0 where drafts are computed one by one, in a draft model
            draws = sequence.beam is None and sequence.scoring is None
            for num_drafts in range(first_row, end - known + 1 if draws else 0):
                rows.sampled.append(Row(sequence, num_drafts))
                rows.sampled_at.append(len(logit_rows))
                logit_rows.append(first + known - 1 + num_drafts - start)
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
                adapters=self._adapter_slots(plan),
            ),
            rows,
        )

    def _rope_rows(self, plan: Mapping[Sequence, int], positions: IntArray) -> IntArray:
        if self._decoder.spec.rope_switch is None:
            return positions
        variants = np.repeat(np.array([s.rope_variant for s in plan], np.int32), list(plan.values()))
        return self._decoder.rope_rows(positions, variants)

    def _adapter_slots(self, plan: Mapping[Sequence, int]) -> IntArray:
        """The slot of each token's adapter; empty when no token has one."""
        if all(sequence.request.adapter is None for sequence in plan):
            return _NO_ADAPTERS
        slots = [self._adapters.slot_of(sequence.request.adapter) for sequence in plan]
        return np.repeat(np.array(slots, np.int32), list(plan.values()))

    def _write_table(self, sequence: Sequence) -> None:
        written, held = sequence.num_tabled, len(sequence.block_ids)
        if written < held:
            self._tables[sequence.row, written:held] = sequence.block_ids[written:held]
            sequence.num_tabled = held

    def _table_rows(self, plan: Mapping[Sequence, int]) -> IntArray:
        widest = max(len(sequence.block_ids) for sequence in plan)
        return self._tables[[sequence.row for sequence in plan], :widest]

    def _sample(self, logits: Array, rows: _LogitRows, masks: MaskTable | None) -> dict[Sequence, list[Sampled]]:
        if rows.prompt or rows.beams or rows.scored:
            logits = self._ops.select(logits, np.array(rows.sampled_at, np.int32))
        batch = self._sampling.batch(rows.sampled, masks)
        drawn = self._ops.sample(logits, batch).tolist()
        accepted = accept(rows.sampled, drawn)
        logprobs = self._logprobs(logits, rows.sampled, accepted)
        states = {  # a sequence with mirostat has no drafts, so one row
            row.sequence: float(batch.rows[at]["mirostat_mu"])
            for at, row in enumerate(rows.sampled)
            if row.sequence.mirostat_mu is not None
        }
        return {
            sequence: [
                Sampled(token_id, logprobs.get((sequence, at)), states.get(sequence))
                for at, token_id in enumerate(token_ids)
            ]
            for sequence, token_ids in accepted.items()
        }

    def _logprobs(
        self, logits: Array, rows: list[Row], accepted: Mapping[Sequence, list[int]]
    ) -> dict[tuple[Sequence, int], TokenLogprobs]:
        """Of the accepted tokens of those sequences that asked; keyed by the token's place among the accepted."""
        asked: list[int] = []
        counts: list[int] = []
        for at, row in enumerate(rows):
            params = row.sequence.request.params
            if params.logprobs is not None and row.num_drafts < len(accepted[row.sequence]):
                asked.append(at)
                counts.append(0 if params.logprob_token_ids else params.logprobs)
        if not asked:
            return {}
        token_ids = np.array([accepted[rows[at].sequence][rows[at].num_drafts] for at in asked], np.int32)
        found = self._ops.logprobs(self._ops.select(logits, np.array(asked, np.int32)), token_ids, max(counts))
        keys = [(rows[at].sequence, rows[at].num_drafts) for at in asked]
        entries = _as_dicts(token_ids, counts, *found)
        for at, entry in zip(asked, entries, strict=True):
            if given := rows[at].sequence.request.params.logprob_token_ids:
                entry.update(self._of_given(logits, at, given))
        return dict(zip(keys, entries, strict=True))

    def _of_given(self, logits: Array, at: int, token_ids: SequenceOf[int]) -> TokenLogprobs:
        """What one row says of some tokens."""
        found: TokenLogprobs = {}
        for first in range(0, len(token_ids), _ROWS_AT_ONCE):
            some = np.array(token_ids[first : first + _ROWS_AT_ONCE], np.int32)
            same_row = self._ops.select(logits, np.full(len(some), at, np.int32))
            logprobs, ranks, _, _ = self._ops.logprobs(same_row, some, 0)
            found |= dict(zip(some.tolist(), map(Logprob, logprobs.tolist(), ranks.tolist()), strict=True))
        return found

    def _set_candidates(self, logits: Array, rows: _LogitRows) -> None:
        beams = [sequence.beam for sequence in rows.beams if sequence.beam is not None]
        chosen = self._ops.select(logits, np.array(rows.beams_at, np.int32))
        counts = [beam.search.num_candidates for beam in beams]
        _, _, ids, logprobs = self._ops.logprobs(chosen, np.zeros(len(beams), np.int32), max(counts))
        for beam, count, row_ids, row_logprobs in zip(beams, counts, ids, logprobs, strict=True):
            beam.candidates = Candidates(row_ids[:count].tolist(), row_logprobs[:count].tolist())

    def _score(self, logits: Array, rows: _LogitRows) -> None:
        for (scoring, path), at in zip(rows.scored, rows.scored_at, strict=True):
            wanted = scoring.wanted(path)
            if wanted:  # else another sequence has come by here in the same step
                found = self._of_given(logits, at, wanted)
                scoring.learn(path, {token_id: each.logprob for token_id, each in found.items()})

    def _add_prompt_logprobs(self, logits: Array, rows: _LogitRows) -> None:
        counts = [sequence.request.params.prompt_logprobs or 0 for sequence, _ in rows.prompt]
        token_ids = np.array([sequence.token_ids[position + 1] for sequence, position in rows.prompt], np.int32)
        chosen = self._ops.select(logits, np.array(rows.prompt_at, np.int32))
        found = self._ops.logprobs(chosen, token_ids, max(counts))
        for (sequence, position), entry in zip(rows.prompt, _as_dicts(token_ids, counts, *found), strict=True):
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
