"""A forward pass as one native call: `record` runs it once on slots instead of arrays, the tape repeats it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np

from headrace import _core
from headrace.batch import Batch
from headrace.ops.base import (
    Deltas,
    Forward,
    HeadLayout,
    KVCache,
    MoeWeights,
    QkNormWeights,
    RecordableForward,
    RopeTable,
    Weight,
)
from headrace.ops.cpu.weight import native_deltas, native_weight
from headrace.ops.kinds import Activation, NormKind
from headrace.types import FloatArray, IntArray

_CACHE: Final = object()
"""Stands for every cache while a tape is recorded."""

_ADAPTERS: Final = "adapters"


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for an array while a tape is recorded; only the recorder's operations can do something with it."""

    number: int


@dataclass(slots=True)
class Clock:
    """Measures what the operations of recorded passes take, while it is running."""

    is_running: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By kind of operation; a linear's kind has its format and shape"""


def record(backend: _core.Backend, forward: RecordableForward, clock: Clock) -> Forward:
    """`forward`, recorded: the same results, bit for bit; `clock` is looked at whenever it runs.

    `forward` may only hand its arrays, the batch's arrays and the cache to operations. The tape keeps the weights and
    vectors that it uses alive.

    Raises:
        ValueError: an operation was given something of the wrong shape; the message says what.
        TypeError: `forward` computes with something itself.
    """
    recorder = Recorder()
    logits = forward(recorder, recorder.batch, _CACHE)
    recorder.tape.finish(logits.number)
    return Replay(backend, recorder.tape, recorder.kinds, clock)


class Replay:
    """A tape and the backend that it runs on: a `headrace.ops.base.Forward`."""

    def __init__(self, backend: _core.Backend, tape: _core.Tape, kinds: list[str], clock: Clock) -> None:
        self._backend = backend
        self._tape = tape
        self._kinds = kinds
        self._clock = clock
        self._width = tape.result_width

    def __call__(self, batch: Batch, cache: _core.KVCache) -> FloatArray:
        logits = np.empty((len(batch.logit_rows), self._width), np.float32)
        seconds = np.zeros(len(self._kinds)) if self._clock.is_running else None
        self._backend.run(
            self._tape,
            cache,
            batch.token_ids,
            batch.token_types,
            batch.positions,
            batch.rope_rows,
            batch.query_start,
            batch.block_tables,
            batch.logit_rows,
            batch.adapters,
            logits,
            seconds,
        )
        if seconds is not None:
            for kind, took in zip(self._kinds, seconds.tolist(), strict=True):
                if kind != _ADAPTERS or len(batch.adapters):
                    self._clock.seconds[kind] += took
        return logits


class Recorder:
    """`headrace.ops.base.ForwardOps` on slots: every operation becomes a step of the tape."""

    def __init__(self) -> None:
        self.tape = _core.Tape()
        self.batch = Batch(*(np.empty(0, np.int32) for each in fields(Batch) if each.init))
        """Stands for every batch: its arrays are known by their identity."""
        self.kinds: list[str] = []
        """Of each step"""

    def embed(self, table: Weight, ids: IntArray, scale: float = 1.0, add: Slot | None = None, offset: int = 0) -> Slot:
        names = ("token_ids", "token_types", "positions")
        name = next((name for name in names if getattr(self.batch, name) is ids), None)
        if name is None:
            raise TypeError("embed can be recorded with the batch's token ids, types or positions only, as they are")
        return self._step("embed", self.tape.embed(native_weight(table), name, scale, _number(add), offset))

    def norm(
        self,
        x: Slot,
        weight: FloatArray,
        bias: FloatArray | None,
        kind: NormKind,
        eps: float,
        add: Slot | None = None,
    ) -> Slot:
        return self._step("norm", self.tape.norm(x.number, weight, bias, kind, eps, _number(add)))

    def linear(
        self, x: Slot, weight: Weight, bias: FloatArray | None = None, scale: float = 1.0, add: Slot | None = None
    ) -> Slot:
        rows, columns = weight.shape
        number = self.tape.linear(x.number, native_weight(weight), bias, scale, _number(add))
        return self._step(f"linear {weight.format} {rows}x{columns}", number)

    def adapt(self, y: Slot, x: Slot, deltas: Deltas, slots: IntArray, scale: float = 1.0) -> Slot:
        if slots is not self.batch.adapters and slots is not self.batch.logit_adapters:
            raise TypeError("adapt can be recorded with the batch's adapters or logit_adapters only, as they are")
        return self._step(_ADAPTERS, self.tape.adapt(y.number, x.number, native_deltas(deltas), scale))

    def adapt_embedding(
        self,
        y: Slot,
        ids: IntArray,
        deltas: Deltas,
        slots: IntArray,
        scale: float = 1.0,
        add: Slot | None = None,
    ) -> Slot:
        if ids is not self.batch.token_ids or slots is not self.batch.adapters:
            raise TypeError("adapt_embedding can be recorded with the batch's token_ids and adapters only, as they are")
        number = self.tape.adapt_embedding(y.number, native_deltas(deltas), scale, _number(add))
        return self._step(_ADAPTERS, number)

    def rope_write(
        self,
        qkv: Slot,
        cache: KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        rope: RopeTable | None,
        qk_norm: QkNormWeights | None,
    ) -> Slot:
        self._check(batch, cache)
        return self._step(
            "rope and cache write",
            self.tape.rope_write(
                qkv.number,
                layer,
                layout.num_heads,
                layout.num_kv_heads,
                layout.head_dim,
                None if rope is None else rope.cos,
                None if rope is None else rope.sin,
                "" if qk_norm is None else qk_norm.kind,
                None if qk_norm is None else qk_norm.q,
                None if qk_norm is None else qk_norm.k,
                0.0 if qk_norm is None else qk_norm.eps,
            ),
        )

    def attention(
        self,
        q: Slot,
        cache: KVCache,
        layer: int,
        batch: Batch,
        layout: HeadLayout,
        scale: float,
        window: int | None,
        softcap: float | None,
        causal: bool = True,
    ) -> Slot:
        self._check(batch, cache)
        heads = (layout.num_heads, layout.num_kv_heads, layout.head_dim)
        number = self.tape.attention(q.number, layer, *heads, scale, window or 0, softcap or 0.0, causal)
        return self._step("attention", number)

    def activate(self, x: Slot, kind: Activation, gated: bool) -> Slot:
        return self._step("activate", self.tape.activate(x.number, kind, gated))

    def moe(self, x: Slot, weights: MoeWeights, scale: float = 1.0, add: Slot | None = None) -> Slot:
        return self._step(
            "mixture",
            self.tape.moe(
                x.number,
                native_weight(weights.router),
                _native_weights(weights.gate_up),
                _native_weights(weights.down),
                weights.top_k,
                weights.normalize,
                weights.activation,
                scale,
                _number(add),
            ),
        )

    def select(self, x: Slot, rows: IntArray) -> Slot:
        if rows is not self.batch.logit_rows:
            raise TypeError("select can be recorded with the batch's logit_rows only, as they are")
        return self._step("select", self.tape.select(x.number))

    def softcap(self, x: Slot, cap: float) -> Slot:
        return self._step("softcap", self.tape.softcap(x.number, cap))

    def _step(self, kind: str, number: int) -> Slot:
        self.kinds.append(kind)
        return Slot(number)

    def _check(self, batch: Batch, cache: KVCache) -> None:
        if batch is not self.batch or cache is not _CACHE:
            raise TypeError("keys and values can be recorded with the batch and the cache only, as they are")


def _number(slot: Slot | None) -> int | None:
    return None if slot is None else slot.number


def _native_weights(weights: Sequence[Weight]) -> tuple[_core.Weight, ...]:
    return tuple(native_weight(weight) for weight in weights)
