"""Random LoRA adapters for the tiny models, written by hand in PEFT's file format, and the models merged with them.

`merge` knows nothing of headrace: it reads the files with safetensors and changes the weights in transformers.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EVERY_LINEAR = ("Linear", "Conv1D")


def make_adapter(
    folder: Path, model: Any, targets: Sequence[str] | None = None, *, rank: int = 4, seed: int = 0, **settings: Any
) -> Path:
    """Save an adapter for a transformers model in `folder`: of the modules that end with `targets`.

    None is every linear layer but the head. `settings` go into adapter_config.json; rank_pattern is heeded by exact
    names only.
    """
    from safetensors.numpy import save_file

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        **settings,
    }
    tensors: dict[str, np.ndarray] = {}
    names: set[str] = set()
    for name, kind, rows, columns in modules(model):
        last = name.rpartition(".")[2]
        if (kind not in EVERY_LINEAR or last in ("lm_head", "embed_out")) if targets is None else last not in targets:
            continue
        names.add(last)
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        of_module = config.get("rank_pattern", {}).get(name, config["r"])
        down = rng.standard_normal((of_module, columns)).astype(np.float32) * 0.3
        up = rng.standard_normal((rows, of_module)).astype(np.float32) * np.float32(0.3 / np.sqrt(columns * of_module))
        if kind == "Embedding":
            tensors |= {f"base_model.model.{name}.lora_embedding_{x}": m for x, m in (("A", down), ("B", up))}
        else:
            tensors |= {f"base_model.model.{name}.lora_{x}.weight": m for x, m in (("A", down), ("B", up))}
    config.setdefault("target_modules", sorted(names))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def modules(model: Any) -> list[tuple[str, str, int, int]]:
    """(name, class, rows, columns) of every matrix, as PEFT sees them: outputs first."""
    found = []
    for name, module in model.named_modules():
        kind = "Embedding" if "Embedding" in type(module).__name__ else type(module).__name__
        if kind in ("Linear", "Conv1D", "Embedding") and getattr(module, "weight", None) is not None:
            rows, columns = module.weight.shape
            found.append((name, kind, *((rows, columns) if kind == "Linear" else (columns, rows))))
    return found


def merge(model: Any, folder: Path) -> Any:
    """A copy of the transformers model with the adapter's products added to its weights."""
    import torch
    from safetensors.torch import load_file

    merged = copy.deepcopy(model)
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:  # only what is named is adapted
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key, down in tensors.items():
            name, _, last = key.removeprefix("base_model.model.").partition(".lora_")
            if not last:
                whole = name.removesuffix(".weight").removesuffix(".base_layer")
                merged.get_submodule(whole).weight.copy_(down)
        for key, down in tensors.items():
            name, _, last = key.removeprefix("base_model.model.").partition(".lora_")
            if last not in ("A.weight", "embedding_A"):
                continue
            up = tensors[key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")]
            update = scale_of(config, name) * (up.float() @ down.float())
            module = merged.get_submodule(name)
            module.weight += update if type(module).__name__ == "Linear" else update.T
    return merged.eval()


def scale_of(config: Mapping[str, Any], name: str) -> float:
    rank = config.get("rank_pattern", {}).get(name, config["r"])
    alpha = config.get("alpha_pattern", {}).get(name, config["lora_alpha"])
    return float(alpha / (np.sqrt(rank) if config.get("use_rslora") else rank))
