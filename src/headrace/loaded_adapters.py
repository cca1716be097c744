"""The LoRA adapters that a model has been given, by name."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import RequestError, UnknownModel
from headrace.hub.files import ModelFiles
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.loader import load_adapter
from headrace.types import AdapterRef


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that prompts can be completed with."""

    ref: AdapterRef
    path: str
    nbytes: int


class LoadedAdapters:
    """What the names stand for; the weights are the engine's. `enter` and `remove` mutate."""

    def __init__(self, files: ModelFiles, decoder: Decoder) -> None:
        self._files = files
        self._decoder = decoder
        self._numbers = itertools.count(1)
        self.by_name: dict[str, LoadedAdapter] = {}

    def read(self, name: str, path: str | Path) -> PackedAdapter:
        """An adapter from its folder; may run in any thread.

        Raises:
            RequestError: a name that is not one.
            ModelError: the adapter cannot be found or read, or does not fit the model.
        """
        if not isinstance(name, str) or not name:
            raise RequestError(f"the adapter's name is {name!r}, expected some text", param="name")
        return load_adapter(Path(path), self._files, self._decoder)

    def enter(self, name: str, path: str | Path, packed: PackedAdapter) -> tuple[AdapterRef, AdapterRef | None]:
        """Give the name to the adapter; returns what requests call it, and the one that had the name before."""
        before = self.by_name.get(name)
        ref = AdapterRef(name, next(self._numbers))
        self.by_name[name] = LoadedAdapter(ref, os.fspath(path), packed.nbytes)
        return ref, None if before is None else before.ref

    def remove(self, name: str) -> AdapterRef:
        """Take the name from the adapter that has it, which is returned.

        Raises:
            UnknownModel: there is none.
        """
        ref = self._known(name)
        del self.by_name[name]
        return ref

    def check_is_new(self, name: str, *, replace: bool) -> None:
        """Raise RequestError if the name is taken and the adapter behind it is not to be replaced."""
        if name in self.by_name and not replace:
            message = f"there is an adapter {name!r} already; unload it first, or load the new one in its place"
            raise RequestError(message, param="name")

    def ref(self, name: str | None) -> AdapterRef | None:
        """What requests call the adapter of that name; None for no name.

        Raises:
            UnknownModel: there is none.
        """
        return None if name is None else self._known(name)

    def _known(self, name: str) -> AdapterRef:
        adapter = self.by_name.get(name)
        if adapter is None:
            known = f"there are {', '.join(self.by_name)}" if self.by_name else "none is loaded"
            raise UnknownModel(f"there is no adapter {name!r}; {known}", param="adapter")
        return adapter.ref
