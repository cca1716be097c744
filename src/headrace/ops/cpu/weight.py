"""The CPU backend's `headrace.ops.base.Weight`."""

from __future__ import annotations

from dataclasses import dataclass

from headrace import _core
from headrace.ops.base import Weight


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
