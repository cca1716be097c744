"""The CPU backend's `headrace.ops.base.Weight` and `Deltas`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace import _core
from headrace.ops.base import Deltas, LowRankPart, Weight


@dataclass(frozen=True, slots=True)
class CpuWeight:
    """A matrix in panels of 16 rows, or a table as its file has it; a `headrace.ops.base.Weight`."""

    native: _core.Weight
    shape: tuple[int, int]
    format: str
    nbytes: int


def native_weight(weight: Weight) -> _core.Weight:
    """What the kernels know of a weight that `CpuOps.pack` has given."""
    assert isinstance(weight, CpuWeight), "the weight was packed by another backend"
    return weight.native


@dataclass(frozen=True, slots=True)
class CpuDeltas:
    """A `headrace.ops.base.Deltas`."""

    native: _core.Deltas

    def set(self, slot: int, parts: Sequence[LowRankPart]) -> None:
        self.native.set(slot, [_native_part(part) for part in parts])

    def clear(self, slot: int) -> None:
        self.native.clear(slot)


def native_deltas(deltas: Deltas) -> _core.Deltas:
    """What the kernels know of what `CpuOps.new_deltas` has given."""
    assert isinstance(deltas, CpuDeltas), "the deltas are another backend's"
    return deltas.native


def _native_part(part: LowRankPart) -> tuple[_core.Weight | None, _core.Weight, int, float]:
    down = None if part.down is None else native_weight(part.down)
    return down, native_weight(part.up), part.first_row, part.scale
