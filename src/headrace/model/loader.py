"""From a model's files to a decoder: which family, what architecture, which weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.config import QUANTIZE_CODECS
from headrace.errors import ConfigError, ModelNotFound, UnsupportedModel
from headrace.formats.safetensors import open_safetensors
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.adapters import PackedAdapter
from headrace.model.decoder import Decoder
from headrace.model.embedding import POOLING_KEY
from headrace.model.families import FAMILIES
from headrace.model.families.base import Family, GGUFSource
from headrace.model.families.config import HARMLESS
from headrace.model.families.heads import with_head, with_last_token_classifier
from headrace.model.fields import Fields
from headrace.model.peft import read_peft
from headrace.model.recipes import NameTable
from headrace.model.spec import ModelSpec
from headrace.model.weights import name_parts, pack_weights
from headrace.ops.base import Ops


def families() -> list[Family]:
    """Every family that headrace runs, with its names in config.json and in GGUF files."""
    return list(FAMILIES)


def read_spec(files: ModelFiles) -> ModelSpec:
    """The architecture of a model, from its config or metadata alone.

    Raises:
        ModelNotFound: the folder has no config.json.
        UnsupportedModel: a family, or a key of the config, that headrace does not implement; the message names it.
        DamagedFile: the config is malformed.
    """
    return _read(files)[1]


def load_decoder(files: ModelFiles, ops: Ops, quantize: str | None = None, spec: ModelSpec | None = None) -> Decoder:
    """Load a model for a backend: float matrices quantised to `quantize` ("q8", "q4") where asked.

    `spec` is what `read_spec` gave, or None to read it here; `decoder.weights.kept` names what could not be quantised.

    Raises:
        ConfigError: `quantize` is none of QUANTIZE_CODECS.
        WeightsMismatch: weights are missing, left over or of the wrong shape.
        ModelNotFound, UnsupportedModel, DamagedFile: as `read_spec`.
    """
    if quantize is not None and quantize not in QUANTIZE_CODECS:
        raise ConfigError(f"quantize is {quantize!r}, expected one of {', '.join(QUANTIZE_CODECS)}")
    family, read = _read(files)
    spec = spec or read
    parts = name_parts(_tensors(files), spec, _names(files, family, spec), files.name)
    return Decoder(spec, pack_weights(spec, parts, ops, quantize), ops)


def load_adapter(folder: Path, files: ModelFiles, decoder: Decoder) -> PackedAdapter:
    """Read a PEFT adapter for `decoder`, which was loaded from `files`; a GGUF file's too. May run beside the engine.

    Raises:
        ModelNotFound: the folder has no adapter in safetensors.
        UnsupportedModel: a key of its config, or a module, that headrace does not implement; the message names it.
        WeightsMismatch: its tensors do not fit the model or its config.
        DamagedFile: a file is malformed.
    """
    family, _ = _read(files)
    updates = read_peft(folder, decoder.spec, family.config_names, decoder.adapters.targets)
    return decoder.adapters.pack(updates)


def _read(files: ModelFiles) -> tuple[Family, ModelSpec]:
    return _read_config(files) if files.gguf is None else _read_gguf(files)


def _read_config(files: ModelFiles) -> tuple[Family, ModelSpec]:
    values = files.read_json("config.json")
    if values is None:
        raise ModelNotFound(f"{files.name} has no config.json; name a folder in Hugging Face form or a .gguf file")
    source = f"{files.name}: config.json"
    model_type = Fields(values, source).text("model_type", "")
    for family in FAMILIES:
        if model_type in family.model_types:
            config = Fields({**family.defaults, **values}, source)
            config.raw("model_type")
            spec = with_head(config, family.from_config(config), family.classifier)
            config.finish(HARMLESS | family.harmless)
            return family, spec
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise UnsupportedModel(f"{source}: model_type is {model_type!r}; headrace runs {known}")


def _read_gguf(files: ModelFiles) -> tuple[Family, ModelSpec]:
    assert files.gguf is not None
    metadata: Mapping[str, Any] = files.gguf.metadata
    architecture = metadata.get("general.architecture")
    for family in FAMILIES:
        if architecture in family.gguf_architectures and family.from_gguf is not None:
            fields = Fields(metadata, files.name, f"{architecture}.")
            spec = family.from_gguf(GGUFSource(fields, files.gguf.tensors))
            fields.finish({POOLING_KEY})
            return family, spec
    known = dict.fromkeys(name for family in FAMILIES for name in family.gguf_architectures)
    raise UnsupportedModel(f"{files.name}: general.architecture is {architecture!r}; headrace runs {', '.join(known)}")


def _names(files: ModelFiles, family: Family, spec: ModelSpec) -> NameTable:
    names = family.config_names if files.gguf is None else family.gguf_names
    assert names is not None
    return with_last_token_classifier(names) if spec.classifier is not None and spec.causal else names


def _tensors(files: ModelFiles) -> Mapping[str, Tensor]:
    if files.gguf is not None:
        return files.gguf.tensors
    assert files.folder is not None
    return open_safetensors(files.folder)
