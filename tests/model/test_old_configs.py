"""Configs in transformers 4's form and in 5's say the same; transformers, which reads both, is the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VARIANTS

from headrace.hub.files import ModelFiles
from headrace.model.loader import read_spec

Tiny = Callable[[str], Path]


def old_form(config: dict[str, Any]) -> dict[str, Any]:
    old = {key: value for key, value in config.items() if key not in ("layer_types", "rope_parameters", "dtype")}
    old |= {"torch_dtype": "float32", "transformers_version": "4.40.0"}
    parameters = dict(config.get("rope_parameters") or {})
    if "full_attention" in parameters:
        old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        parameters = dict(parameters["full_attention"])
    neox = config["model_type"] == "gpt_neox"
    for key, name in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        if key in parameters:
            old[name if neox else key] = parameters.pop(key)
    if parameters.get("rope_type", "default") != "default":
        if config["model_type"] != "gemma3_text":  # never had the oldest name of the key
            parameters["type"] = parameters.pop("rope_type")
        old["rope_scaling"] = parameters
    if config["model_type"] == "qwen3_moe":
        old["num_experts"] = old.pop("num_local_experts")
    return old


@pytest.mark.parametrize("name", VARIANTS)
def test_old_and_new_form_are_one_spec(name: str, tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = json.loads((tiny(name) / "config.json").read_text())
    old = old_form(config)
    (tmp_path / "config.json").write_text(json.dumps(old))
    layer_types = AutoConfig.from_pretrained(tmp_path).to_dict().get("layer_types")
    if layer_types != config.get("layer_types"):  # not the default pattern: the old form needs it too
        old["layer_types"] = config["layer_types"]
        (tmp_path / "config.json").write_text(json.dumps(old))
    rope_parameters = AutoConfig.from_pretrained(tmp_path).to_dict().get("rope_parameters") or {}
    rope_parameters.pop("type", None)
    assert rope_parameters == (config.get("rope_parameters") or {}), "the old form does not say the same"
    assert read_spec(ModelFiles("old", folder=tmp_path)) == read_spec(ModelFiles("new", folder=tiny(name)))


@pytest.mark.parametrize("name", ["qwen2-window", "qwen3-window-bias", "gemma2", "gemma3"])
def test_default_windows_are_those_of_transformers(name: str, tiny: Tiny, tmp_path: Path) -> None:
    config = json.loads((tiny(name) / "config.json").read_text())
    kinds = config.pop("layer_types")
    (tmp_path / "config.json").write_text(json.dumps(config))
    layers = read_spec(ModelFiles("tiny", folder=tmp_path)).layers
    assert [layer.window is not None for layer in layers] == [kind == "sliding_attention" for kind in kinds]
    assert len(set(kinds)) == 2
