"""What a user calls a model → its files: bundled, a folder, a .gguf file, or a name on the hub."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from headrace.errors import DamagedFile, ModelError, ModelNotFound
from headrace.hub.choices import COMPANIONS, folder_files, gguf_choices, pick_gguf
from headrace.hub.files import ModelFiles
from headrace.hub.names import parse_hub_name

BUNDLED = ("stories",)
"""Names of the models that come with the package."""

FORMS = "the bundled name stories, a folder, a .gguf file, or org/name on the hub"


def resolve_model(name: str | Path) -> ModelFiles:
    """Find a model's files, downloading them when `name` is on the hub and they are not cached.

    `name` is, in this order: `stories`; an existing folder in Hugging Face form, or with one GGUF model in it; an
    existing .gguf file; `folder:Q4_K_M` (or a file's name) for one of several; `org/name[@revision]`,
    `org/name[@revision]:Q4_K_M` (or a file's name) or `org/name/file.gguf` on the hub. A folder that is called like
    the bundled model is `./stories`.

    Raises:
        ModelNotFound: there is no such model, or several; the message names close matches or the choices.
        ModelError: it cannot be downloaded; DamagedFile, UnsupportedModel: it is there and cannot be used.
    """
    text = os.fspath(name)
    if text in BUNDLED:
        return ModelFiles(name=text, folder=bundled_folder(text))
    try:
        if (local := _local(text)) is not None:
            return local
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long, or a home that is unknown
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ModelError(f"{text[:200]} cannot be read ({reason}); check the path and its permissions") from error
    hub_name = None if isinstance(name, Path) or Path(text).expanduser().is_absolute() else parse_hub_name(text)
    if hub_name is None:
        raise ModelNotFound(f"no model {text!r}{_suggestion(text)}; a model is {FORMS}")
    from headrace.hub.remote import fetch

    try:
        found = fetch(hub_name)
    except ModelNotFound as error:
        close = _suggestion(text)
        raise ModelNotFound(f"{error}{close}") if close else error from error
    return ModelFiles(name=text, folder=found) if found.is_dir() else ModelFiles(name=text, gguf_path=found)


def bundled_folder(name: str) -> Path:
    """Where the package keeps a bundled model.

    Raises:
        DamagedFile: the installation lacks it.
    """
    folder = Path(__file__).with_name(name)
    if not (folder / "config.json").is_file():
        raise DamagedFile(f"this installation lacks the bundled model {name}; install headrace again")
    return folder


def _local(text: str) -> ModelFiles | None:
    """What is on this machine under that name, or None."""
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _local_folder(text, path, None)
    if text and path.exists():
        return _local_file(text, path)
    folder, colon, wanted = text.rpartition(":")
    if colon and folder and wanted and Path(folder).expanduser().is_dir():
        return _local_folder(folder, Path(folder).expanduser(), wanted)
    return None


def _local_folder(name: str, folder: Path, wanted: str | None) -> ModelFiles:
    names = _files_in(folder)
    choices = gguf_choices(names)
    has_weights = any(entry.endswith(".safetensors") for entry in names)
    if wanted is not None or (choices and not has_weights):
        gguf = pick_gguf(choices, wanted, f"the folder {name}")
        label = name if wanted is None else f"{name}:{wanted}"
        return ModelFiles(name=label, gguf_path=folder / gguf.files[0])
    folder_files(names, f"the folder {name}")
    return ModelFiles(name=name, folder=folder)


def _files_in(folder: Path) -> list[str]:
    """Names of the files in a folder.

    Raises:
        DamagedFile: a link of the model's leads nowhere; without that file another model would run.
    """
    names = []
    for entry in folder.iterdir():
        is_needed = entry.name in COMPANIONS or entry.suffix in {".safetensors", ".gguf", ".jinja"}
        if is_needed and entry.is_symlink() and not entry.exists():
            raise DamagedFile(f"{entry} is a link to a file that is not there; download the model again")
        if entry.is_file():
            names.append(entry.name)
    return names


def _local_file(name: str, path: Path) -> ModelFiles:
    if path.suffix.lower() != ".gguf":
        raise ModelNotFound(f"{name} is not a .gguf file; a model is {FORMS}")
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.suffix == path.suffix]
    except PermissionError:  # a folder that may be passed through, but not listed
        return ModelFiles(name=name, gguf_path=path)
    for choice in gguf_choices(beside):
        if path.name in choice.files:
            whole = pick_gguf([choice], None, f"the folder of {name}")
            return ModelFiles(name=name, gguf_path=path.with_name(whole.files[0]))
    return ModelFiles(name=name, gguf_path=path)


def _suggestion(text: str) -> str:
    """`, did you mean …` when a bundled name, folder or file is close; else nothing."""
    path = Path(text).expanduser()
    try:
        nearby = {entry.name: entry for entry in path.parent.iterdir()} if path.name else {}
    except OSError:
        nearby = {}
    models = [entry for entry, file in nearby.items() if file.is_dir() or file.suffix.lower() == ".gguf"]
    if close := difflib.get_close_matches(text, BUNDLED, n=1):
        return f", did you mean {close[0]}"
    if close := difflib.get_close_matches(path.name, models, n=1, cutoff=0.75):
        kind = "folder" if nearby[close[0]].is_dir() else "file"
        return f", did you mean the {kind} {path.with_name(close[0])}"
    return ""
