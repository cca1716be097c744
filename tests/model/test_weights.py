"""Weights that do not fit the config are named; what is no weight is let pass; quantisation says what it kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_sequence import OneSequence
from safetensors.numpy import load_file, save_file
from tiny_models import make_tiny, prompt

from headrace.errors import ConfigError, WeightsMismatch
from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder
from headrace.ops.reference import ReferenceOps

Tiny = Callable[[str], Path]
OPS = ReferenceOps()


def logits(folder: Path, **options: Any) -> np.ndarray:
    return OneSequence(load_decoder(ModelFiles("tiny", folder=folder), OPS, **options)).feed(prompt(6))


def changed(folder: Path, target: Path, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Path:
    target.mkdir(exist_ok=True)
    shutil.copy(folder / "config.json", target)
    save_file(dict(change(load_file(folder / "model.safetensors"))), target / "model.safetensors")
    return target


def test_missing_left_over_and_misshapen_weights_are_named(tiny: Tiny, tmp_path: Path) -> None:
    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del weights["model.layers.1.mlp.up_proj.weight"]
        weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
        weights["model.layers.3.mlp.up_proj.weight"] = np.zeros((96, 64), np.float32)
        weights["model.norm.weight"] = np.zeros(63, np.float32)
        return weights

    with pytest.raises(WeightsMismatch) as error:
        logits(changed(tiny("llama"), tmp_path, change))
    message = str(error.value)
    assert "1 missing: layers.1.up.weight;" in message
    assert "2 left over: model.layers.0.self_attn.q_proj.bias, model.layers.3.mlp.up_proj.weight;" in message
    assert "1 of the wrong shape: model.norm.weight is [63], expected [64];" in message
    assert "\n" not in message


def test_long_lists_are_shortened(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"29 missing: embed\.weight, .* and 24 more"):
        logits(changed(tiny("llama"), tmp_path, lambda weights: {"lm_head.weight": weights["lm_head.weight"]}))


def test_buffers_and_copies_of_tied_heads_are_let_pass(tiny: Tiny, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, np.ndarray]]] = [
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}),
        ("llama-mqa-tied", {"lm_head.weight": np.ones((96, 64), np.float32)}),
        ("gpt2", {"transformer.h.0.attn.bias": np.ones((1, 1, 256, 256), np.uint8)}),
        ("gpt2", {"transformer.h.0.attn.masked_bias": np.float32([-1e4])}),
        ("gpt-neox", {"gpt_neox.layers.0.attention.bias": np.ones((1, 1, 4, 4), np.bool_)}),
    ]
    for number, (name, extra) in enumerate(cases):
        folder = changed(tiny(name), tmp_path / str(number), lambda weights, extra=extra: {**weights, **extra})
        np.testing.assert_array_equal(logits(folder), logits(tiny(name)))


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("llama", "model."), ("opt", "model.")])
def test_names_without_their_prefix(name: str, prefix: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = changed(tiny(name), tmp_path, lambda w: {key.removeprefix(prefix): value for key, value in w.items()})
    np.testing.assert_array_equal(logits(folder), logits(tiny(name)))


def test_shards(tiny: Tiny, tmp_path: Path) -> None:
    weights = load_file(tiny("llama") / "model.safetensors")
    shutil.copy(tiny("llama") / "config.json", tmp_path)
    weight_map = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        filename = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, tmp_path / filename)
        weight_map |= dict.fromkeys(names, filename)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    np.testing.assert_array_equal(logits(tmp_path), logits(tiny("llama")))


def test_half_precision_files(tiny: Tiny, tmp_path: Path) -> None:
    halves = changed(tiny("gpt2"), tmp_path / "half", lambda w: {k: v.astype(np.float16) for k, v in w.items()})
    rounded = changed(
        tiny("gpt2"), tmp_path / "f", lambda w: {k: v.astype(np.float16).astype(np.float32) for k, v in w.items()}
    )
    np.testing.assert_array_equal(logits(halves), logits(rounded))


def test_what_cannot_be_quantised_is_kept_and_named(tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path, intermediate_size=80)
    decoder = load_decoder(ModelFiles("tiny", folder=folder), OPS, quantize="q4")
    assert decoder.weights.kept == tuple(f"layers.{index}.down.weight" for index in range(3))
    assert set(decoder.formats.split(", ")) == {"f32", "q4_0", "q8_0"}
    with pytest.raises(ConfigError, match="quantize is 'q3', expected one of q8, q4"):
        load_decoder(ModelFiles("tiny", folder=folder), OPS, quantize="q3")


def test_routers_norms_and_positions_stay_as_they_are(tiny: Tiny) -> None:
    moe = load_decoder(ModelFiles("tiny", folder=tiny("mixtral")), OPS, quantize="q4").weights.layers[0].mlp
    assert (moe.router.format, moe.gate_up[0].format) == ("f32", "q4_0")
    gpt2 = load_decoder(ModelFiles("tiny", folder=tiny("gpt2")), OPS, quantize="q4").weights
    assert gpt2.positions is not None
    assert (gpt2.positions.format, gpt2.embed.format) == ("f32", "q8_0")


def test_sizes(tiny: Tiny) -> None:
    decoder = load_decoder(ModelFiles("tiny", folder=tiny("llama-mqa-tied")), OPS)
    expected = decoder.spec.expected_weights()
    assert decoder.nbytes == 4 * sum(int(np.prod(shape)) for shape in expected.values() if len(shape) == 2)
    cache = decoder.new_cache(3, 16)
    assert decoder.cache_block_bytes(16) * 3 == cache.keys.nbytes + cache.values.nbytes


def test_two_tensors_for_one_weight_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return weights | {"norm.weight": np.ones(64, np.float32)}

    with pytest.raises(WeightsMismatch, match=r"1 left over: (model\.)?norm\.weight"):
        logits(changed(tiny("llama"), tmp_path, change))
