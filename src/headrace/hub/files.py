"""The files of one model, wherever they came from: a folder in Hugging Face form, or a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.errors import DamagedFile, ModelError
from headrace.formats.gguf import GGUFFile


@dataclass(frozen=True)
class ModelFiles:
    """A resolved model: either `folder` (config.json, safetensors, tokenizer.json …) or `gguf_path` is set."""

    name: str
    """What the user called it"""
    folder: Path | None = None
    gguf_path: Path | None = None

    @cached_property
    def gguf(self) -> GGUFFile | None:
        """The parsed GGUF file, or None for a folder."""
        return None if self.gguf_path is None else GGUFFile(self.gguf_path)

    def path(self, filename: str) -> Path | None:
        """The file of that name in the folder, or None."""
        if self.folder is None or not (self.folder / filename).is_file():
            return None
        return self.folder / filename

    def read_json(self, filename: str) -> dict[str, Any] | None:
        """The JSON object in a file of the folder, or None when there is no such file.

        Raises:
            DamagedFile: the file is not a JSON object.
            ModelError: the file cannot be opened.
        """
        path = self.path(filename)
        if path is None:
            return None
        value = read_json(path)
        if not isinstance(value, dict):
            raise DamagedFile(f"{path} does not hold a JSON object; download or export the model again")
        return value


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DamagedFile: the file is not JSON.
        ModelError: the file cannot be opened.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on lone surrogates, which are no characters
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not valid JSON ({error}); download or export it again") from error
    return value
