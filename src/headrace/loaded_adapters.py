"""The LoRA adapters that a model has been given, by name."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import RequestError, UnknownModel
from headrace.types import AdapterRef


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that prompts can be completed with."""

    ref: AdapterRef
    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """An adapter as vLLM has it: by name and folder. `lora_int_id` is above 0; here the name is what counts."""

    lora_name: str
    lora_int_id: int
    lora_path: str | Path

    def __post_init__(self) -> None:
        if not isinstance(self.lora_name, str):
            message = f"lora_name is of type {type(self.lora_name).__name__}, expected str"
            raise RequestError(message, param="lora_name")
        check_path("lora_path", self.lora_path)
        if isinstance(self.lora_int_id, bool) or not isinstance(self.lora_int_id, int) or self.lora_int_id < 1:
            message = f"lora_int_id is {self.lora_int_id!r}, expected a whole number above 0"
            raise RequestError(message, param="lora_int_id")


def check_path(name: str, path: object) -> None:
    """Raise RequestError if what an argument of that name says is no path."""
    if not isinstance(path, str | os.PathLike):
        raise RequestError(f"{name} is of type {type(path).__name__}, expected str or PathLike", param=name)


class LoadedAdapters:
    """What the names stand for; the weights are the engine's. `enter` and `remove` mutate."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.by_name: dict[str, LoadedAdapter] = {}

    def new_ref(self, name: str, *, replace: bool = False) -> AdapterRef:
        """What requests will call an adapter that is about to be loaded.

        Raises:
            RequestError: a name that is not one, or is taken and the adapter behind it not to be replaced.
        """
        if not isinstance(name, str) or not name:
            raise RequestError(f"the adapter's name is {name!r}, expected some text", param="name")
        self.check_is_new(name, replace=replace)
        return AdapterRef(name, next(self._numbers))

    def check_is_new(self, name: str, *, replace: bool) -> None:
        """Raise RequestError if the name is taken and the adapter behind it is not to be replaced."""
        if name in self.by_name and not replace:
            message = f"there is an adapter {name!r} already; unload it first, or load the new one in its place"
            raise RequestError(message, param="name")

    def enter(self, adapter: LoadedAdapter) -> AdapterRef | None:
        """Give an adapter its name; returns the one that had the name before."""
        before = self.by_name.get(adapter.ref.name)
        self.by_name[adapter.ref.name] = adapter
        return None if before is None else before.ref

    def remove(self, name: str) -> AdapterRef:
        """Take the name from the adapter that has it, which is returned.

        Raises:
            UnknownModel: there is none.
        """
        ref = self._known(name)
        del self.by_name[name]
        return ref

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
