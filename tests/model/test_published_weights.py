"""Weights as published: prefixes or none, heads that are tied, masks and tables left in, mixed types, shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_sequence import OneSequence
from tiny_models import VARIANTS, prompt, reference, reference_logits

from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder

torch = pytest.importorskip("torch")
Tiny = Callable[[str], Path]
Weights = dict[str, Any]

PREFIXES = {"gpt2": "transformer.", "opt": "model.decoder.", "gpt_neox": "gpt_neox."}


def load(folder: Path) -> Weights:
    from safetensors.torch import load_file

    weights: Weights = load_file(folder / "model.safetensors")
    return weights


def save(folder: Path, source: Path, *shards: Weights) -> Path:
    """The config of the source with other weights, in one file or in several with an index."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text((source / "config.json").read_text())
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    index = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    whole = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
    return folder


def logits(folder: Path, ops: Any) -> np.ndarray:
    return OneSequence(load_decoder(ModelFiles("tiny", folder=folder), ops)).feed(prompt(19))


def model_type(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def leftovers(folder: Path) -> Weights:
    """What older versions of transformers saved beside the weights."""
    mask, masked = torch.tril(torch.ones(1, 1, 8, 8)), torch.tensor(-1e4)
    match model_type(folder):
        case "gpt2":
            return {"transformer.h.0.attn.bias": mask, "transformer.h.1.attn.masked_bias": masked}
        case "gpt_neox":
            layer = "gpt_neox.layers.1.attention."
            table = {f"{layer}rotary_emb.inv_freq": torch.ones(4)}
            return {f"{layer}bias": mask.to(torch.bool), f"{layer}masked_bias": masked, **table}
        case "opt":
            return {}
    return {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(8) for number in range(2)}


def tied_head(weights: Weights) -> Weights:
    """A head that the file has though the embeddings are it."""
    (embed,) = (name for name in weights if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight")))
    head = "embed_out.weight" if "embed_in" in embed else "lm_head.weight"
    return {} if head in weights else {head: weights[embed].clone()}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_names_are_the_same_model(name: str, tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    folder = tiny(name)
    expected = logits(folder, exact_ops)
    weights, prefix = load(folder), PREFIXES.get(model_type(folder), "model.")
    bare = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    assert bare.keys() != weights.keys()
    full = weights | leftovers(folder) | tied_head(weights)
    keys = sorted(full)
    shards = [{key: full[key] for key in keys[at::3]} for at in range(3)]
    for number, parts in enumerate(([bare], [full], shards)):
        saved = save(tmp_path / str(number), folder, *parts)
        np.testing.assert_array_equal(logits(saved, exact_ops), expected)


def mixed(at: int, tensor: Any) -> Any:
    return tensor.to((torch.float16, torch.bfloat16, torch.float32)[at % 3])


KINDS: dict[str, Callable[[int, Any], Any]] = {
    "bfloat16": lambda _, tensor: tensor.to(torch.bfloat16),
    "float16": lambda _, tensor: tensor.to(torch.float16),
    "mixed": mixed,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_types(name: str, kind: str, tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    weights = {key: KINDS[kind](at, tensor) for at, (key, tensor) in enumerate(sorted(load(tiny(name)).items()))}
    folder = save(tmp_path / "typed", tiny(name), weights)
    expected = reference_logits(reference(folder), prompt(19))
    np.testing.assert_allclose(logits(folder, exact_ops), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral", "gpt-neox"])
def test_types_on_both_backends(name: str, kind: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    weights = {key: KINDS[kind](at, tensor) for at, (key, tensor) in enumerate(sorted(load(tiny(name)).items()))}
    folder = save(tmp_path / "typed", tiny(name), weights)
    expected = reference_logits(reference(folder), prompt(19))
    np.testing.assert_allclose(logits(folder, ops), expected, atol=1e-3, rtol=0)
