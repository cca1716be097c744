"""Vocabularies trained on the spot, and texts that are hard to tokenize."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from text_samples import CORPUS, TEXTS, vectors
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from headrace.hub.files import ModelFiles


@pytest.fixture(scope="session")
def texts(shared_or_none: Path | None) -> list[str]:
    """Texts to encode."""
    if shared_or_none is None:
        return TEXTS
    return [*TEXTS, *vectors(shared_or_none / "data/tokenizers/gguf/ggml-vocab-gpt-2.gguf")[0]]


@pytest.fixture(scope="session")
def shared_or_none() -> Path | None:
    """../shared where it is."""
    path = Path(__file__).resolve().parents[3] / "shared"
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def train_sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train a small SentencePiece model; the same options give the same file."""
    folder = tmp_path_factory.mktemp("sentencepiece")

    def train(**options: Any) -> Path:
        name = "-".join(f"{key}={value}" for key, value in sorted(options.items())).replace("/", "")
        path = folder / (name.replace(" ", "") + ".model")
        if not path.exists():
            settings = {"vocab_size": 400, "minloglevel": 2, "num_threads": 1, "hard_vocab_limit": False, **options}
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS), model_prefix=str(path.with_suffix("")), **settings
            )
        return path

    return train


@pytest.fixture(scope="session")
def byte_level_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vocab.json and merges.txt of a small byte-level BPE."""
    folder = tmp_path_factory.mktemp("byte_level")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def word_piece() -> Tokenizer:
    """A small WordPiece tokenizer without a decoder set."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Write a model folder: file name to text, bytes, JSON or a file to copy."""

    def write(files: dict[str, Any]) -> ModelFiles:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                path.write_bytes(content.read_bytes())
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return ModelFiles("model", folder=tmp_path)

    return write
