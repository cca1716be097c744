"""What a family is: a few names and two readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.formats.tensor import Tensor
from headrace.model.families.heads import ClassifierReader, last_token_classifier
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable
from headrace.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class GGUFSource:
    """A GGUF file as its family sees it: the architecture's metadata, and tensors by name."""

    fields: Fields
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table of models that headrace runs."""

    name: str
    model_types: tuple[str, ...]
    """`model_type` in config.json"""
    from_config: Callable[[Fields], ModelSpec]
    config_names: NameTable
    """Names of weights in safetensors"""
    classifier: ClassifierReader = last_token_classifier
    """The head of …ForSequenceClassification"""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What keys of config.json mean when they are absent: as in transformers' config class. Null stays null."""
    harmless: frozenset[str] = frozenset()
    """Keys of config.json, besides those of every family, that do not change the results"""
    gguf_architectures: tuple[str, ...] = ()
    """`general.architecture` in a GGUF file"""
    from_gguf: Callable[[GGUFSource], ModelSpec] | None = None
    gguf_names: NameTable | None = None
