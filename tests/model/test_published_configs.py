"""Configs as published: read as transformers reads them, and the models that they describe give its logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_sequence import OneSequence
from published_configs import PUBLISHED, published, shrunk
from tiny_models import prompt, reference, reference_logits

from headrace.errors import HeadraceError, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.model.families.base import Family
from headrace.model.loader import families, load_decoder, read_spec
from headrace.model.spec import ModelSpec

SIZES = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_embd", "n_head", "n_layer"}
"""Without these, a file is damaged; transformers takes those of some model that it was named after."""


def read(folder: Path, config: dict[str, Any]) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return read_spec(ModelFiles("tiny", folder=folder))


def as_transformers(folder: Path) -> dict[str, Any]:
    """The folder's config with every key and default said, in the newest form."""
    from transformers import AutoConfig

    config: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return config


@pytest.mark.parametrize("name", PUBLISHED)
def test_read_as_by_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    spec = read(tmp_path / "published", published(name))
    assert spec == read(tmp_path / "whole", as_transformers(tmp_path / "published"))


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("Llama-2-7b-hf", 4096),
        ("vicuna-7b-v1.5-16k", 16384),
        ("Qwen2.5-Coder-32B-Instruct, yarn", 131072),
        ("Llama-3.1-8B-Instruct", 131072),
        ("Phi-3.5-mini-instruct", 131072),
    ],
)
def test_context_with_its_scaling(name: str, context: int, tmp_path: Path) -> None:
    assert read(tmp_path, published(name)).max_context == context


def one_of_each_family() -> list[str]:
    return list({published(name)["model_type"]: name for name in PUBLISHED}.values())


@pytest.mark.parametrize("name", one_of_each_family())
def test_what_is_absent_means_what_it_means_to_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = published(name)
    for key in config.keys() - {"model_type"}:
        rest = {other: value for other, value in config.items() if other != key}
        if key in SIZES:
            with pytest.raises(HeadraceError, match=f"has no {key}"):
                read(tmp_path / "rest", rest)
        else:
            (tmp_path / "rest").mkdir(exist_ok=True)
            (tmp_path / "rest" / "config.json").write_text(json.dumps(rest))
            try:
                whole = as_transformers(tmp_path / "rest")
            except Exception:  # noqa: BLE001  transformers cannot read it either
                continue
            try:
                expected = read(tmp_path / "whole", whole)
            except HeadraceError:  # its default does not go with the other sizes
                with pytest.raises(HeadraceError):
                    read(tmp_path / "rest", rest)
                continue
            assert read(tmp_path / "rest", rest) == expected, key


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_defaults_are_those_of_transformers(family: Family) -> None:
    pytest.importorskip("transformers")
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family.model_types[0]]
    assert family.defaults == {key: getattr(kind, key) for key in family.defaults}


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits(name: str, exact_ops: Any, tmp_path: Path) -> None:
    """Small models with all that is no size as published: beside the same model in transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = shrunk(published(name))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(tmp_path), dtype=torch.float32
    )
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for parameter in model.parameters():
            values = rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
            is_norm = parameter.ndim == 1
            parameter.copy_(
                torch.from_numpy(values * (0.3 if is_norm else parameter.shape[-1] ** -0.5) + is_norm * 0.7)
            )
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))  # the published form again, which saving renewed
    token_ids = prompt(31)
    logits = OneSequence(load_decoder(ModelFiles("tiny", folder=tmp_path), exact_ops)).feed(token_ids)
    expected = reference_logits(reference(tmp_path), token_ids)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, atol=5e-5 * float(np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opt-125m", {"do_layer_norm_before": False, "word_embed_proj_dim": 512}, "word_embed_proj_dim is 512"),
        ("pythia-70m", {"rope_theta": 20000}, "rope_theta is 20000"),
        ("Qwen3-30B-A3B", {"use_qk_norm": False, "shared_expert_intermediate_size": 64}, "shared_expert_inter"),
        ("Qwen2.5-0.5B", {"dual_chunk_attention_config": {"chunk_size": 262144}}, "dual_chunk_attention_config"),
        ("Llama-2-7b-hf", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ("gemma-3-1b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_models_beside_them_are_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(tmp_path, {**published(name), **changes})
