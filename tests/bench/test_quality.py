"""bench/quality.py: its arithmetic against transformers and by hand, and llama.cpp's file format."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_models import VOCAB_SIZE, make_tiny, prompt, reference, reference_logits

from headrace.config import EngineConfig

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "quality.py"
TEXT = "One day, a little dog saw a big red ball. The dog wanted to play with it, and he ran to the park. " * 12


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))


def test_perplexity_is_that_of_transformers(quality: ModuleType, tmp_path: Path) -> None:
    make_tiny("llama", tmp_path)
    model = reference(tmp_path)
    ours = quality.Headrace(str(tmp_path), EngineConfig(threads=1, kv_dtype="f32"))
    chunks = quality.cut(prompt(70), context=17, most_tokens=60)
    assert chunks.shape == (3, 17)
    tally, losses = quality.Tally("headrace"), []
    for chunk in chunks:
        expected = log_softmax(reference_logits(model, chunk.tolist()))
        losses += [-expected[at, chunk[at + 1]] for at in range(8, 16)]
        tally.add(ours.log_probabilities(chunk), expected[8:16].astype(np.float32), chunk[9:])
    found = tally.result()
    assert found.tokens == len(losses) == 24
    assert found.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    error = found.perplexity * np.sqrt((np.square(losses).mean() - np.mean(losses) ** 2) / 23)
    assert found.perplexity_error == pytest.approx(error, rel=1e-4)
    assert found.same_best == 1
    assert found.error_largest < 1e-4
    assert abs(found.kl_mean) < 1e-6


def test_divergence_and_errors_by_hand(quality: ModuleType) -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    ours = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    tally = quality.Tally("one")
    tally.add(ours, reference, np.array([0, 2], np.int32))
    found = tally.result()
    first = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert found.kl_mean == pytest.approx(first / 2, rel=1e-6)
    assert found.kl_largest == pytest.approx(first, rel=1e-6)
    assert found.kl_error == pytest.approx(first / 2, rel=1e-6)
    assert found.error_largest == pytest.approx(math.log(2), rel=1e-6)
    assert found.error_rms == pytest.approx(math.sqrt(2 * math.log(2) ** 2 / 6), rel=1e-6)
    assert found.same_best == 0.5
    assert found.perplexity == pytest.approx(math.exp(-(math.log(0.25) + math.log(0.8)) / 2), rel=1e-6)


def test_unlikely_tokens_do_not_count_as_errors(quality: ModuleType) -> None:
    reference, ours = quality.log_softmax(np.array([[0.0, -20.0]], np.float32)), np.array([[0.0, -90.0]], np.float32)
    tally = quality.Tally("one")
    tally.add(ours, reference, np.array([0], np.int32))
    assert tally.result().error_largest < 1e-6


def test_a_text_that_is_too_short(quality: ModuleType) -> None:
    with pytest.raises(SystemExit, match="33 tokens; it needs at least two contexts, 34"):
        quality.cut(list(range(33)), context=17, most_tokens=100)
    assert quality.cut(list(range(40)), context=17, most_tokens=1).shape == (1, 17)


def write_llama_file(path: Path, chunks: np.ndarray, log_probabilities: list[np.ndarray]) -> None:
    """As llama-perplexity writes it: steps of (best - lowest) / 65535 from the lowest, which is at most 16 below."""
    vocabulary = log_probabilities[0].shape[1]
    with path.open("wb") as file:
        file.write(b"_logits_")
        np.array([chunks.shape[1], vocabulary, len(chunks)], np.int32).tofile(file)
        chunks.tofile(file)
        for rows in log_probabilities:
            for row in rows:
                lowest = max(row.min(), row.max() - 16)
                step = np.float32((row.max() - lowest) / 65535)
                np.array([step, lowest], np.float32).tofile(file)
                codes = np.rint(np.maximum(row - lowest, 0) / step).astype(np.uint16)
                np.pad(codes, (0, vocabulary % 2)).tofile(file)


@pytest.mark.parametrize("vocabulary", [VOCAB_SIZE, 7])
def test_llama_files(quality: ModuleType, tmp_path: Path, vocabulary: int) -> None:
    random = np.random.default_rng(3)
    chunks = random.integers(0, vocabulary, (3, 10)).astype(np.int32)
    written = [log_softmax(4 * random.standard_normal((4, vocabulary))).astype(np.float32) for _ in chunks]
    write_llama_file(tmp_path / "file", chunks, written)
    file = quality.LlamaFile(tmp_path / "file")
    assert np.array_equal(file.chunks, chunks)
    for expected in written:
        found = file.log_probabilities()
        likely = expected > expected.max(axis=1, keepdims=True) - 15
        assert found.shape == expected.shape
        assert np.abs(found - expected)[likely].max() < 16 / 65535
    file.close()
    (tmp_path / "file").write_bytes(b"GGUF" * 9)
    with pytest.raises(SystemExit, match="is not a file of llama-perplexity"):
        quality.LlamaFile(tmp_path / "file")


FAKE_LLAMA = """#!{python}
import shutil, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert (flags["-c"], flags["--chunks"], flags["-t"]) == ("48", "2", "1"), flags
shutil.copy({file!r}, flags["--kl-divergence-base"])
"""


def test_beside_llama_on_its_tokens(quality: ModuleType, tmp_path: Path) -> None:
    ours = quality.Headrace("stories", EngineConfig(threads=1, kv_dtype="f32", kv_memory=1 << 26))
    chunks = quality.cut(ours.tokenize(TEXT)[5:], 48, 96)
    write_llama_file(tmp_path / "file", chunks, [ours.log_probabilities(chunk) for chunk in chunks])
    fake = tmp_path / "llama-perplexity"
    fake.write_text(FAKE_LLAMA.format(python=sys.executable, file=str(tmp_path / "file")))
    fake.chmod(0o755)
    settings = {"context": 48, "tokens": 100, "threads": 1, "llama": fake, "reference": None}
    exact, *_, llama = quality.compare("stories", tmp_path / "no text is read", **settings)
    assert (exact.engine, llama.engine) == ("float32 reference", "llama.cpp")
    assert llama.tokens == 46
    assert llama.perplexity == pytest.approx(exact.perplexity, rel=1e-4)
    assert llama.error_largest < 3e-4
    assert llama.same_best == 1
    with pytest.raises(SystemExit, match="failed"):
        quality.compare("stories", tmp_path / "no text is read", **settings | {"context": 49})


def test_from_the_command_line(quality: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, figures = tmp_path / "text.txt", tmp_path / "figures.json"
    text.write_text(TEXT)
    command = ["stories", "--text", str(text), "--context", "48", "--tokens", "150", "--threads", "1"]
    quality.main([*command, "--json", str(figures)])
    written = json.loads(figures.read_text())
    assert written["settings"]["context"] == "48"
    exact, *others = written["engines"]
    assert exact["engine"] == "float32 reference"
    assert exact["kl_mean"] == exact["error_largest"] == 0
    assert 1 < exact["perplexity"] < 60
    assert all(abs(one["perplexity"] - exact["perplexity"]) < 0.05 * exact["perplexity"] for one in others)
    assert f"| {exact['perplexity']:.4f} ±" in capsys.readouterr().out
