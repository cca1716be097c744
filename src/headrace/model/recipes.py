"""How a checkpoint's tensor becomes canonical weights: cut, permuted or transposed whole rows, nothing decoded.

A NameTable maps a source module ("layers.{}.self_attn.q_proj", numbers as {}) to a canonical name with the same
numbers ("layers.{}.q"), which means as it is, or to one of the recipes below. `.weight` and `.bias` follow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.formats.tensor import Tensor
from headrace.model.spec import ModelSpec, Shape

_OLD_SUFFIXES: Mapping[str, str] = {"gamma": "weight", "beta": "bias"}
"""Of norms in checkpoints that came from TensorFlow"""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Rows:
    """The source is the targets stacked along their rows; with one target, the source as it is."""

    def __init__(self, *targets: str) -> None:
        self._targets = targets

    def names(self, numbers: Sequence[int], spec: ModelSpec) -> list[str]:  # noqa: ARG002
        """Canonical names (without .weight or .bias) for a source with those numbers in its name."""
        return [target.format(*numbers) for target in self._targets]

    def source_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape that the source must have to give targets of those shapes."""
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def cut(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:
        """The targets, given a source of the right shape."""
        return self.cut_rows(tensor, shapes, spec)

    def cut_rows(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:  # noqa: ARG002
        """The targets' rows of what has a row for each output, as an adapter's second matrix."""
        ends = np.cumsum([shape[0] for shape in shapes]).tolist()
        return [
            take(tensor, slice(end - shape[0], end)) if len(shapes) > 1 else tensor
            for end, shape in zip(ends, shapes, strict=True)
        ]


class TransposedRows(Rows):
    """The same of a source that is stored [columns, rows] (GPT-2's Conv1D); a bias has nothing to transpose."""

    def source_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See Rows."""
        return super().source_shape(shapes)[::-1]

    def cut(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:
        """See Rows."""
        return super().cut(tensor.transpose() if len(tensor.shape) == 2 else tensor, shapes, spec)


class HeadRows(Rows):
    """The source holds the targets' rows head by head: q, k, v of head 0, q, k, v of head 1 … (GPT-NeoX)."""

    def cut_rows(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:
        """See Rows."""
        rows = np.arange(tensor.shape[0]).reshape(spec.num_heads, len(shapes), spec.head_dim)
        return [take(tensor, rows[:, index].ravel()) for index in range(len(shapes))]


class Interleaved(Rows):
    """Queries or keys whose rotated pairs are neighbours (2i, 2i + 1) become half form (i, i + rotated / 2)."""

    def cut_rows(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:  # noqa: ARG002
        """See Rows."""
        rotated = spec.ropes[0].rotated
        within = np.arange(spec.head_dim)
        within[:rotated] = np.arange(rotated).reshape(-1, 2).T.ravel()
        heads = np.arange(0, tensor.shape[0], spec.head_dim)
        return [take(tensor, (heads[:, None] + within).ravel())]


class PlusOne(Rows):
    """A norm's weight stored as its difference from 1 (Gemma)."""

    def cut(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:  # noqa: ARG002
        """See Rows."""
        return [Tensor.from_array(tensor.name, np.float32(1) + tensor.decode())]


class Experts(Rows):
    """All experts of a layer in one tensor [experts, rows, columns] (GGUF)."""

    def names(self, numbers: Sequence[int], spec: ModelSpec) -> list[str]:
        """See Rows."""
        num_experts = spec.moe.num_experts if spec.moe is not None else 0
        return [self._targets[0].format(*numbers, expert) for expert in range(num_experts)]

    def source_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See Rows."""
        return (len(shapes), *shapes[0])

    def cut(self, tensor: Tensor, shapes: Sequence[Shape], spec: ModelSpec) -> list[Tensor]:  # noqa: ARG002
        """See Rows."""
        return [tensor.expert(index) for index in range(len(shapes))]


@dataclass(frozen=True, slots=True)
class NameTable:
    """A family's names in one kind of checkpoint."""

    modules: Mapping[str, str | Rows]
    """Source module → canonical module or recipe"""
    prefixes: tuple[str, ...] = ()
    """A checkpoint may put one of these before its names, or none"""
    ignored: frozenset[str] = frozenset()
    """Names, numbers as {}, of tensors that are no weights (masks, tables of frequencies)"""

    def targets(self, pattern: str, numbers: Sequence[int], spec: ModelSpec) -> tuple[list[str], Rows | None]:
        """Canonical names of what becomes of a source, and how; ([], None) for an unknown source."""
        module, _, suffix = pattern.rpartition(".")
        suffix = _OLD_SUFFIXES.get(suffix, suffix)
        entry = self.modules.get(module)
        if entry is None or suffix not in ("weight", "bias"):
            return [], None
        recipe = Rows(entry) if isinstance(entry, str) else entry
        return [f"{target}.{suffix}" for target in recipe.names(numbers, spec)], recipe

    def pattern(self, name: str) -> tuple[str, list[int]]:
        """ "model.layers.3.mlp.up.weight" → "layers.{}.mlp.up.weight", [3]."""
        prefix = next((prefix for prefix in self.prefixes if name.startswith(prefix)), "")
        name = name.removeprefix(prefix)
        return _NUMBER.sub("{}", name), [int(number) for number in _NUMBER.findall(name)]


def take(tensor: Tensor, rows: NDArray[np.integer] | slice) -> Tensor:
    """Rows of a matrix, still encoded; entries of a vector, decoded."""
    if len(tensor.shape) > 1:
        return tensor.take_rows(rows)
    return Tensor.from_array(tensor.name, tensor.decode()[rows])
