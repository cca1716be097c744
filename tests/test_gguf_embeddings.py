"""GGUF files of models that embed or score: what they answer is what the folders answer that they were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import make_tiny_encoder, save_tokenizer
from tiny_gguf import write_gguf
from tiny_models import VOCAB_SIZE, make_tiny

from headrace import LLM
from headrace.errors import RequestError

TEXTS = ["the cat sat on the mat", "Dogs", "what is blue? the sky is blue.", "a" * 60, "red,  green, blue " * 9]
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
MEAN, FIRST, LAST, RANK = 1, 2, 3, 4


@pytest.fixture(scope="module", autouse=True)
def _transformers() -> None:
    pytest.importorskip("transformers")


def write_pooling(folder: Path, mode: str) -> None:
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def word_pieces(folder: Path) -> dict[str, Any]:
    """tokenizer.ggml's metadata of a WordPiece vocabulary: the first piece of a word is marked, not the others."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = sorted(vocab, key=lambda piece: vocab[piece])
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    marked = [piece.removeprefix("##") if piece.startswith("##") else f"\u2581{piece}" for piece in pieces]
    return {
        "model": "bert",
        "pre": "default",
        "tokens": [piece if piece in control else other for piece, other in zip(pieces, marked, strict=True)],
        "token_type": [CONTROL if piece in control else NORMAL for piece in pieces],
        "token_type_count": 2,
        "padding_token_id": 0,
        "unknown_token_id": 1,
        "cls_token_id": 2,
        "seperator_token_id": 3,
    }


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [("bert", None, None), ("bert", MEAN, "mean_tokens"), ("bert", FIRST, "cls_token"), ("nomic", MEAN, "mean_tokens")],
)
def test_encoders(name: str, kind: int | None, mode: str | None, tmp_path: Path) -> None:
    folder = save_tokenizer(make_tiny_encoder(name, tmp_path / "folder"))
    if mode is not None:
        write_pooling(folder, mode)
    extra = {} if kind is None else {"pooling_type": kind}
    llm = LLM(write_gguf(folder, tmp_path / "tiny.gguf", vocabulary=word_pieces(folder), **extra))
    plain = LLM(folder)
    assert llm.pooler.recipe == plain.pooler.recipe
    for one, other in zip(llm.embed(TEXTS), plain.embed(TEXTS), strict=True):
        assert one.prompt_token_ids == other.prompt_token_ids
        np.testing.assert_allclose(one.outputs.vector, other.outputs.vector, atol=2e-6)
    with pytest.raises(RequestError, match="does not generate text"):
        llm.generate("x")


def test_texts_of_a_pair_have_types(tmp_path: Path) -> None:
    folder = save_tokenizer(make_tiny_encoder("bert", tmp_path / "folder"))
    llm, plain = LLM(write_gguf(folder, tmp_path / "tiny.gguf", vocabulary=word_pieces(folder))), LLM(folder)
    pairs = [("the cat", "dogs"), ("what is blue?", "the sky is blue.")]
    assert llm.tokenizer is not None
    assert plain.tokenizer is not None
    assert llm.tokenizer.encode_parts(pairs) == plain.tokenizer.encode_parts(pairs)


def save_unigrams(folder: Path) -> dict[str, Any]:
    """XLM-RoBERTa's kind of tokenizer into the folder; returns tokenizer.ggml's metadata of the same."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = [f"\u2581{word}" for word in ("the", "cat", "sat", "on", "mat", "dog", "sky", "is", "blue", "what")]
    letters = [chr(ord("a") + index) for index in range(26)]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *words, *letters, "?", ".", ","]
    pieces += [f"unused{index}" for index in range(VOCAB_SIZE - len(pieces))]
    scores = [0.0] * 4 + [-float(index) / 8 for index in range(1, len(pieces) - 3)]
    backend = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=3))
    backend.normalizer = normalizers.Replace("  ", " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    return {
        "model": "t5",
        "pre": "default",
        "tokens": pieces,
        "scores": scores,
        "token_type": [CONTROL] * 3 + [UNKNOWN] + [NORMAL] * (len(pieces) - 4),
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": True,
        "bos_token_id": 0,
        "padding_token_id": 1,
        "eos_token_id": 2,
        "seperator_token_id": 2,
        "unknown_token_id": 3,
    }


@pytest.mark.parametrize("says_separator", [True, False])
def test_a_cross_encoder(says_separator: bool, tmp_path: Path) -> None:
    folder = make_tiny_encoder("xlm-roberta", tmp_path / "folder", 1)
    vocabulary = save_unigrams(folder)
    if not says_separator:  # files of before the key mean the same
        del vocabulary["add_sep_token"]
    llm, plain = LLM(write_gguf(folder, tmp_path / "tiny.gguf", vocabulary=vocabulary, pooling_type=RANK)), LLM(folder)
    query, documents = "what is blue?", ["the sky is blue", "dogs", "the  cat sat on the mat, the dog is blue"]
    outputs = [each.score(query, documents) for each in (llm, plain)]
    for one, other in zip(*outputs, strict=True):
        assert one.prompt_token_ids == other.prompt_token_ids
        assert one.prompt_token_ids.count(2) == 3
        assert one.outputs.score == pytest.approx(other.outputs.score, abs=1e-5)


def test_one_separator_where_the_file_says_so(tmp_path: Path) -> None:
    folder = make_tiny_encoder("xlm-roberta", tmp_path / "folder", 1)
    vocabulary = save_unigrams(folder) | {"add_sep_token": False}
    llm = LLM(write_gguf(folder, tmp_path / "tiny.gguf", vocabulary=vocabulary, pooling_type=RANK))
    assert llm.score("what", ["is"])[0].prompt_token_ids.count(2) == 2


@pytest.mark.parametrize(("kind", "mode"), [(LAST, "lasttoken"), (MEAN, "mean_tokens")])
def test_decoders_embed_as_their_files_say(kind: int, mode: str, tmp_path: Path) -> None:
    folder = make_tiny("qwen3", tmp_path / "folder")
    write_pooling(folder, mode)
    llm, plain = LLM(write_gguf(folder, tmp_path / "tiny.gguf", pooling_type=kind)), LLM(folder)
    assert llm.pooler.recipe == plain.pooler.recipe
    prompts = [list(range(4, 4 + length)) for length in (1, 9, 60)]
    for one, other in zip(llm.embed(prompts), plain.embed(prompts), strict=True):
        np.testing.assert_allclose(one.outputs.vector, other.outputs.vector, atol=2e-6)
    assert llm.generate({"prompt_token_ids": prompts[1]})[0].outputs[0].token_ids
