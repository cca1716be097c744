"""The adapters that a decoder has loaded: low-rank updates of its matrices (LoRA, arXiv:2106.09685), by slots.

`pack` may run in any thread; `add` and `remove` change what the next forward pass reads, so they belong between two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.formats.tensor import Tensor
from headrace.model.spec import ModelSpec
from headrace.model.weights import DecoderWeights, LayerWeights, MlpWeights
from headrace.ops.base import Deltas, LowRankPart, Ops, Weight


@dataclass(frozen=True, slots=True)
class Update:
    """scale * up @ down, added to canonical matrices that were one in the checkpoint: stacked they are `ups`.

    down [rank, columns], up [rows, rank]. Without `down` the (only) target is replaced by `up`.
    """

    targets: tuple[str, ...]
    """Names as in headrace.model.spec, without .weight"""
    down: Tensor | None
    ups: tuple[Tensor, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """An adapter in a backend's hands, not in use yet."""

    parts: tuple[tuple[Deltas, tuple[LowRankPart, ...]], ...]
    """For each matrix that it changes"""

    @property
    def nbytes(self) -> int:
        """Bytes of all its matrices."""
        every = [part for _, parts in self.parts for part in parts]
        return sum(part.up.nbytes + (0 if part.down is None else part.down.nbytes) for part in every)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a canonical matrix stands: its rows within a matrix of the decoder."""

    deltas: Deltas
    first_row: int
    num_rows: int
    is_table: bool = False


class Adapters:
    """The adapters of one decoder. A slot is what `Batch.adapters` names one by."""

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, ops: Ops) -> None:
        self._ops = ops
        self._places = _places(spec, weights)
        self._loaded: dict[int, PackedAdapter] = {}

    @property
    def slots(self) -> Mapping[int, PackedAdapter]:
        """What is loaded."""
        return self._loaded

    @property
    def targets(self) -> frozenset[str]:
        """Names of the matrices that can be adapted."""
        return frozenset(self._places)

    def pack(self, updates: Iterable[Update]) -> PackedAdapter:
        """Pack updates whose targets are among `targets` and whose shapes fit."""
        parts: dict[int, tuple[Deltas, list[LowRankPart]]] = {}
        for update in sorted(updates, key=lambda update: update.down is not None):  # whole matrices first
            place = self._places[update.targets[0]]
            part = self._part(place, update)
            parts.setdefault(id(place.deltas), (place.deltas, []))[1].append(part)
        return PackedAdapter(tuple((deltas, tuple(of_matrix)) for deltas, of_matrix in parts.values()))

    def add(self, adapter: PackedAdapter) -> int:
        """Take an adapter into use; its slot."""
        slot = next(slot for slot in range(len(self._loaded) + 1) if slot not in self._loaded)
        self._loaded[slot] = adapter
        for deltas, parts in adapter.parts:
            deltas.set(slot, parts)
        return slot

    def remove(self, slot: int) -> None:
        """Forget the adapter of a slot; nothing that runs may use it."""
        for deltas, _ in self._loaded.pop(slot).parts:
            deltas.clear(slot)

    def _part(self, place: _Place, update: Update) -> LowRankPart:
        pack_down = self._pack_table if place.is_table else self._ops.pack
        if update.down is None:
            return LowRankPart(None, pack_down(update.ups))
        rows = place.first_row
        for name in update.targets:  # they lie side by side, as they did in the checkpoint
            assert self._places[name].deltas is place.deltas
            assert self._places[name].first_row == rows
            rows += self._places[name].num_rows
        down = update.down.transpose() if place.is_table else update.down
        return LowRankPart(pack_down([down]), self._ops.pack(update.ups), place.first_row, update.scale)

    def _pack_table(self, parts: Sequence[Tensor]) -> Weight:
        [part] = parts
        return self._ops.pack_table(part)


def _places(spec: ModelSpec, weights: DecoderWeights) -> dict[str, _Place]:
    places = {
        "embed": _Place(weights.embed_deltas, 0, spec.hidden_size, is_table=True),
        "head": _Place(weights.head_deltas, 0, spec.vocab_size),
    }
    for index, layer in enumerate(weights.layers):
        for deltas, stacked in _of_layer(spec, layer):
            row = 0
            for name, num_rows in stacked.items():
                places[f"layers.{index}.{name}"] = _Place(deltas, row, num_rows)
                row += num_rows
    return places


def _of_layer(spec: ModelSpec, layer: LayerWeights) -> list[tuple[Deltas, dict[str, int]]]:
    """The layer's matrices: the names and rows of what is stacked in each. Those of experts cannot be adapted."""
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    matrices = [
        (layer.qkv.deltas, {"q": queries, "k": keys, "v": keys}),
        (layer.output.deltas, {"o": spec.hidden_size}),
    ]
    if isinstance(layer.mlp, MlpWeights):
        up = dict.fromkeys(("gate", "up") if spec.gated else ("up",), spec.inner_size)
        matrices += [(layer.mlp.up.deltas, up), (layer.mlp.down.deltas, {"down": spec.hidden_size})]
    return matrices
