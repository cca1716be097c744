"""LoRA adapters against transformers with merged weights, and against PEFT itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_sequence import OneSequence
from tiny_adapters import make_adapter, merge
from tiny_models import VARIANTS, prompt, reference, reference_logits

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.errors import DamagedFile, HeadraceError, ModelNotFound, UnsupportedModel, WeightsMismatch
from headrace.formats.safetensors import open_safetensors, write_safetensors
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.decoder import Decoder
from headrace.model.loader import load_adapter, load_decoder
from headrace.types import IntArray

Tiny = Callable[[str], Path]
TOLERANCE = 1e-4


class Adapted(Decoder):
    """A decoder whose every token has one adapter."""

    def __init__(self, decoder: Decoder, slot: int) -> None:
        self.__dict__ = dict(decoder.__dict__)
        self.slot = slot

    def forward(self, batch: Batch, cache: Any) -> Any:
        slots: IntArray = np.full(len(batch.token_ids), self.slot, np.int32)
        return super().forward(replace(batch, adapters=slots), cache)

    def new_cache(self, num_blocks: int, block_size: int, dtype: CacheType = CacheType.F32) -> Any:
        return super().new_cache(num_blocks, block_size, CacheType.F32)


def load(folder: Path, ops: Any, *adapters: Path, **options: Any) -> tuple[Decoder, list[int]]:
    files = ModelFiles("tiny", folder=folder)
    decoder = load_decoder(files, ops, **options)
    return decoder, [decoder.adapters.add(load_adapter(adapter, files, decoder)) for adapter in adapters]


def adapted(folder: Path, ops: Any, adapter: Path, **options: Any) -> Decoder:
    decoder, [slot] = load(folder, ops, adapter, **options)
    return Adapted(decoder, slot)


def check(folder: Path, ops: Any, adapter: Path, model: Any | None = None) -> None:
    """Logits of the adapted decoder are those of the merged model, and not those of the base."""
    token_ids = prompt(29)
    expected = reference_logits(merge(model or reference(folder), adapter), token_ids)
    logits = OneSequence(adapted(folder, ops, adapter)).feed(token_ids, 11)
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
    assert np.abs(reference_logits(reference(folder), token_ids) - expected).max() > 0.02, "the adapter should show"


DENSE = [name for name in VARIANTS if "moe" not in name and "mixtral" not in name]


@pytest.mark.parametrize("name", DENSE)
def test_every_linear_layer_of_every_family(name: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    check(tiny(name), ops, make_adapter(tmp_path, reference(tiny(name))))


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe-mixed"])
def test_attention_of_a_mixture_of_experts(name: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path, reference(tiny(name)), ["q_proj", "k_proj", "v_proj", "o_proj"])
    check(tiny(name), ops, adapter)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", ["embed_tokens", "lm_head", "v_proj"]),
        ("llama-mqa-tied", ["embed_tokens"]),
        ("llama-mqa-tied", ["lm_head"]),
        ("gemma3", ["embed_tokens", "o_proj"]),
        ("gpt2", ["wte", "c_fc"]),
        ("gpt-neox", ["embed_in", "embed_out"]),
        ("granite", ["embed_tokens", "lm_head", "down_proj"]),
    ],
)
def test_embeddings_and_heads(name: str, targets: list[str], tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    check(tiny(name), ops, make_adapter(tmp_path, reference(tiny(name)), targets, rank=7))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_matrices_that_were_trained_whole(name: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    embedding, head = ("wte", "lm_head") if name == "gpt2" else ("embed_tokens", "lm_head")
    targets = ["c_attn"] if name == "gpt2" else ["q_proj"]
    make_adapter(tmp_path, reference(tiny(name)), targets, modules_to_save=[embedding, head])
    stem = "transformer" if name == "gpt2" else "model"
    rng = np.random.default_rng(4)
    whole = {
        f"base_model.model.{module}.weight": rng.standard_normal((96, 64)).astype(np.float32) * 0.05
        for module in (f"{stem}.{embedding}", head)
    }
    _rewrite(tmp_path, lambda tensors: tensors.update({k: Tensor.from_array(k, v) for k, v in whole.items()}))
    check(tiny(name), ops, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "lora_alpha": 3},
        {
            "use_rslora": True,
            "rank_pattern": {"model.layers.1.self_attn.q_proj": 9, "model.layers.0.mlp.down_proj": 20},
        },
        {"alpha_pattern": {"model.layers.2.mlp.up_proj": 30}, "rank_pattern": {"model.layers.2.mlp.up_proj": 2}},
        {"rank": 40},
        {"lora_dropout": 0.3, "fan_in_fan_out": False, "init_lora_weights": "gaussian", "inference_mode": True},
    ],
)
def test_ranks_and_scales(settings: dict[str, Any], tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    check(tiny("llama"), ops, make_adapter(tmp_path, reference(tiny("llama")), **settings))


def test_patterns_are_ends_of_names(tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    model, exact, short = reference(tiny("llama")), tmp_path / "exact", tmp_path / "short"
    every = {f"model.layers.{i}.self_attn.k_proj": 6 for i in range(3)}
    make_adapter(exact, model, rank_pattern=every)
    shutil.copytree(exact, short)
    config = json.loads((short / "adapter_config.json").read_text())
    (short / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {"self_attn.k_proj": 6}}))
    logits = [OneSequence(adapted(tiny("llama"), ops, folder)).feed(prompt(5)).tobytes() for folder in (exact, short)]
    assert logits[0] == logits[1]


@pytest.mark.parametrize("quantize", ["q8", "q4"])
def test_a_quantised_base(quantize: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    """What is added does not depend on how the base is stored: the base's own logits move by about as much."""
    folder, model = tiny("qwen2"), reference(tiny("qwen2"))
    adapter = make_adapter(tmp_path, model)
    token_ids = prompt(9)
    decoder, [slot] = load(folder, ops, adapter, quantize=quantize)
    plain, with_adapter = (OneSequence(Adapted(decoder, at)).feed(token_ids) for at in (-1, slot))
    moved = reference_logits(merge(model, adapter), token_ids) - reference_logits(model, token_ids)
    error = np.abs((with_adapter - plain) - moved).max()
    assert error < (0.1 if quantize == "q8" else 0.6) * np.abs(moved).max()


def _batch(decoder: Decoder, rows: list[tuple[int, int]]) -> Batch:
    """Prompts of 1 to 9 tokens, each with (seed, slot) and 2 rows of logits where there are 2 tokens."""
    lengths = [1 + seed % 9 for seed, _ in rows]
    start = np.cumsum([0, *lengths]).astype(np.int32)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    return Batch(
        token_ids=np.concatenate([prompt(n, seed) for (seed, _), n in zip(rows, lengths, strict=True)]).astype(
            np.int32
        ),
        positions=positions,
        rope_rows=decoder.rope_rows(positions, 0),
        query_start=start,
        block_tables=np.arange(len(rows), dtype=np.int32)[:, None],
        logit_rows=start[1:] - 1,
        adapters=np.repeat(np.array([slot for _, slot in rows], np.int32), lengths),
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "qwen3-moe"])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_eight_adapters_in_one_batch_are_each_as_alone(
    name: str, is_compiled: bool, tiny: Tiny, tmp_path: Path
) -> None:
    cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    ops, model = cpu.CpuOps(2), reference(tiny(name))
    targets = ["q_proj", "o_proj", "embed_tokens"] if "moe" in name else None
    adapters = [make_adapter(tmp_path / f"{i}", model, targets, seed=i, rank=3 + 5 * i) for i in range(8)]
    decoder, slots = load(tiny(name), ops, *adapters)
    if not is_compiled:
        ops.compile = lambda forward: partial(forward, ops)
    rows = [(seed, [*slots, -1][seed % 9]) for seed in np.random.default_rng(1).permutation(33).tolist()]
    together = decoder.forward(_batch(decoder, rows), decoder.new_cache(33, 16))
    for at, row in enumerate(rows):
        alone = decoder.forward(_batch(decoder, [row]), decoder.new_cache(1, 16))
        assert together[at].tobytes() == alone[0].tobytes(), row
    assert len({logits.tobytes() for logits in together}) == 33


def test_slots_come_and_go(tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    model = reference(tiny("llama"))
    adapters = [make_adapter(tmp_path / f"{i}", model, seed=i) for i in range(3)]
    files = ModelFiles("tiny", folder=tiny("llama"))
    decoder = load_decoder(files, ops)
    packed = [load_adapter(adapter, files, decoder) for adapter in adapters]
    assert packed[0].nbytes > 0

    def logits(slot: int) -> bytes:
        return OneSequence(Adapted(decoder, slot)).feed(prompt(6)).tobytes()

    base = logits(-1)
    assert [decoder.adapters.add(each) for each in packed] == [0, 1, 2]
    before = [logits(slot) for slot in range(3)]
    assert len({base, *before}) == 4
    decoder.adapters.remove(1)
    assert [logits(slot) for slot in (0, 1, 2)] == [before[0], base, before[2]]
    assert decoder.adapters.add(packed[1]) == 1
    assert [logits(slot) for slot in range(3)] == before


# What PEFT makes


PEFT_CASES = {
    "llama": {"target_modules": "all-linear", "r": 6},
    "qwen2": {"target_modules": ["q_proj", "gate_proj"], "use_rslora": True},
    "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    "gemma3": {"target_modules": ["embed_tokens", "v_proj"], "layers_to_transform": None},
    "gpt-neox": {"target_modules": ["query_key_value"], "layers_to_transform": [0, 2]},
    "phi3": {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "olmo2": {"target_modules": r".*\.(up|down)_proj", "rank_pattern": {"layers.1.mlp.up_proj": 3}},
    "opt": {"target_modules": ["fc1", "q_proj"], "alpha_pattern": {"fc1": 40}},
    "llama-mqa-tied": {"target_modules": ["k_proj"], "modules_to_save": ["lm_head"]},
    "mistral": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEFT_CASES)
def test_an_adapter_of_peft(name: str, tiny: Tiny, ops: Any, tmp_path: Path) -> None:
    import copy

    import torch

    peft = pytest.importorskip("peft")
    model = copy.deepcopy(reference(tiny(name)))
    settings = {"r": 4, "lora_alpha": 10, "task_type": "CAUSAL_LM", **PEFT_CASES[name]}
    trained = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                spread = 0.2 if "lora_" in parameter_name else 0.02
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    trained.save_pretrained(tmp_path)
    token_ids = prompt(23)
    expected = reference_logits(trained, token_ids)
    logits = OneSequence(adapted(tiny(name), ops, tmp_path)).feed(token_ids)
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
    assert np.abs(reference_logits(reference(tiny(name)), token_ids) - expected).max() > 0.02


# Refusals


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = dict(open_safetensors(folder / "adapter_model.safetensors"))
    copies = {name: Tensor.from_array(name, tensor.decode().copy()) for name, tensor in tensors.items()}
    change(copies)
    write_safetensors(folder / "adapter_model.safetensors", copies)


REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], type[HeadraceError], str]] = {
    "dora": ({"use_dora": True}, UnsupportedModel, "use_dora is True"),
    "bias": ({"bias": "lora_only"}, UnsupportedModel, "bias is 'lora_only'"),
    "bias of the update": ({"lora_bias": True}, UnsupportedModel, "lora_bias is True"),
    "another method": ({"peft_type": "IA3"}, UnsupportedModel, "peft_type is 'IA3'"),
    "changed base": ({"init_lora_weights": "pissa"}, UnsupportedModel, "init_lora_weights is 'pissa'"),
    "trained tokens": ({"trainable_token_indices": [1, 2]}, UnsupportedModel, "trainable_token_indices"),
    "parameters": ({"target_parameters": ["experts.gate"]}, UnsupportedModel, "target_parameters"),
    "activated": ({"alora_invocation_tokens": [5]}, UnsupportedModel, "alora_invocation_tokens"),
    "unknown": ({"new_maths": 3}, UnsupportedModel, "new_maths is 3"),
    "norms": ({"modules_to_save": ["norm"]}, WeightsMismatch, "1 missing: norm"),
    "a head, said twice": (
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
        WeightsMismatch,
        "1 missing: lm_head",
    ),
    "rank": ({"r": 5}, WeightsMismatch, "of the wrong shape: .*lora_A.weight is"),
    "rank as text": ({"r": "four"}, DamagedFile, "r is 'four'"),
    "pattern": ({"rank_pattern": {"(": 4}}, DamagedFile, "not a regular expression"),
    "pattern for ever": ({"rank_pattern": {"(a+)+b": 4}}, UnsupportedModel, "could take forever"),
    "rank of a pattern": ({"rank_pattern": {"q_proj": 0}}, DamagedFile, "rank_pattern has 0"),
    "more modules": ({"target_modules": ["q_proj", "o_proj"]}, WeightsMismatch, "3 missing: layers.0.self_attn.o_proj"),
}


@pytest.mark.parametrize("what", REFUSED_CONFIGS)
def test_a_config_that_is_not_implemented_is_refused(what: str, tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    changes, kind, message = REFUSED_CONFIGS[what]
    make_adapter(tmp_path, reference(tiny("llama")), ["q_proj"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(kind, match=message):
        load(tiny("llama"), exact_ops, tmp_path)


def _vector(size: int) -> Tensor:
    return Tensor.from_array("v", np.ones(size, np.float32))


_Q = "base_model.model.model.layers.0.self_attn.q_proj"
REFUSED_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "no B": (
        lambda tensors: tensors.pop(f"{_Q}.lora_B.weight"),
        "1 missing: lora_B of model.layers.0.self_attn.q_proj",
    ),
    "no layer": (
        lambda tensors: [tensors.pop(f"{_Q}.lora_{x}.weight") for x in "AB"],
        "1 missing: layers.0.self_attn.q_proj",
    ),
    "a layer too many": (
        lambda tensors: tensors.update(
            {name.replace("0", "3"): tensors[name] for name in list(tensors) if "0" in name}
        ),
        "2 left over: base_model.model.model.layers.3",
    ),
    "magnitudes": (
        lambda tensors: tensors.update({f"{_Q}.lora_magnitude_vector": _vector(64)}),
        "not a part of a plain",
    ),
    "a norm": (lambda tensors: tensors.update({"base_model.model.model.norm.weight": _vector(64)}), "1 left over"),
    "a whole matrix": (lambda tensors: tensors.update({f"{_Q}.weight": _vector(64)}), "left over"),
    "columns": (
        lambda tensors: tensors.update({f"{_Q}.lora_A.weight": Tensor.from_array("a", np.ones((4, 32), np.float32))}),
        r"1 of the wrong shape: .*expected \[4, 64\]",
    ),
}


@pytest.mark.parametrize("what", REFUSED_TENSORS)
def test_tensors_that_do_not_fit_are_refused(what: str, tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    change, message = REFUSED_TENSORS[what]
    make_adapter(tmp_path, reference(tiny("llama")), ["q_proj"])
    _rewrite(tmp_path, change)
    with pytest.raises((WeightsMismatch, UnsupportedModel), match=message):
        load(tiny("llama"), exact_ops, tmp_path)


def test_experts_are_refused_by_name(tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path, reference(tiny("qwen3-moe")), ["q_proj"])
    router = "base_model.model.model.layers.0.mlp.gate"

    def add(tensors: dict[str, Tensor]) -> None:
        tensors[f"{router}.lora_A.weight"] = Tensor.from_array("a", np.ones((4, 64), np.float32))
        tensors[f"{router}.lora_B.weight"] = Tensor.from_array("b", np.ones((6, 4), np.float32))

    _rewrite(tmp_path, add)
    with pytest.raises(WeightsMismatch, match=r"2 left over: .*mlp\.gate"):
        load(tiny("qwen3-moe"), exact_ops, tmp_path)


def test_files_that_are_not_there_or_damaged(tiny: Tiny, exact_ops: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path, reference(tiny("llama")), ["q_proj"])
    config = tmp_path / "adapter_config.json"
    text = config.read_text()
    config.write_text("[1]")
    with pytest.raises(DamagedFile, match="not an object"):
        load(tiny("llama"), exact_ops, tmp_path)
    config.unlink()
    with pytest.raises(ModelNotFound, match=r"no adapter_config\.json"):
        load(tiny("llama"), exact_ops, tmp_path)
    config.write_text(text)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelNotFound, match=r"no adapter_model\.safetensors"):
        load(tiny("llama"), exact_ops, tmp_path)
