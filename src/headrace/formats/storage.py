"""Model files on disk: mapped into memory to read, replaced as a whole to write."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DamagedFile, ModelError, ModelNotFound


def map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes as a read-only array [size]; nothing is read until it is touched.

    The mapping lives as long as the array or any view of it. As with every mapping, a file that is cut short while it
    is mapped takes the process down: replace model files, never rewrite them in place.

    Raises:
        ModelNotFound: there is no such file, or it is a folder or device.
        ModelError: the file cannot be opened.
        DamagedFile: the file is empty.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ModelNotFound(f"{path} is {kind}, expected a model file; check the path")
        if status.st_size == 0:
            raise DamagedFile(f"{path} is empty; download it again")
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, or emptied since `stat`
        raise ModelError(f"{path} cannot be read ({error}); check its permissions") from error
    return np.frombuffer(mapping, np.uint8)


def release(data: NDArray[np.uint8]) -> None:
    """Give back the memory of the pages of a mapped file that lie within `data`; they are read anew if touched.

    Nothing happens to an array that is no view of `map_file`'s, nor where the system has no such advice.
    """
    root = data
    while isinstance(root.base, np.ndarray):
        root = root.base
    owner = root.base.obj if isinstance(root.base, memoryview) else root.base
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    low, high = np.lib.array_utils.byte_bounds(data)
    start = low - root.ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = start + high - low - first
    if length > 0:
        owner.madvise(mmap.MADV_DONTNEED, first, length)


def describe_start(data: NDArray[np.uint8]) -> str:
    """What a file is that does not begin as it should, with what to do, for an error message."""
    start = data[:64].tobytes()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; download the file itself"
    return f"it begins with {start[:8]!r}; download it again"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and leaves no trace when it does not.

    Raises:
        ModelError: the folder cannot be written to, or the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be written ({error}); check the folder and the space on its disk") from error
    finally:
        part.unlink(missing_ok=True)
