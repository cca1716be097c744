"""The adapters of a supervised engine: what a new process has to load again, and who waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import EngineError, HeadraceError
from headrace.supervise.fingerprint import Fingerprint, changed, of_folder
from headrace.types import AdapterRef


@dataclass(slots=True)
class _Held:
    folder: Path
    files: Fingerprint | None
    """Of its files when it was first loaded; None: they could not be looked at, which its loading will say"""
    loading: asyncio.Future[int] | None = None
    """Who waits until it has been loaded for the first time; None when it has"""
    is_asked: bool = False
    """The process was told to load it …"""
    is_there: bool = False
    """… and has"""
    is_leaving: bool = False
    """It was unloaded, and is still in use"""
    strikes: int = 0
    """Deaths while it was loaded for the first time"""
    error: HeadraceError | None = None
    """Why it cannot be loaded again"""


class HeldAdapters:
    """What is known of each adapter, over the deaths of processes. `folders` are those of a process that starts."""

    def __init__(self, folders: Mapping[AdapterRef, str | Path]) -> None:
        self._held = {
            adapter: _Held(Path(folder).absolute(), _fingerprint(Path(folder)), is_asked=True, is_there=True)
            for adapter, folder in folders.items()
        }

    @property
    def folders(self) -> list[tuple[AdapterRef, str]]:
        """Of those that the process has."""
        return [(adapter, str(held.folder)) for adapter, held in self._held.items() if held.is_there]

    @property
    def is_restoring(self) -> bool:
        """Whether the process still loads one that requests may have been promised."""
        return any(held.is_asked and not held.is_there and held.loading is None for held in self._held.values())

    @property
    def is_loading(self) -> bool:
        """Whether the process loads one for the first time."""
        return any(held.is_asked and held.loading is not None for held in self._held.values())

    def add(self, adapter: AdapterRef, folder: str | Path, loading: asyncio.Future[int]) -> None:
        """Someone wants a new one; `to_load` has it next."""
        path = Path(folder).absolute()
        self._held[adapter] = _Held(path, _fingerprint(path), loading)

    def to_load(self) -> Iterator[tuple[AdapterRef, str]]:
        """What the process is to be told to load now. One whose files have changed meanwhile is not loaded again."""
        for adapter, held in self._held.items():
            if held.is_asked or held.error is not None:
                continue
            if held.loading is None and (error := _changed(adapter, held)) is not None:
                held.error = error
                continue
            held.is_asked = True
            yield adapter, str(held.folder)

    def arrived(self, adapter: AdapterRef, found: int | HeadraceError) -> bool:
        """The process has loaded one, or says why not; whether it is to forget it, since nobody wants it any more."""
        held = self._held.get(adapter)
        if held is None:
            return isinstance(found, int)
        held.is_there = isinstance(found, int)
        if held.loading is None:
            held.error = None if isinstance(found, int) else _cannot_return(adapter, str(found))
            held.is_asked = held.is_there
            return False
        if not held.loading.done():
            held.loading.set_result(found) if isinstance(found, int) else held.loading.set_exception(found)
        held.loading = None
        if isinstance(found, HeadraceError):
            del self._held[adapter]
        return False

    def check(self, adapter: AdapterRef | None) -> None:
        """Raise EngineError if requests for the adapter cannot run any more."""
        held = None if adapter is None else self._held.get(adapter)
        if held is not None and held.error is not None:
            raise held.error

    def leave(self, adapter: AdapterRef) -> None:
        """Forget an adapter as soon as nothing uses it."""
        if (held := self._held.get(adapter)) is not None:
            held.is_leaving = True

    def is_leaving(self, adapter: AdapterRef) -> bool:
        """Whether it was unloaded."""
        held = self._held.get(adapter)
        return held is not None and held.is_leaving

    def forget(self, adapter: AdapterRef) -> bool:
        """Nothing uses it; whether the process is to be told. One that it still loads is forgotten when it arrives."""
        held = self._held.pop(adapter, None)
        return held is not None and held.is_there

    def died(self, most_strikes: int) -> None:
        """The process is gone. Who has waited for one through so many deaths hears that it cannot be loaded."""
        for adapter, held in list(self._held.items()):
            was_loading = held.is_asked and held.loading is not None
            held.is_asked = held.is_there = False
            held.strikes += was_loading
            if held.loading is not None and held.strikes >= most_strikes:
                self._fail(adapter, EngineError("the engine died while it loaded this adapter; look at its log"))

    def give_up(self, error: HeadraceError) -> None:
        """Nobody shall wait any longer."""
        for adapter, held in list(self._held.items()):
            if held.loading is not None:
                self._fail(adapter, error)

    def _fail(self, adapter: AdapterRef, error: HeadraceError) -> None:
        loading = self._held.pop(adapter).loading
        if loading is not None and not loading.done():
            loading.set_exception(error)


def _fingerprint(folder: Path) -> Fingerprint | None:
    try:
        return of_folder(folder)
    except OSError:
        return None


def _changed(adapter: AdapterRef, held: _Held) -> HeadraceError | None:
    if held.files is None:
        return None
    now = _fingerprint(held.folder)
    what = str(held.folder) if now is None else changed(held.files, now)
    return None if what is None else _cannot_return(adapter, f"{what} has changed since it was loaded")


def _cannot_return(adapter: AdapterRef, reason: str) -> HeadraceError:
    return EngineError(f"the adapter {adapter.name!r} was lost with the engine's process: {reason}; load it again")
