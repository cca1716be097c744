"""The models that are measured: random weights of real shapes, each in the forms that the engines read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from random_model import write_file, write_folder

from headrace.formats.codecs import F16, Q4_0
from headrace.formats.gguf import GGUFFile
from peers.install import NotInstalled, Peers

GGUF_FORMATS = ("F16", "Q4_0", "Q4_K_M", "Q8_0")
OPENVINO_FORMATS = ("int4", "int8")
SERVED_MODEL = "llama-15m"
"""Measured over HTTP; a quick run tries everything on it"""
LARGE_MODELS = ("llama3-8b",)
"""Only as Q4_0, written without the way over 16 GB of float16"""


def forms(model: str) -> tuple[str, ...]:
    """In which forms a model is made: GGUF formats, `folder` (Hugging Face, bf16), OpenVINO's weight formats."""
    if model in LARGE_MODELS:
        return ("Q4_0",)
    return (*GGUF_FORMATS, "folder", *OPENVINO_FORMATS)


def path_of(work: Path, model: str, form: str) -> Path:
    """Where a model lies in that form."""
    folder = work / "models"
    if form == "folder":
        return folder / model
    return folder / (f"{model}-{form}" if form in OPENVINO_FORMATS else f"{model}-{form}.gguf")


def prepare_models(peers: Peers, models: Sequence[str], say: Callable[[str], None]) -> dict[str, str]:
    """Make what is missing. Returns why, for each form that could not be made."""
    failures = {}
    for model in models:
        for form in forms(model):
            path = path_of(peers.work, model, form)
            if path.exists():
                continue
            say(f"making {path.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _make(peers, model, form, path)
            except (NotInstalled, subprocess.CalledProcessError, OSError) as error:
                said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
                failures[path.name] = said[-1] if said else type(error).__name__
    return failures


def _make(peers: Peers, model: str, form: str, path: Path) -> None:
    if form == "F16":
        write_file(model, path, F16)
    elif form == "Q4_0" and model in LARGE_MODELS:
        write_file(model, path, Q4_0)
    elif form == "folder":
        unfinished = path.with_name(f".{path.name}")
        write_folder(model, unfinished)
        unfinished.rename(path)
    elif form in OPENVINO_FORMATS:
        _convert(peers, path_of(peers.work, model, "folder"), form, path)
    else:
        source, unfinished = path_of(peers.work, model, "F16"), path.with_name(f".{path.name}")
        subprocess.run(
            [peers.llama("llama-quantize"), source, unfinished, form, "1"], check=True, capture_output=True, text=True
        )
        unfinished.rename(path)


def _convert(peers: Peers, folder: Path, form: str, path: Path) -> None:
    """OpenVINO's own form; int4 for every layer, in groups of 64 (32 where the columns need it)."""
    unfinished = path.with_name(f".{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [peers.python("convert").with_name("optimum-cli"), "export", "openvino", "--model", folder]
    columns = json.loads((folder / "config.json").read_text())["hidden_size"]
    group = "32" if columns % 64 else "64"
    int4 = ["--group-size", group, "--ratio", "1.0"] if form == "int4" else []
    task = ["--task", "text-generation-with-past", "--weight-format", form]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run(
        [*command, *task, *int4, unfinished], check=True, capture_output=True, text=True, env={**os.environ, **offline}
    )
    unfinished.rename(path)


def weight_bytes(path: Path) -> int:
    """Bytes of weights that a decode step reads: all but an embedding table that is not also the head."""
    if path.is_dir():
        binaries = [*path.glob("*.safetensors"), *path.glob("openvino_model.bin")]
        return sum(file.stat().st_size for file in binaries)
    tensors = GGUFFile(path).tensors
    has_head = "output.weight" in tensors
    return sum(tensor.nbytes for name, tensor in tensors.items() if not (has_head and name == "token_embd.weight"))
