"""A folder that one server keeps its state in. What is said to be written survives the end of the process and power."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from headrace.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Folder:
    """A locked folder with a thread of its own, in which everything is done in order."""

    def __init__(self, path: Path) -> None:
        """Take the folder; made if it is not there.

        Raises:
            ConfigError: it cannot be written, or another server has it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the store {path} cannot be written ({error.strerror}); give another folder") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise ConfigError(
                    f"the store {path} is another server's; give this one a folder of its own with --store"
                ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="headrace-store")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do it in the folder's thread, after what was submitted before."""
        return self._thread.submit(work)

    async def do(self, work: Callable[[], T]) -> T:
        """`submit`, and wait for it; who does not wait any longer does not stop it."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def close(self) -> None:
        """Finish what was submitted, and give the folder back."""
        self._thread.shutdown(wait=True)
        os.close(self._lock)


def new_id(prefix: str) -> str:
    """An id that nobody can guess: `prefix` and 32 hexadecimal digits."""
    return prefix + secrets.token_hex(16)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that there is either the old or the new one, whatever happens."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:  # what came onto a full disk would keep it full
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link_file(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where there is no such thing."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
        sync_folder(target.parent)
    except OSError:
        write_file(target, source.read_bytes())


def sync_folder(path: Path) -> None:
    """Make names in a folder last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_records(folder: Path, pattern: str, prefix: str, kind: type[S]) -> list[S]:
    """The JSON files of a folder whose names are ids with `prefix`; what is not ours is left alone."""
    found: list[S] = []
    if not folder.is_dir():
        return found
    name = re.compile(re.escape(prefix) + r"[0-9a-f]{32}")
    for path in sorted(folder.glob(pattern)):
        stem = path.stem if path.parent == folder else path.parent.name
        if name.fullmatch(stem) is None:
            continue
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=kind))
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def encoded(record: Any) -> bytes:
    """A record as it is written."""
    return msgspec.json.encode(record)
