"""A decoder driven by hand, without the engine: one sequence, a block table in no order, chunks as asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.batch import Batch
from headrace.model.decoder import Decoder

BLOCK_SIZE = 16


class OneSequence:
    """Feed token ids, get logits. `feed` computes all tokens again when longrope switches its factors."""

    def __init__(self, decoder: Decoder, max_tokens: int = 256) -> None:
        num_blocks = -(-max_tokens // BLOCK_SIZE)
        self.decoder = decoder
        self.token_ids: list[int] = []
        self.variant = 0
        self.table = np.random.default_rng(1).permutation(num_blocks).astype(np.int32)[None]
        self.cache = decoder.new_cache(num_blocks, BLOCK_SIZE)

    def feed(self, token_ids: Sequence[int], chunk: int | None = None) -> np.ndarray:
        """Logits [len(token_ids), V] of the given tokens, computed `chunk` at a time."""
        start, self.token_ids = len(self.token_ids), [*self.token_ids, *token_ids]
        switch = self.decoder.spec.rope_switch
        variant = int(switch is not None and len(self.token_ids) > switch)
        first = start if variant == self.variant else 0
        self.variant = variant
        step = chunk or len(self.token_ids)
        logits = [
            self._forward(at, min(at + step, len(self.token_ids))) for at in range(first, len(self.token_ids), step)
        ]
        return np.concatenate(logits)[start - first :]

    def _forward(self, start: int, end: int) -> np.ndarray:
        positions = np.arange(start, end, dtype=np.int32)
        batch = Batch(
            token_ids=np.array(self.token_ids[start:end], np.int32),
            positions=positions,
            rope_rows=self.decoder.rope_rows(positions, self.variant),
            query_start=np.array([0, end - start], np.int32),
            block_tables=self.table,
            logit_rows=np.arange(end - start, dtype=np.int32),
        )
        return np.asarray(self.decoder.forward(batch, self.cache)).copy()

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The most likely continuation."""
        output: list[int] = []
        tokens = list(prompt)
        while len(output) < num_tokens:
            output.append(int(self.feed(tokens)[-1].argmax()))
            tokens = output[-1:]
        return output
