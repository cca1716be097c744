"""Which adapters requests may name, and how long each is kept: until it is unloaded and nothing uses it any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.engine.sequence import Sequence
from headrace.errors import UnknownModel
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.types import AdapterRef


@dataclass(slots=True)
class _Loaded:
    slot: int
    num_users: int = 0
    is_leaving: bool = False


class AdapterTable:
    """The adapters of an engine. `load`, `unload` and `release` change the decoder: between two steps only."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._loaded: dict[AdapterRef, _Loaded] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, adapter: AdapterRef, packed: PackedAdapter) -> None:
        """Requests may name the adapter from now on."""
        assert adapter not in self._loaded
        self._loaded[adapter] = _Loaded(self._decoder.adapters.add(packed))

    def unload(self, adapter: AdapterRef) -> None:
        """No new request may name it; what uses it goes on to its end."""
        loaded = self._loaded[adapter]
        loaded.is_leaving = True
        self._drop_unused(adapter, loaded)

    def slot_of(self, adapter: AdapterRef | None) -> int:
        """The adapter's slot in the decoder; -1 for none."""
        return -1 if adapter is None else self._loaded[adapter].slot

    def hold(self, adapter: AdapterRef | None) -> None:
        """One request more uses it.

        Raises:
            UnknownModel: it is not loaded any more.
        """
        if adapter is None:
            return
        loaded = self._loaded.get(adapter)
        if loaded is None or loaded.is_leaving:
            raise UnknownModel(f"the adapter {adapter.name!r} was unloaded; load it again", param="model")
        loaded.num_users += 1

    def release(self, adapter: AdapterRef | None) -> None:
        """One request less uses it."""
        if adapter is not None:
            loaded = self._loaded[adapter]
            loaded.num_users -= 1
            self._drop_unused(adapter, loaded)

    def _drop_unused(self, adapter: AdapterRef, loaded: _Loaded) -> None:
        if loaded.is_leaving and not loaded.num_users:
            self._decoder.adapters.remove(loaded.slot)
            del self._loaded[adapter]


def adapter_names(sequences: Iterable[Sequence]) -> tuple[str, ...]:
    """Names of the adapters that the sequences run with, each once."""
    used = (sequence.request.adapter for sequence in sequences)
    return tuple(sorted({adapter.name for adapter in used if adapter is not None}))
