"""The same weights from a GGUF file and from a folder give the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from one_sequence import OneSequence
from tiny_gguf import ARCHITECTURES, GGUF_VARIANTS, write_gguf
from tiny_models import SWITCH, make_tiny, prompt

from headrace.errors import DamagedFile, UnsupportedModel, WeightsMismatch
from headrace.formats.gguf_writer import write_gguf as write_plain_gguf
from headrace.hub.files import ModelFiles
from headrace.model.loader import families, load_decoder, read_spec

Tiny = Callable[[str], Path]

CHANGES: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 16},  # a file cannot say it, and it is the head's size in all but one model
    "gemma3": {"query_pre_attn_scalar": 16},
}


def folder_of(name: str, tiny: Tiny, tmp_path: Path) -> Path:
    return make_tiny(name, tmp_path / "hf", **CHANGES[name]) if name in CHANGES else tiny(name)


def test_every_architecture_is_tested() -> None:
    ours = {name for family in families() for name in family.gguf_architectures}
    assert ours == {gguf.MODEL_ARCH_NAMES[architecture] for architecture in ARCHITECTURES.values()}


@pytest.mark.parametrize("name", GGUF_VARIANTS)
def test_logits_are_those_of_the_folder(name: str, tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    folder = folder_of(name, tiny, tmp_path)
    path = write_gguf(folder, tmp_path / "tiny.gguf")
    token_ids = prompt(SWITCH + 5)
    expected = OneSequence(load_decoder(ModelFiles("tiny", folder=folder), exact_ops)).feed(token_ids)
    decoder = load_decoder(ModelFiles("tiny.gguf", gguf_path=path), exact_ops)
    np.testing.assert_allclose(OneSequence(decoder).feed(token_ids), expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt-neox"])
def test_quantised_files_run(name: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    path = write_gguf(tiny(name), tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0)
    decoder = load_decoder(ModelFiles("tiny.gguf", gguf_path=path), ops, quantize="q4")
    assert "q4_0" not in decoder.formats, "what is quantised already stays as it is"
    plain = OneSequence(load_decoder(ModelFiles("tiny", folder=tiny(name)), ops)).feed(prompt(9))
    difference = np.abs(OneSequence(decoder).feed(prompt(9)) - plain).max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("pattern", [2, [True, False, True]])
def test_gemma_window_patterns(pattern: Any, tiny: Tiny, tmp_path: Path) -> None:
    folder = make_tiny("gemma3", tmp_path / "hf", num_hidden_layers=3)
    path = write_gguf(folder, tmp_path / "tiny.gguf", attention__sliding_window_pattern=pattern)
    spec = read_spec(ModelFiles("tiny.gguf", gguf_path=path))
    assert [layer.window is not None for layer in spec.layers] == [True, False, True]
    assert [layer.rope for layer in spec.layers] == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("llama", {"attention__clamp_kqv": 2.0}, r"llama\.attention\.clamp_kqv is 2\.0"),
        ("llama", {"rope__scaling__type": "ntk"}, r"rope\.scaling\.type is 'ntk'"),
        ("llama", {"rope__scaling__type": "longrope"}, r"rope\.scaling\.type is 'longrope'"),
        ("mixtral", {"expert_gating_func": 2}, "expert_gating_func is 2"),
        ("qwen2", {"attention__sliding_window": 16}, r"qwen2\.attention\.sliding_window is 16"),
        ("olmo2", {"attention__sliding_window": 16}, r"olmo2\.attention\.sliding_window is 16"),
        ("qwen2-yarn", {"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5"),
    ],
)
def test_unknown_metadata_is_refused_by_name(
    name: str, extra: dict[str, Any], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    path = write_gguf(tiny(name), tmp_path / "tiny.gguf", **extra)
    with pytest.raises(UnsupportedModel, match=message):
        read_spec(ModelFiles("tiny.gguf", gguf_path=path))


def test_wrong_metadata(tiny: Tiny, tmp_path: Path, ops: Any) -> None:
    path = write_gguf(tiny("llama"), tmp_path / "a.gguf", attention__head_count=0)
    with pytest.raises(DamagedFile, match=r"llama\.attention\.head_count is 0, expected a whole number"):
        read_spec(ModelFiles("a.gguf", gguf_path=path))
    path = write_gguf(tiny("llama"), tmp_path / "b.gguf", feed_forward_length=64)
    with pytest.raises(WeightsMismatch, match=r"blk\.0\.ffn_\w+\.weight is \[\d+, \d+\], expected \[\d+, \d+\]"):
        load_decoder(ModelFiles("b.gguf", gguf_path=path), ops)


def test_unknown_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match=r"'mamba'; headrace runs llama, qwen2"):
        read_spec(ModelFiles("tiny.gguf", gguf_path=tmp_path / "tiny.gguf"))


def test_experts_apart_as_in_the_first_mixtral_files(tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    stacked = ModelFiles("new.gguf", gguf_path=write_gguf(tiny("mixtral"), tmp_path / "new.gguf"))
    assert stacked.gguf is not None
    tensors = {}
    for name, tensor in stacked.gguf.tensors.items():
        if "_exps." in name:
            for index in range(tensor.shape[0]):
                tensors[name.replace("_exps.", f".{index}.")] = tensor.expert(index)
        else:
            tensors[name] = tensor
    write_plain_gguf(tmp_path / "old.gguf", stacked.gguf.metadata, tensors)
    old = ModelFiles("old.gguf", gguf_path=tmp_path / "old.gguf")
    logits = [OneSequence(load_decoder(files, exact_ops)).feed(prompt(9)) for files in (stacked, old)]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("qwen3-moe", {"expert_shared_feed_forward_length": 0}),  # Qwen3-Coder-30B-A3B
        ("granite", {"expert_count": 0, "expert_used_count": 0, "expert_shared_feed_forward_length": 96}),  # Granite 4
        ("gemma3", {"rope__freq_base_swa": 10000.0}),
        ("llama", {"rope__scaling__finetuned": True, "expert_count": 0}),
    ],
)
def test_metadata_that_changes_nothing(name: str, extra: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    folder = folder_of(name, tiny, tmp_path)
    specs = [
        read_spec(ModelFiles("tiny.gguf", gguf_path=write_gguf(folder, tmp_path / f"{len(more)}.gguf", **more)))
        for more in ({}, extra)
    ]
    assert specs[0] == specs[1]


def test_windows_of_old_phi3_files(tiny: Tiny, tmp_path: Path) -> None:
    """Microsoft's own files are of before the key."""
    for context, window in ((4096, 2047), (131072, None), (256, -1)):
        new = ModelFiles("new.gguf", gguf_path=write_gguf(tiny("phi3"), tmp_path / "new.gguf", context_length=context))
        assert new.gguf is not None
        metadata = {key: value for key, value in new.gguf.metadata.items() if not key.endswith("sliding_window")}
        write_plain_gguf(tmp_path / "old.gguf", metadata, new.gguf.tensors)
        old = ModelFiles("old.gguf", gguf_path=tmp_path / "old.gguf")
        if window == -1:
            with pytest.raises(UnsupportedModel, match="does not say its sliding window"):
                read_spec(old)
        else:
            assert {layer.window for layer in read_spec(old).layers} == {window}
