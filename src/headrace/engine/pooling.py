"""The other engine: whole prompts in, one vector or one row of scores for each. Nothing is generated, nothing cached.

submit → waiting ─ as many as fit into a step → forward → pool → finish ─→ PoolingOutput …

What comes out for a prompt depends on that prompt only: attention sums in tiles at absolute positions, rows of a linear
do not know of one another, and means are added up token by token in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.model.decoder import Decoder
from headrace.model.embedding import Embedder
from headrace.model.spec import Pooling
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.types import FloatArray, IntArray

BLOCK_SIZE = 16

_Pooled = NDArray[np.float64]


class PoolingEngine:
    """Runs pooling requests on one model. Not thread-safe: one thread calls all methods.

    `embedder` makes embeddings of hidden states, `step_tokens` how many tokens a step has at most, each prompt
    rounded up to blocks of 16. A longer prompt has a step of its own, in pieces if the model is causal.
    """

    def __init__(self, decoder: Decoder, embedder: Embedder, *, step_tokens: int, dtype: CacheType) -> None:
        self._decoder = decoder
        self._embedder = embedder
        self._step_tokens = step_tokens
        self._dtype = dtype
        self._waiting: dict[str, PoolingRequest] = {}
        self._num_blocks = 0
        self._cache = None
        self.num_tokens = 0
        """Prompt tokens computed since the start"""

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting."""
        return bool(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def submit(self, request: PoolingRequest) -> None:
        """Queue a request; its prompt is at most as long as the model's context."""
        assert request.id not in self._waiting, f"request id {request.id} is in use"
        assert request.token_ids
        self._waiting[request.id] = request

    def cancel(self, request_id: str, index: int | None = None) -> None:  # noqa: ARG002  as Engine's
        """Drop a request; unknown ids are ignored."""
        self._waiting.pop(request_id, None)

    def step(self) -> list[PoolingOutput]:
        """Compute the first requests that fit into a step; empty when there is nothing to do."""
        requests = self._next()
        if not requests:
            return []
        pooled = self._pool(requests)
        for request in requests:
            del self._waiting[request.id]
            self.num_tokens += len(request.token_ids)
        return [
            PoolingOutput(request.id, self._finish(request, row)) for request, row in zip(requests, pooled, strict=True)
        ]

    def _next(self) -> list[PoolingRequest]:
        requests: list[PoolingRequest] = []
        room = self._step_tokens // BLOCK_SIZE
        for request in self._waiting.values():
            room -= _blocks_for(len(request.token_ids))
            if room < 0 and requests:
                break
            requests.append(request)
        return requests

    def _pool(self, requests: Sequence[PoolingRequest]) -> list[_Pooled]:
        """What stands for each prompt, [H] float64."""
        self._make_room(sum(_blocks_for(len(request.token_ids)) for request in requests))
        if len(requests) == 1 and self._decoder.spec.causal:
            return [self._pool_in_pieces(requests[0])]
        return self._pool_whole(requests)

    def _make_room(self, num_blocks: int) -> None:
        if self._cache is None or num_blocks > self._num_blocks:
            self._num_blocks = max(num_blocks, self._step_tokens // BLOCK_SIZE)
            self._cache = self._decoder.new_cache(self._num_blocks, BLOCK_SIZE, self._dtype)

    def _pool_whole(self, requests: Sequence[PoolingRequest]) -> list[_Pooled]:
        counts = [len(request.token_ids) for request in requests]
        starts = [0, *accumulate(counts)]
        poolings = [self._pooling(request) for request in requests]
        rows = [_rows(pooling, count) for pooling, count in zip(poolings, counts, strict=True)]
        positions = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        batch = Batch(
            token_ids=np.concatenate([np.array(request.token_ids, np.int32) for request in requests]),
            positions=positions,
            rope_rows=self._rope_rows(positions, np.repeat([self._variant(count) for count in counts], counts)),
            query_start=np.array(starts, np.int32),
            block_tables=_tables([_blocks_for(count) for count in counts]),
            logit_rows=np.concatenate([start + each for start, each in zip(starts[:-1], rows, strict=True)]),
            token_types=self._token_types(requests),
        )
        hidden = self._decoder.hidden(batch, self._cache)
        ends = list(accumulate(len(each) for each in rows))
        return [_sum(hidden[end - len(each) : end]) / len(each) for end, each in zip(ends, rows, strict=True)]

    def _pool_in_pieces(self, request: PoolingRequest) -> _Pooled:
        """A causal model's prompt, a step's tokens at a time: the keys of earlier ones are in the cache."""
        count, pooling = len(request.token_ids), self._pooling(request)
        wanted, total = _rows(pooling, count), None
        token_types = self._token_types([request])
        for start in range(0, count, self._step_tokens):
            end = min(start + self._step_tokens, count)
            positions = np.arange(start, end, dtype=np.int32)
            batch = Batch(
                token_ids=np.array(request.token_ids[start:end], np.int32),
                positions=positions,
                rope_rows=self._rope_rows(positions, np.full(end - start, self._variant(count))),
                query_start=np.array([0, end - start], np.int32),
                block_tables=_tables([_blocks_for(count)]),
                logit_rows=wanted[(wanted >= start) & (wanted < end)] - start,
                token_types=token_types[start:end],
            )
            total = _sum(self._decoder.hidden(batch, self._cache), total)
        assert total is not None
        return total / len(wanted)

    def _pooling(self, request: PoolingRequest) -> Pooling:
        classifier = self._decoder.spec.classifier
        if not request.classify:
            return self._embedder.recipe.pooling
        assert classifier is not None
        return classifier.pooling

    def _variant(self, num_tokens: int) -> int:
        switch = self._decoder.spec.rope_switch
        return int(switch is not None and num_tokens > switch)

    def _rope_rows(self, positions: IntArray, variants: NDArray[np.int_]) -> IntArray:
        return self._decoder.rope_rows(positions, variants.astype(np.int32))

    def _token_types(self, requests: Sequence[PoolingRequest]) -> IntArray:
        """[T], or empty for a model that does not tell texts apart."""
        if not self._decoder.spec.token_types:
            return np.empty(0, np.int32)
        types = [
            np.array(request.token_types, np.int32)
            if request.token_types
            else np.zeros(len(request.token_ids), np.int32)
            for request in requests
        ]
        return np.concatenate(types)

    def _finish(self, request: PoolingRequest, pooled: _Pooled) -> FloatArray:
        """The embedding of its dimensions, or the classifier's logits."""
        row = pooled.astype(np.float32)
        if request.classify:
            logits: FloatArray = np.asarray(self._decoder.classify(row[None]))[0]
            return logits
        return self._embedder.finish(row, request.dimensions)


def _blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def _rows(pooling: Pooling, num_tokens: int) -> IntArray:
    """Which of a prompt's hidden states its pooling needs."""
    match pooling:
        case Pooling.FIRST:
            return np.zeros(1, np.int32)
        case Pooling.LAST:
            return np.full(1, num_tokens - 1, np.int32)
        case Pooling.MEAN:
            return np.arange(num_tokens, dtype=np.int32)


def _sum(hidden: FloatArray, before: _Pooled | None = None) -> _Pooled:
    """Rows [N, H] added up in order, after those that are in `before`."""
    rows = hidden.astype(np.float64)  # first: a reduction that converts may add in another order
    total: _Pooled = np.add.reduce(rows if before is None else np.concatenate([before[None], rows]), axis=0)
    return total


def _tables(counts: Sequence[int]) -> IntArray:
    """Each sequence's blocks, one after the other."""
    tables = np.zeros((len(counts), max(counts)), np.int32)
    start = 0
    for table, count in zip(tables, counts, strict=True):
        table[:count] = np.arange(start, start + count)
        start += count
    return tables
