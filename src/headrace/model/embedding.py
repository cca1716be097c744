"""How hidden states become embeddings: as the model's folder says it in sentence-transformers' form, or its GGUF file.

modules.json lists a pipeline: the transformer, a pooling, dense layers, a normalisation. A module or an option of it
that is not implemented is refused by name. A GGUF file names the pooling only; its embeddings are normalised, as
llama.cpp's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.errors import DamagedFile, UnsupportedModel
from headrace.formats.safetensors import open_safetensors
from headrace.hub.files import ModelFiles, read_json
from headrace.model.fields import Fields
from headrace.model.spec import ModelSpec, Pooling
from headrace.ops.base import Array, Ops, Weight
from headrace.types import FloatArray

_MODES: Mapping[str, Pooling] = {"cls": Pooling.FIRST, "lasttoken": Pooling.LAST, "mean": Pooling.MEAN}
_OLD_MODES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
POOLING_KEY = "pooling_type"
"""In GGUF metadata, under the architecture's name"""
_NO_POOLING, _RANK = 0, 4
_GGUF_POOLINGS: Mapping[int, Pooling] = {1: Pooling.MEAN, 2: Pooling.FIRST, 3: Pooling.LAST}
_NAMES: Mapping[Pooling, str] = {
    Pooling.MEAN: "mean of the tokens",
    Pooling.LAST: "last token",
    Pooling.FIRST: "first token",
}


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A linear layer on the pooled state, and tanh where it has one."""

    path: str
    """Folder of its weights within the model's"""
    columns: int
    size: int
    """Numbers that come out"""
    is_tanh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRecipe:
    """From pooled hidden states to embeddings: what is done, without the weights that it takes."""

    size: int
    """Numbers in an embedding"""
    pooling: Pooling
    dense: tuple[DenseModule, ...] = ()
    normalize: bool = True
    """Embeddings have length 1"""
    max_tokens: int | None = None
    """Longest text that the model is meant for, special tokens included"""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What goes before a text, by name ("query", "document" …)"""
    default_prompt: str | None = None
    """Name of the prompt of texts that name none"""

    def __str__(self) -> str:
        steps = [_NAMES[self.pooling], *("a dense layer" for _ in self.dense), *(["normalised"] * self.normalize)]
        return f"embeddings of {self.size:,} numbers: {', '.join(steps)}"


class Embedder:
    """A recipe with the weights of its dense layers.

    Raises:
        DamagedFile: a layer's weights are missing or of the wrong shape.
    """

    def __init__(self, files: ModelFiles, recipe: EmbeddingRecipe, ops: Ops) -> None:
        self.recipe = recipe
        self._ops = ops
        self._dense = [(*_read_weights(files, module, ops), module.is_tanh) for module in recipe.dense]

    def finish(self, pooled: FloatArray, dimensions: int | None) -> FloatArray:
        """The embedding for a pooled state [H]: its first `dimensions` numbers, normalised afterwards."""
        row = pooled[None]
        for weight, bias, is_tanh in self._dense:
            row = self._ops.linear(row, weight, bias)
            row = self._ops.softcap(row, 1.0) if is_tanh else row  # a cap of 1 is tanh
        embedding = np.asarray(row)[0, :dimensions].astype(np.float64)
        if self.recipe.normalize:
            embedding /= max(float(np.sqrt(np.add.reduce(np.square(embedding)))), 1e-12)
        return embedding.astype(np.float32)


def read_recipe(files: ModelFiles, spec: ModelSpec) -> EmbeddingRecipe:
    """The recipe of a model's folder or file; where it has none the mean of encoders, decoders' last token, normalised.

    Raises:
        UnsupportedModel: a module, or an option of one, that is not implemented; the message names it.
        DamagedFile: a file that cannot be read.
    """
    modules = _read_list(files, "modules.json")
    limit = _max_tokens(files)
    if modules is None:
        pooling = _gguf_pooling(files, spec) or (Pooling.LAST if spec.causal else Pooling.MEAN)
        return EmbeddingRecipe(size=spec.hidden_size, pooling=pooling, max_tokens=limit)
    pooling, dense, size, normalize = Pooling.MEAN, list[DenseModule](), spec.hidden_size, False
    for module in modules:
        kind, path = str(module.get("type")).rpartition(".")[2], str(module.get("path") or "")
        match kind:
            case "Transformer":
                continue
            case "Pooling":
                pooling = _read_pooling(files, path)
            case "Dense":
                dense.append(_read_dense(files, path, size))
                size = dense[-1].size
            case "Normalize":
                normalize = True
            case _:
                raise UnsupportedModel(
                    f"{files.name}: modules.json has a {kind}; expected Transformer, Pooling, Dense and Normalize"
                )
    texts = files.read_json("config_sentence_transformers.json") or {}
    prompts = {str(name): str(text) for name, text in (texts.get("prompts") or {}).items()}
    return EmbeddingRecipe(
        size=size,
        pooling=pooling,
        dense=tuple(dense),
        normalize=normalize,
        max_tokens=limit,
        prompts=prompts,
        default_prompt=texts.get("default_prompt_name"),
    )


def _gguf_pooling(files: ModelFiles, spec: ModelSpec) -> Pooling | None:
    """What a GGUF file says; None for a folder, and for a file that says nothing."""
    if files.gguf is None:
        return None
    metadata = files.gguf.metadata
    fields = Fields(metadata, files.name, f"{metadata['general.architecture']}.")
    kind = fields.integer(POOLING_KEY, _NO_POOLING, minimum=0)
    if kind == _NO_POOLING or (kind == _RANK and spec.classifier is not None):
        return None
    if kind not in _GGUF_POOLINGS:
        hint = "expected 1 (mean), 2 (first token), 3 (last token), or 4 with a classifier"
        raise fields.refusal(POOLING_KEY, kind, hint)
    return _GGUF_POOLINGS[kind]


def _read_list(files: ModelFiles, filename: str) -> list[dict[str, Any]] | None:
    path = files.path(filename)
    if path is None:
        return None
    value = read_json(path)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DamagedFile(f"{path} does not hold a list of objects; download or export the model again")
    return value


def _max_tokens(files: ModelFiles) -> int | None:
    """max_seq_length of the transformer module, where it has its own file."""
    values = files.read_json("sentence_bert_config.json")
    return (
        None
        if values is None
        else Fields(values, f"{files.name}: sentence_bert_config.json").optional_integer("max_seq_length")
    )


def _read_pooling(files: ModelFiles, path: str) -> Pooling:
    source = f"{files.name}: {path}/config.json"
    config = Fields(_module_config(files, path), source)
    modes = [mode for key, mode in _OLD_MODES.items() if config.flag(key, False)]
    given = config.raw("pooling_mode")
    if given is not None:
        modes = [str(mode) for mode in given] if isinstance(given, list) else [str(given)]
    modes = modes or ["mean"]
    if len(modes) > 1 or modes[0] not in _MODES:
        raise config.refusal("pooling_mode", " and ".join(modes), f"expected one of {', '.join(_MODES)}")
    if not config.flag("include_prompt", True):
        raise config.refusal("include_prompt", False)
    config.finish({"word_embedding_dimension", "embedding_dimension"})
    return _MODES[modes[0]]


def _read_dense(files: ModelFiles, path: str, columns: int) -> DenseModule:
    config = Fields(_module_config(files, path), f"{files.name}: {path}/config.json")
    config.only("in_features", columns)
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in ("Tanh", "Identity"):
        raise config.refusal("activation_function", activation, "expected Tanh or Identity")
    return DenseModule(path, columns, config.integer("out_features"), activation == "Tanh")


def _read_weights(files: ModelFiles, module: DenseModule, ops: Ops) -> tuple[Weight, Array | None]:
    assert files.folder is not None
    tensors = open_safetensors(files.folder / module.path)
    shape = (module.size, module.columns)
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.shape != shape:
        found = "no linear.weight" if weight is None else f"linear.weight {list(weight.shape)}"
        raise DamagedFile(f"{files.name}: {module.path} has {found}, expected {list(shape)}; download the model again")
    return ops.pack([weight]), None if bias is None else ops.vector(bias.decode())


def _module_config(files: ModelFiles, path: str) -> dict[str, Any]:
    values = files.read_json(f"{path}/config.json")
    if values is None:
        raise DamagedFile(f"{files.name} has no {path}/config.json, which modules.json names; download the model again")
    return values
