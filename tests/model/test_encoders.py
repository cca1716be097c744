"""Encoders and classifiers against transformers: hidden states, logits, embeddings; bits alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import (
    DECODERS,
    ENCODERS,
    encoder_reference,
    make_tiny_encoder,
    reference_output,
    text_ids,
)
from tiny_gguf import write_gguf
from tiny_models import WINDOW

from headrace.batch import Batch
from headrace.config import CacheType
from headrace.engine.pooling import PoolingEngine
from headrace.errors import DamagedFile, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.model.decoder import Decoder
from headrace.model.embedding import Embedder, EmbeddingRecipe, read_recipe
from headrace.model.loader import load_decoder, read_spec
from headrace.model.spec import Pooling
from headrace.pooled import PoolingRequest

Made = Callable[..., Path]
TOLERANCE = 2e-5
LENGTHS = (1, 7, 3 * WINDOW + 5, 140)
_TYPES = {"bert": 2, "bert-other": 3, "nomic": 2}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """made(name, labels) → the folder, made once."""
    pytest.importorskip("transformers")
    folders: dict[tuple[str, int | None], Path] = {}

    def folder(name: str, labels: int | None = None) -> Path:
        if (name, labels) not in folders:
            folders[name, labels] = make_tiny_encoder(name, tmp_path_factory.mktemp(name), labels)
        return folders[name, labels]

    return folder


def load(folder: Path, ops: Any) -> Decoder:
    return load_decoder(ModelFiles("tiny", folder=folder), ops)


def types_of(name: str, length: int) -> list[int] | None:
    kinds = _TYPES.get(name)
    return None if kinds is None else [index * kinds // length for index in range(length)]


def hidden(decoder: Decoder, sequences: list[list[int]], types: list[list[int] | None]) -> list[np.ndarray]:
    """Hidden states of several sequences in one step, in blocks in no order."""
    lengths = [len(ids) for ids in sequences]
    widest = -(-max(lengths) // 16)
    tables = np.random.default_rng(2).permutation(len(lengths) * widest).reshape(-1, widest).astype(np.int32)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    start = np.cumsum([0, *lengths]).astype(np.int32)
    flat_types = [kind for ids, of in zip(sequences, types, strict=True) for kind in of or [0] * len(ids)]
    batch = Batch(
        np.concatenate(sequences).astype(np.int32),
        positions,
        positions,
        start,
        tables,
        np.arange(start[-1], dtype=np.int32),
        token_types=np.array(flat_types if decoder.spec.token_types else [], np.int32),
    )
    out = np.asarray(decoder.hidden(batch, decoder.new_cache(tables.size, 16, CacheType.F32)))
    return [out[first:last] for first, last in pairwise(start)]


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_are_those_of_transformers(name: str, made: Made, ops: Any) -> None:
    model, decoder = encoder_reference(made(name)), load(made(name), ops)
    sequences = [text_ids(length, seed=length) for length in LENGTHS]
    types = [types_of(name, length) for length in LENGTHS]
    for ids, of, found in zip(sequences, types, hidden(decoder, sequences, types), strict=True):
        expected = reference_output(model, ids, of)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_changes_no_bit(name: str, made: Made) -> None:
    cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    decoders = [load(made(name), cpu.CpuOps(threads)) for threads in (1, 2)]
    sequences = [text_ids(length, seed=length) for length in (1, 16, 17, 70, 200)]
    types = [types_of(name, len(ids)) for ids in sequences]
    together = hidden(decoders[1], sequences, types)
    for ids, of, found in zip(sequences, types, together, strict=True):
        assert hidden(decoders[0], [ids], [of])[0].tobytes() == found.tobytes()
    backwards = hidden(decoders[1], sequences[::-1], types[::-1])[::-1]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(together, backwards, strict=True))


@pytest.mark.parametrize("name", ["bert", "modernbert", "nomic"])
def test_a_compiled_pass_is_the_same_operations(name: str, made: Made) -> None:
    cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")

    class PlainOps(cpu.CpuOps):  # type: ignore[name-defined, misc]
        def compile(self, forward: Any) -> Any:
            return partial(forward, self)

    sequences = [text_ids(length, seed=length) for length in (5, 60)]
    types = [types_of(name, len(ids)) for ids in sequences]
    outs = [hidden(load(made(name), kind(2)), sequences, types) for kind in (cpu.CpuOps, PlainOps)]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(*outs, strict=True))


def gguf_of(folder: Path, path: Path, **extra: Any) -> ModelFiles:
    return ModelFiles("tiny.gguf", gguf_path=write_gguf(folder, path / "tiny.gguf", **extra))


GGUF_ENCODERS = ("bert", "roberta", "xlm-roberta", "nomic")


@pytest.mark.parametrize("name", GGUF_ENCODERS)
def test_hidden_states_of_a_gguf_file(name: str, made: Made, ops: Any, tmp_path: Path) -> None:
    files = gguf_of(made(name), tmp_path)
    assert read_spec(files).max_context == read_spec(ModelFiles("tiny", folder=made(name))).max_context
    sequences = [text_ids(length, seed=length) for length in LENGTHS]
    types = [types_of(name, length) for length in LENGTHS]
    expected = hidden(load(made(name), ops), sequences, types)
    for one, other in zip(hidden(load_decoder(files, ops), sequences, types), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6 * np.abs(other).max(), rtol=0)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_classifier_of_a_gguf_file(labels: int, made: Made, ops: Any, tmp_path: Path) -> None:
    folder = made("roberta", labels)
    decoder, plain = load_decoder(gguf_of(folder, tmp_path, pooling_type=4), ops), load(folder, ops)
    assert decoder.spec.classifier == plain.spec.classifier
    requests = requests_of("roberta", LENGTHS, classify=True)
    for one, other in zip(*(run(engine(each, Pooling.MEAN), requests) for each in (decoder, plain)), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6 * max(1, np.abs(other).max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "labels", "extra", "message"),
    [
        ("bert", None, {"attention__causal": True}, r"bert\.attention\.causal is True"),
        ("bert", None, {"pooling_type": 4}, r"bert\.pooling_type is 4; expected 1 \(mean\)"),
        ("bert", None, {"pooling_type": 9}, r"bert\.pooling_type is 9"),
        ("bert", 2, {}, "cls.output without cls"),
    ],
)
def test_gguf_encoders_that_are_refused(
    name: str, labels: int | None, extra: dict[str, Any], message: str, made: Made, tmp_path: Path
) -> None:
    files = gguf_of(made(name, labels), tmp_path, **extra)
    with pytest.raises(UnsupportedModel, match=message):
        read_recipe(files, read_spec(files))


def test_labels_that_do_not_fit(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"has 1 classifier\.output_labels for 3 rows"):
        read_spec(gguf_of(made("roberta", 3), tmp_path, classifier__output_labels=["one"]))


def engine(decoder: Decoder, pooling: Pooling, step_tokens: int = 64) -> PoolingEngine:
    recipe = EmbeddingRecipe(size=decoder.spec.hidden_size, pooling=pooling)
    embedder = Embedder(ModelFiles("tiny"), recipe, decoder.ops)
    return PoolingEngine(decoder, embedder, step_tokens=step_tokens, dtype=CacheType.F32)


def run(engine: PoolingEngine, requests: list[PoolingRequest]) -> list[np.ndarray]:
    values = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        values |= {output.request_id: output.values for output in engine.step()}
    return [values[request.id] for request in requests]


def requests_of(name: str, lengths: tuple[int, ...], **options: Any) -> list[PoolingRequest]:
    return [
        PoolingRequest(
            id=str(length),
            token_ids=tuple(text_ids(length, seed=length)),
            token_types=tuple(types_of(name, length) or ()),
            **options,
        )
        for length in lengths
    ]


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_classifiers_are_those_of_transformers(name: str, labels: int, made: Made, ops: Any) -> None:
    folder = made(name, labels)
    model, decoder = encoder_reference(folder, classifier=True), load(folder, ops)
    assert len(decoder.spec.classifier.labels) == labels
    requests = requests_of(name, LENGTHS, classify=True)
    for request, logits in zip(requests, run(engine(decoder, Pooling.MEAN), requests), strict=True):
        expected = reference_output(model, list(request.token_ids), list(request.token_types) or None)
        np.testing.assert_allclose(logits, expected, atol=5 * TOLERANCE * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_pooled_embeddings(name: str, pooling: Pooling, made: Made, ops: Any) -> None:
    model, decoder = encoder_reference(made(name)), load(made(name), ops)
    requests = requests_of(name, LENGTHS)
    for request, vector in zip(requests, run(engine(decoder, pooling), requests), strict=True):
        states = reference_output(model, list(request.token_ids), list(request.token_types) or None)
        expected = {Pooling.FIRST: states[0], Pooling.LAST: states[-1], Pooling.MEAN: states.mean(axis=0)}[pooling]
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_size_of_steps_changes_no_bit(name: str, pooling: Pooling, made: Made) -> None:
    cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    decoder = load(made(name), cpu.CpuOps(2))
    requests = requests_of(name, (3, 40, 130, 15, 250))
    outs = [run(engine(decoder, pooling, size), requests) for size in (16, 48, 500)]
    for other in outs[1:]:
        assert all(one.tobytes() == found.tobytes() for one, found in zip(outs[0], other, strict=True))


def test_dimensions_are_the_first_ones_normalised_anew(made: Made, ops: Any) -> None:
    decoder = load(made("bert"), ops)
    whole = run(engine(decoder, Pooling.MEAN), requests_of("bert", (9, 30)))
    short = run(engine(decoder, Pooling.MEAN), requests_of("bert", (9, 30), dimensions=8))
    for one, other in zip(whole, short, strict=True):
        assert other.shape == (8,)
        np.testing.assert_allclose(other, one[:8] / np.linalg.norm(one[:8]), atol=1e-6)
        assert np.linalg.norm(other) == pytest.approx(1, abs=1e-6)


def test_cancelled_requests_are_not_computed(made: Made, ops: Any) -> None:
    pooling = engine(load(made("bert"), ops), Pooling.MEAN)
    first, second = requests_of("bert", (5, 6))
    pooling.submit(first)
    pooling.submit(second)
    pooling.cancel(first.id)
    pooling.cancel("unknown")
    assert [output.request_id for output in pooling.step()] == [second.id]
    assert not pooling.has_work
    assert pooling.num_tokens == 6


# Recipes


def write_modules(folder: Path, modules: list[tuple[str, dict[str, Any] | None]], **files: Any) -> ModelFiles:
    import json

    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate(modules, start=1):
        path = f"{index}_{kind}"
        listed.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return ModelFiles("tiny", folder=folder)


def test_a_recipe_of_sentence_transformers(tmp_path: Path, ops: Any) -> None:
    from safetensors.numpy import save_file

    make_tiny_encoder("bert", tmp_path)
    dense = {
        "in_features": 64,
        "out_features": 24,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    files = write_modules(
        tmp_path,
        [
            ("Pooling", {"word_embedding_dimension": 64, "pooling_mode_cls_token": True}),
            ("Dense", dense),
            ("Normalize", None),
        ],
        sentence_bert_config={"max_seq_length": 100, "do_lower_case": False},
        config_sentence_transformers={"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    )
    weight, bias = np.random.default_rng(0).standard_normal((2, 24, 64)).astype(np.float32) / 8
    save_file({"linear.weight": weight, "linear.bias": bias[:, 0].copy()}, tmp_path / "2_Dense" / "model.safetensors")
    recipe = read_recipe(files, read_spec(files))
    assert (recipe.size, recipe.pooling, recipe.normalize, recipe.max_tokens) == (24, Pooling.FIRST, True, 100)
    assert (recipe.prompts, recipe.default_prompt) == ({"query": "query: "}, "query")
    row = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    expected = np.tanh(weight @ row + bias[:, 0])
    np.testing.assert_allclose(
        Embedder(files, recipe, ops).finish(row, None), expected / np.linalg.norm(expected), atol=1e-6
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("Pooling", {"pooling_mode_max_tokens": True})], "pooling_mode is 'max'"),
        ([("Pooling", {"pooling_mode": ["mean", "cls"]})], "pooling_mode is 'mean and cls'"),
        ([("Pooling", {"pooling_mode_mean_tokens": True, "include_prompt": False})], "include_prompt is False"),
        ([("Pooling", {"pooling_mode": "mean", "weights": 3})], "weights is 3"),
        ([("LSTM", {})], "modules.json has a LSTM"),
    ],
)
def test_recipes_that_are_refused(modules: Any, message: str, tmp_path: Path, made: Made) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_recipe(write_modules(tmp_path, modules), read_spec(ModelFiles("tiny", folder=made("bert"))))


def test_without_a_recipe(made: Made) -> None:
    for name, pooling in (("bert", Pooling.MEAN), ("llama", Pooling.LAST)):
        files = ModelFiles("tiny", folder=made(name))
        recipe = read_recipe(files, read_spec(files))
        assert (recipe.pooling, recipe.normalize, recipe.size) == (pooling, True, 64)
