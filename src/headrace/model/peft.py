"""Adapters in PEFT's form: a folder with adapter_config.json and adapter_model.safetensors, checked and named.

Source: https://huggingface.co/docs/peft, LoraConfig. What of it would change the results and is not implemented is
refused by name, and so is every tensor that nothing is done with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import DamagedFile, ModelNotFound, UnsupportedModel, WeightsMismatch
from headrace.formats.safetensors import open_safetensors
from headrace.formats.tensor import Tensor
from headrace.hub.files import read_json
from headrace.model.adapters import Update
from headrace.model.fields import Fields
from headrace.model.recipes import NameTable, Rows
from headrace.model.spec import ModelSpec, Shape
from headrace.model.weights import describe_misfit

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "runtime_config"),
        *("task_type", "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("megatron_config", "megatron_core", "qalora_group_size"),
        "fan_in_fan_out",  # how the base stores its matrices, which its own family says
    }
)
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""The others (pissa, olora, corda …) change the base's weights along with the adapter's."""
_SUFFIX = re.compile(r"\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|(?:base_layer\.)?weight)$")
_RISKY = re.compile(r"[)\]][*+{?]|.{200}")


@dataclass(slots=True)
class _Module:
    """The tensors of one module of the checkpoint."""

    down: Tensor | None = None
    up: Tensor | None = None
    whole: Tensor | None = None
    is_embedding: bool = False
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Config:
    """What adapter_config.json says of ranks, scales and which modules there are."""

    source: str
    rank: int
    alpha: float
    by_root: bool
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    target_modules: str | Sequence[str]
    exclude_modules: str | Sequence[str]
    layers: Sequence[int] | None
    modules_to_save: Sequence[str]

    def rank_of(self, module: str) -> int:
        """Rows of the module's lora_A."""
        rank = self._of_pattern(self.rank_pattern, module, self.rank)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise DamagedFile(f"{self.source}: rank_pattern has {rank!r}, expected a whole number above 0")
        return rank

    def scale_of(self, module: str) -> float:
        """What its update is multiplied with."""
        alpha = self._of_pattern(self.alpha_pattern, module, self.alpha)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise DamagedFile(f"{self.source}: alpha_pattern has {alpha!r}, expected a number")
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.by_root else rank)

    def adapts(self, module: str, numbers: Sequence[int]) -> bool:
        """Whether the module is certainly one of target_modules: expressions that could take forever are not asked."""
        if isinstance(self.target_modules, str):
            return not _RISKY.search(self.target_modules) and self._is_target(self.target_modules, module)
        if self.layers is not None and (not numbers or numbers[0] not in self.layers):
            return False
        return _is_named(module, self.target_modules) and not self._excludes(module)

    def _is_target(self, pattern: str, module: str) -> bool:
        return _matches(pattern, module, self.source, whole=True) and not self._excludes(module)

    def _excludes(self, module: str) -> bool:
        if isinstance(self.exclude_modules, str):
            risky = _RISKY.search(self.exclude_modules)
            return bool(risky) or _matches(self.exclude_modules, module, self.source, whole=True)
        return _is_named(module, self.exclude_modules) or _is_named(module, self.modules_to_save)

    def _of_pattern(self, patterns: Mapping[str, Any], module: str, default: Any) -> Any:
        return next((value for key, value in patterns.items() if _matches(key, module, self.source)), default)


def read_peft(folder: Path, spec: ModelSpec, table: NameTable, targets: frozenset[str]) -> list[Update]:
    """The adapter in `folder` as updates of canonical matrices, of which `targets` can be adapted.

    `table` has the names of the base's modules in Hugging Face form.

    Raises:
        ModelNotFound: there is no adapter in safetensors.
        UnsupportedModel: a key of the config, or a module, that headrace does not implement; the message names it.
        WeightsMismatch: tensors are missing, left over or of the wrong shape; the message names them.
        DamagedFile: a file is malformed.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelNotFound(f"{folder} has no {name}; name a folder that PEFT has saved, in safetensors")
    config = _read_config(folder)
    reader = _Reader(config, spec, table, targets)
    return reader.updates(_modules(open_safetensors(folder / WEIGHTS_FILE), config.source))


def _read_config(folder: Path) -> _Config:
    source = f"{folder.name}: {CONFIG_FILE}"
    values = read_json(folder / CONFIG_FILE)
    if not isinstance(values, dict):
        raise DamagedFile(f"{source} is not an object; save the adapter again")
    fields = Fields(values, source)
    fields.only("peft_type", "LORA")
    fields.only("bias", "none")
    init = fields.raw("init_lora_weights")
    if init not in _PLAIN_INITS:
        hint = "it changes the base's weights too; save the adapter converted to a plain LoRA"
        raise fields.refusal("init_lora_weights", init, hint)
    layers = fields.raw("layers_to_transform")
    fields.raw("layers_pattern")  # which of several stacks of layers; a decoder has one
    config = _Config(
        source=source,
        rank=fields.integer("r", 8),
        alpha=fields.number("lora_alpha", 8),
        by_root=fields.flag("use_rslora", False),
        rank_pattern=fields.table("rank_pattern"),
        alpha_pattern=fields.table("alpha_pattern"),
        target_modules=_names(fields, "target_modules"),
        exclude_modules=_names(fields, "exclude_modules"),
        layers=[layers] if isinstance(layers, int) else fields.items("layers_to_transform") or None,
        modules_to_save=_names(fields, "modules_to_save"),
    )
    fields.finish(_HARMLESS)
    return config


def _names(fields: Fields, key: str) -> str | list[str]:
    if isinstance(fields.raw(key), str) and key != "modules_to_save":
        return fields.text(key)
    names = fields.items(key)
    if not all(isinstance(name, str) for name in names):
        raise DamagedFile(f"{fields.source}: {key} is {names!r:.100}, expected names")
    return names


def _modules(tensors: Mapping[str, Tensor], source: str) -> dict[str, _Module]:
    """The tensors by the name of their module in the base."""
    modules: dict[str, _Module] = {}
    for name, tensor in tensors.items():
        match = _SUFFIX.search(name)
        if match is None:
            raise UnsupportedModel(f"{source}: tensor {name!r:.200} is not a part of a plain LoRA")
        module = modules.setdefault(name[: match.start()].removeprefix("base_model.model."), _Module())
        module.names.append(name)
        letter = match["linear"] or match["embedding"]
        if letter is None:
            module.whole = tensor
            continue
        module.is_embedding = match["embedding"] is not None
        if letter == "A":
            module.down = tensor
        else:
            module.up = tensor
    return modules


@dataclass(slots=True)
class _Reader:
    """Turns modules into updates, and collects what does not fit."""

    config: _Config
    spec: ModelSpec
    table: NameTable
    targets: frozenset[str]
    left_over: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = {name.removesuffix(".weight"): shape for name, shape in self.spec.expected_weights().items()}
        self.shapes.setdefault("head", self.shapes["embed"])

    def updates(self, modules: Mapping[str, _Module]) -> list[Update]:
        """All of them, or a WeightsMismatch that names what is wrong."""
        updates: list[Update] = []
        seen: set[str] = set()
        for name, module in modules.items():
            pattern, numbers = self.table.pattern(f"{name}.weight")
            found, recipe = self.table.targets(pattern, numbers, self.spec)
            names = tuple(target.removesuffix(".weight") for target in found)
            if recipe is None or not names or not self.targets.issuperset(names):
                self.left_over += module.names
                continue
            seen.add(pattern.format(*numbers))
            updates += self._whole(module, names) + self._low_rank(name, module, names, recipe)
        self._check_all_there(seen)
        self._check_saved(modules)
        if misfit := describe_misfit(self.missing, self.left_over, self.misshapen):
            raise WeightsMismatch(f"{self.config.source}: the adapter does not fit the model: {misfit}")
        return updates

    def _whole(self, module: _Module, names: tuple[str, ...]) -> list[Update]:
        """An embedding or a head that was trained as a whole."""
        if module.whole is None:
            return []
        if names[0] not in ("embed", "head"):
            self.left_over += module.names
            return []
        if self._fits(module.whole, self.shapes[names[0]]):
            return [Update(names, None, (module.whole,))]
        return []

    def _low_rank(self, name: str, module: _Module, names: tuple[str, ...], recipe: Rows) -> list[Update]:
        if module.down is None and module.up is None:
            return []
        if module.down is None or module.up is None:
            self.missing.append(f"lora_{'A' if module.down is None else 'B'} of {name}")
            return []
        if module.is_embedding != (names == ("embed",)):
            self.left_over += module.names
            return []
        rank = self.config.rank_of(name)
        whole = [self.shapes[target] for target in names]
        if module.is_embedding:
            whole = [shape[::-1] for shape in whole]
        num_rows = sum(rows for rows, _ in whole)
        if not self._fits(module.down, (rank, whole[0][1])) or not self._fits(module.up, (num_rows, rank)):
            return []
        ups = recipe.cut_rows(module.up, [(rows, rank) for rows, _ in whole], self.spec)
        return [Update(names, module.down, tuple(ups), self.config.scale_of(name))]

    def _fits(self, tensor: Tensor, shape: Shape) -> bool:
        if tensor.shape != shape:
            self.misshapen.append(f"{tensor.name} is {list(tensor.shape)}, expected {list(shape)}")
        return tensor.shape == shape

    def _check_all_there(self, seen: set[str]) -> None:
        """Every module that the config says was trained must have its tensors."""
        for module in self.table.modules:
            places = [()] if "{}" not in module else [(index,) for index in range(self.spec.num_layers)]
            for numbers in places if module.count("{}") <= 1 else ():
                found, _ = self.table.targets(f"{module}.weight", numbers, self.spec)
                name = module.format(*numbers)
                if not self.targets.issuperset(target.removesuffix(".weight") for target in found):
                    continue
                called = any(self.config.adapts(prefix + name, numbers) for prefix in ("", *self.table.prefixes))
                if called and f"{name}.weight" not in seen:
                    self.missing.append(name)

    def _check_saved(self, modules: Mapping[str, _Module]) -> None:
        saved = [name for name, module in modules.items() if module.whole is not None]
        self.missing += [name for name in self.config.modules_to_save if not any(_is_named(s, [name]) for s in saved)]


def _is_named(module: str, names: Iterable[str]) -> bool:
    """Whether one of the names is the module's, or the end of it."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _matches(pattern: str, module: str, source: str, *, whole: bool = False) -> bool:
    """As PEFT: a regular expression for the whole name or, unless `whole`, for the end of it from a dot on."""
    if _RISKY.search(pattern):
        raise UnsupportedModel(f"{source}: the pattern {pattern!r:.100} could take forever; name the modules instead")
    try:
        return re.fullmatch(pattern if whole else rf"(.*\.)?({pattern})", module) is not None
    except re.error as error:
        raise DamagedFile(f"{source}: {pattern!r:.100} is not a regular expression ({error})") from error
