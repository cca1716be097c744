"""Whether files are still those that were loaded: names, sizes and times of change, without reading them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from headrace.hub.files import ModelFiles

Fingerprint: TypeAlias = Mapping[str, tuple[int, int]]
"""Size and time of change (ns) of each file, by its path"""

_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja"})


def of_model(files: ModelFiles) -> Fingerprint:
    """Of all files that say what a model gives: in its folder and the folders in it, or the GGUF file's shards.

    Raises:
        OSError: one cannot be looked at.
    """
    if files.gguf is not None:
        return _of(files.gguf.paths)
    return {} if files.folder is None else of_folder(files.folder)


def of_folder(folder: Path) -> Fingerprint:
    """Of an adapter's files, or a model's.

    Raises:
        OSError: one cannot be looked at.
    """
    found = [*folder.iterdir(), *folder.glob("*/*.json"), *folder.glob("*/*.safetensors")]
    return _of(path for path in found if path.suffix in _SUFFIXES and path.is_file())


def changed(before: Fingerprint, now: Fingerprint) -> str | None:
    """What is not as it was, for people; None if everything is."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if not names:
        return None
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest}"


def _of(paths: Iterable[Path]) -> Fingerprint:
    found = {}
    for path in paths:
        status = path.stat()
        found[str(path)] = status.st_size, status.st_mtime_ns
    return found
