"""What huggingface_hub's cache holds that looks like a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.errors import ModelError
from headrace.hub.choices import gguf_choices


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A repository in the cache, or one of its GGUF models."""

    name: str
    """What to call it on the command line"""
    format: str
    """`safetensors` or `gguf`"""
    nbytes: int
    """Size on disk"""
    path: Path
    revision: str
    """The branches and tags that mean it, or the start of its commit"""


def cache_folder() -> Path:
    """huggingface_hub's cache, where hub models are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[CachedModel]:
    """Every model in the cache, by name; none where there is no cache.

    Raises:
        ModelError: the cache cannot be read.
    """
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        scan = scan_cache_dir(cache_folder())
    except CacheNotFound:
        return []
    except (OSError, ValueError) as error:  # ValueError: a file is in the place of the folder
        reason = getattr(error, "strerror", None) or "it is a file"
        raise ModelError(
            f"the cache {cache_folder()} cannot be read ({reason}); set HF_HUB_CACHE to a folder"
        ) from error
    found: list[CachedModel] = []
    for repository in scan.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            sizes = {
                file.file_path.relative_to(revision.snapshot_path).as_posix(): file.size_on_disk
                for file in revision.files
            }
            found += _models(
                repository.repo_id, revision.snapshot_path, sizes, sorted(revision.refs), revision.commit_hash
            )
    return sorted(found, key=lambda model: (model.name.lower(), model.revision))


def _models(repository: str, folder: Path, sizes: dict[str, int], refs: list[str], commit: str) -> list[CachedModel]:
    revision = ", ".join(refs) or commit[:8]
    name = repository if "main" in refs else f"{repository}@{refs[0] if refs else commit}"
    models = []
    if "config.json" in sizes and any(file.endswith(".safetensors") for file in sizes):
        own = sum(size for file, size in sizes.items() if not file.endswith(".gguf"))
        models.append(CachedModel(name, "safetensors", own, folder, revision))
    choices = gguf_choices(sizes)
    for choice in choices:
        unique = [other.tag for other in choices].count(choice.tag) == 1
        label = choice.tag if choice.tag and unique else choice.label
        size = sum(sizes[file] for file in choice.files)
        models.append(CachedModel(f"{name}:{label}", "gguf", size, folder / choice.files[0], revision))
    return models
