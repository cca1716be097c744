"""A name on the hub → files in huggingface_hub's own cache, downloaded only where they are missing."""

from __future__ import annotations

import glob
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from headrace.config import hub_is_offline
from headrace.errors import HeadraceError, ModelError, ModelNotFound
from headrace.hub.choices import INDEX, folder_files, gguf_choices, missing_parts, pick_gguf
from headrace.hub.download import LARGE, MOST, Advance, RemoteFile, download_all
from headrace.hub.failures import explain, is_unreachable
from headrace.hub.names import HubName
from headrace.hub.quiet import QuietBar

_log = logging.getLogger("headrace.hub")


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a repository holds at one commit."""

    commit: str
    files: dict[str, RemoteFile | None]
    """By name; None for those that huggingface_hub downloads alone"""
    sizes: dict[str, int]


def fetch(name: HubName) -> Path:
    """The folder of a model in Hugging Face form, or the (first) .gguf file, of a hub name.

    Takes what is cached when HF_HUB_OFFLINE is set or the hub cannot be reached.

    Raises:
        ModelNotFound: no such repository, revision or file, or several.
        ModelError: gated, offline and not cached, unreachable, disk full.
    """
    if hub_is_offline():
        return _cached(name, ModelError(f"{name.repository} is not in the cache and HF_HUB_OFFLINE is set; unset it"))
    try:
        listing = _list(name)
    except Exception as error:
        explained = explain(error, name.repository, name.revision)
        if not is_unreachable(error):
            raise explained from error
        path = _cached(name, explained)
        _log.warning("%s; using the cached copy", str(explained).split(";")[0])
        return path
    wanted = _wanted(name, listing.files)
    folder = _snapshot_folder(name.repository, listing.commit)
    if not all((folder / file).is_file() for file in wanted):
        try:
            folder = _download(name, listing, wanted)
        except Exception as error:
            raise explain(error, name.repository, name.revision) from error
    return _result(folder, wanted)


def _wanted(name: HubName, names: dict[str, RemoteFile | None]) -> tuple[str, ...]:
    if name.choice is not None:
        return pick_gguf(gguf_choices(names), name.choice, name.repository).files
    return folder_files(names, name.repository)


def _result(folder: Path, wanted: tuple[str, ...]) -> Path:
    return folder / wanted[0] if wanted[0].lower().endswith(".gguf") else folder


def _list(name: HubName) -> _Listing:
    info = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True)
    files: dict[str, RemoteFile | None] = {}
    sizes = {}
    for sibling in info.siblings or ():
        sizes[sibling.rfilename] = sibling.size or 0
        files[sibling.rfilename] = None
        if sibling.lfs is not None and sibling.size is not None and LARGE <= sibling.size <= MOST:
            url = hf_hub_url(name.repository, sibling.rfilename, revision=info.sha)
            files[sibling.rfilename] = RemoteFile(sibling.rfilename, url, sibling.size, sibling.lfs.sha256)
    assert info.sha is not None
    return _Listing(info.sha, files, sizes)


def _download(name: HubName, listing: _Listing, wanted: tuple[str, ...]) -> Path:
    storage = _storage_folder(name.repository)
    folder = storage / "snapshots" / listing.commit
    missing = [file for file in wanted if not (folder / file).is_file()]
    _check_room(name, sum(listing.sizes[file] for file in missing))
    large = [file for wanted_name in missing if (file := listing.files[wanted_name]) is not None]
    with _progress(name, large) as advance:
        download_all(large, storage / "blobs", build_hf_headers(), advance)
    patterns = [glob.escape(file) for file in wanted]
    revision = name.revision or constants.DEFAULT_REVISION  # by branch, so that it is found again offline
    path = snapshot_download(
        name.repository,
        revision=revision,
        allow_patterns=patterns,
        cache_dir=constants.HF_HUB_CACHE,
        tqdm_class=QuietBar,
    )
    return Path(path)


def _check_room(name: HubName, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise ModelError(
            f"{name.repository} needs {needed / 1e9:.1f} GB and the disk of {cache} has {free / 1e9:.1f} GB free; "
            "make room, or set HF_HUB_CACHE to another disk"
        )


@contextmanager
def _progress(name: HubName, files: list[RemoteFile]) -> Iterator[Advance]:
    """A bar for each file on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (files and console.is_terminal)) as progress:
        tasks = {file: progress.add_task(f"{name.repository}: {file.name}", total=file.size) for file in files}
        yield lambda file, count: progress.advance(tasks[file], count)


def _storage_folder(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _snapshot_folder(repository: str, revision: str) -> Path:
    """Where the cache has a commit, or the commit that a branch or tag last meant."""
    storage = _storage_folder(repository)
    ref = storage / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    return storage / "snapshots" / commit


def _cached(name: HubName, otherwise: HeadraceError) -> Path:
    """The model from the cache alone; raises `otherwise` when it is not there whole."""
    folder = _snapshot_folder(name.repository, name.revision or constants.DEFAULT_REVISION)
    names = {file.relative_to(folder).as_posix(): None for file in folder.rglob("*") if file.is_file()}
    try:
        wanted = _wanted(name, dict(names))
    except ModelNotFound as error:
        if any(choice.files for choice in gguf_choices(names)):
            raise ModelNotFound(f"{error} (from the cache: the hub was not asked)") from error
        raise otherwise from error
    if missing := _missing_weights(folder, wanted):
        raise ModelError(f"{name.repository} is only partly in the cache ({missing[0]} is missing); go online once")
    return _result(folder, wanted)


def _missing_weights(folder: Path, wanted: tuple[str, ...]) -> list[str]:
    if INDEX not in wanted:
        return missing_parts(wanted)
    try:
        shards = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return []  # the loader says what is wrong with the index
    return sorted(shards - set(wanted))
