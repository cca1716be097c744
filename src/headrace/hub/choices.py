"""Which of many file names make one model: split sets, quantisation tags, safetensors and what goes with them.

Pure functions over file names, the same for a folder, a repository on the hub and a snapshot in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from headrace.errors import DamagedFile, ModelNotFound, UnsupportedModel

INDEX = "model.safetensors.index.json"
COMPANIONS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "encoder.json",
        "vocab.bpe",
        "chat_template.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        INDEX,
    }
)
"""The files beside the weights that a folder in Hugging Face form may need; templates (*.jinja) besides."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.(?:gguf|safetensors)$)", re.IGNORECASE)
_TAG = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_\w+)+|TQ\d_\d|MXFP4(?:_\w+)?|BF16|FP?16|FP?32))(?=[-.]|$)", re.IGNORECASE
)
_TEMPLATE = re.compile(r"(additional_chat_templates/)?[^/]+\.jinja")
_MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")
"""Of sentence-transformers: a pooling, a dense layer"""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_NOT_TEXT_MODELS = ("mmproj", "imatrix")
_OLD_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class GGUFChoice:
    """One GGUF model among the files: a single file, or all parts of a split one in order."""

    label: str
    """The path without the part number"""
    tag: str | None
    """Quantisation tag read from the name, such as `Q4_K_M`"""
    files: tuple[str, ...]


def gguf_choices(names: Iterable[str]) -> list[GGUFChoice]:
    """The GGUF models among file names, in order of names; projectors and importance matrices are not models."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() == ".gguf" and not any(word in path.name.lower() for word in _NOT_TEXT_MODELS):
            groups.setdefault(_PART.sub("", name), []).append(name)
    return [GGUFChoice(label, quantisation_tag(label), tuple(files)) for label, files in groups.items()]


def quantisation_tag(name: str) -> str | None:
    """The last quantisation tag in a file name, or None."""
    tags = _TAG.findall(PurePosixPath(name).name.removesuffix(".gguf"))
    return tags[-1] if tags else None


def pick_gguf(choices: Sequence[GGUFChoice], wanted: str | None, where: str) -> GGUFChoice:
    """The one model that `wanted` (a tag or a file's path or name) means; None takes the only one.

    Raises:
        ModelNotFound: none or several match; the message lists the choices.
        DamagedFile: parts of a split model are missing.
    """
    matches = list(choices) if wanted is None else [choice for choice in choices if _is_meant(choice, wanted)]
    if len(matches) != 1:
        said = "" if wanted is None else f" that match {wanted!r}"
        options = _options(matches or choices)
        raise ModelNotFound(f"{where} holds {len(matches)} GGUF models{said}, expected one; name one of: {options}")
    if missing := missing_parts(matches[0].files):
        raise DamagedFile(f"{where} lacks part {', '.join(missing)}; download the whole set again")
    return matches[0]


def _is_meant(choice: GGUFChoice, wanted: str) -> bool:
    if wanted.lower().endswith(".gguf"):
        paths = {choice.label, *choice.files}
        return wanted in paths or wanted in {PurePosixPath(path).name for path in paths}
    return choice.tag is not None and choice.tag.lower() == wanted.lower()


def _options(choices: Sequence[GGUFChoice]) -> str:
    tags = [choice.tag for choice in choices]
    by_tag = None not in tags and len(set(tags)) == len(tags)
    return ", ".join(str(choice.tag) if by_tag else choice.label for choice in choices) or "(none there)"


def missing_parts(names: Iterable[str]) -> list[str]:
    """Names of the parts that a set of `-00001-of-00003` files lacks."""
    present = set(names)
    wanted = {
        _PART.sub(f"-{part:05d}-of-{match[2]}", name)
        for name in present
        if (match := _PART.search(name))
        for part in range(1, int(match[2]) + 1)
    }
    return sorted(wanted - present)


def folder_files(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Of the names in a folder, those of a model in Hugging Face form: weights once, and companions.

    Raises:
        ModelNotFound: there is no model; the message lists GGUF choices when there are some.
        UnsupportedModel: the weights are in no format that headrace loads.
    """
    present = set(names)
    safetensors = sorted(name for name in present if "/" not in name and name.endswith(".safetensors"))
    if safetensors and "config.json" in present:
        companions = {
            name for name in present if name in COMPANIONS or _TEMPLATE.fullmatch(name) or _MODULE.fullmatch(name)
        }
        return (*sorted(companions), *_one_copy(safetensors, INDEX in present))
    if choices := gguf_choices(present):
        raise ModelNotFound(f"{where} holds GGUF models; name one after a colon: {_options(choices)}")
    if safetensors:
        raise ModelNotFound(
            f"{where} holds weights but no config.json; export or download the model with its config.json"
        )
    if old := sorted(name for name in present if name.endswith(_OLD_WEIGHTS)):
        raise UnsupportedModel(f"{where} holds {old[0]}, expected .safetensors or .gguf files; convert the model first")
    raise ModelNotFound(f"{where} holds no model, expected config.json with .safetensors files, or a .gguf file")


def _one_copy(safetensors: Sequence[str], has_index: bool) -> list[str]:
    """Without second copies of the same weights: consolidated files, other precisions, whole beside sharded."""
    own = [name for name in safetensors if _WEIGHTS.fullmatch(name)]
    if "model.safetensors" in own and len(own) > 1:
        return [name for name in own if (name != "model.safetensors") == has_index]
    return own or [name for name in safetensors if not name.startswith(("consolidated", "adapter_"))]
