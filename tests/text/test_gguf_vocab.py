"""Vocabularies from GGUF metadata, against the vectors of llama.cpp, SentencePiece and the regex package."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import sentencepiece
from text_samples import TEXTS, vectors
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from headrace.errors import DamagedFile, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.text import gguf_vocab
from headrace.text.byte_level import splitter
from headrace.text.pretokenizers import PRE_TOKENIZERS
from headrace.text.sentencepiece import merges_by_score
from headrace.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def load(metadata: dict[str, Any]) -> Tokenizer:
    vocabulary = gguf_vocab.load({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "test.gguf")
    assert vocabulary is not None
    return Tokenizer(vocabulary)


@pytest.mark.parametrize("name", ["bert-bge", "deepseek-coder", "gpt-2", "llama-spm", "starcoder"])
def test_vectors(shared: Path, name: str) -> None:
    path = shared / f"data/tokenizers/gguf/ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_files(ModelFiles(name, gguf_path=path))
    assert tokenizer is not None
    inputs, outputs = vectors(path)
    assert tokenizer.encode_batch(inputs, add_special_tokens=False) == outputs


def test_roles_and_surroundings_of_real_files(shared: Path) -> None:
    def tokenizer(name: str) -> Tokenizer:
        path = shared / f"data/tokenizers/gguf/ggml-vocab-{name}.gguf"
        made = Tokenizer.from_files(ModelFiles(name, gguf_path=path))
        assert made is not None
        return made

    llama = tokenizer("llama-spm")
    assert (llama.bos_token, llama.eos_token, llama.eos_token_ids, llama.add_bos) == ("<s>", "</s>", {2}, True)
    assert llama.encode("Hello") == [1, 15043]
    assert llama.encode("Hello</s> Hello") == [1, 15043, 2, 29871, 15043]
    assert llama.vocab_size == 32000
    bert = tokenizer("bert-bge")
    assert bert.encode("Hello") == [101, 7592, 102]
    starcoder = tokenizer("starcoder")
    assert (starcoder.add_bos, starcoder.eos_token_ids) == (False, {0, 4})  # 4 is <fim_pad>


def spm_metadata(path: Path, model: str) -> tuple[dict[str, Any], sentencepiece.SentencePieceProcessor]:
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size = oracle.get_piece_size()

    def kind(index: int) -> int:
        checks = [(oracle.is_unknown, UNKNOWN), (oracle.is_control, CONTROL), (oracle.is_byte, BYTE)]
        return next((kind for check, kind in checks if check(index)), NORMAL)

    metadata = {
        "model": model,
        "tokens": [oracle.id_to_piece(index) for index in range(size)],
        "scores": np.array([oracle.get_score(index) for index in range(size)], np.float32),
        "token_type": np.array([kind(index) for index in range(size)], np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return metadata, oracle


@pytest.mark.parametrize("prefix", [True, False])
def test_spm_is_sentencepiece(train_sentencepiece: Callable[..., Path], texts: list[str], prefix: bool) -> None:
    path = train_sentencepiece(
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
    )
    metadata, oracle = spm_metadata(path, "llama")
    tokenizer = load({**metadata, "add_space_prefix": prefix})
    for text in texts:
        expected = oracle.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected
        assert tokenizer.encode(text) == [1, *expected]
        assert tokenizer.decode(expected) == oracle.decode(expected)


def test_spm_with_placeholder_scores_merges_in_the_order_of_ids(
    train_sentencepiece: Callable[..., Path], texts: list[str]
) -> None:
    path = train_sentencepiece(
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    metadata, oracle = spm_metadata(path, "llama")
    tokenizer = load({**metadata, "scores": np.full(len(metadata["tokens"]), -1000.0, np.float32)})
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == oracle.encode(text)


def test_spm_with_placeholder_scores_and_merges(train_sentencepiece: Callable[..., Path], texts: list[str]) -> None:
    path = train_sentencepiece(
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    metadata, oracle = spm_metadata(path, "llama")
    tokens = metadata["tokens"]
    # Numbered the other way round, so that only the merges know the order.
    order = [*range(259), *reversed(range(259, len(tokens)))]
    pieces = merges_by_score(tokens, list(metadata["scores"]), range(259, len(tokens)))
    tokenizer = load(
        {
            **metadata,
            "tokens": [tokens[index] for index in order],
            "scores": np.full(len(tokens), -1000.0, np.float32),
            "merges": [f"{left} {right}" for left, right in pieces] + ["not there"],
        }
    )
    for text in texts:
        assert [order[token_id] for token_id in tokenizer.encode(text, add_special_tokens=False)] == oracle.encode(text)


@pytest.mark.parametrize("squeeze", [True, False])
def test_unigram_is_sentencepiece(train_sentencepiece: Callable[..., Path], texts: list[str], squeeze: bool) -> None:
    path = train_sentencepiece(
        model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=squeeze, vocab_size=200
    )
    metadata, oracle = spm_metadata(path, "t5")
    tokenizer = load({**metadata, "add_space_prefix": True, "remove_extra_whitespaces": squeeze})
    for text in texts:
        assert tokenizer.encode(text) == [*oracle.encode(text), 2]


def bpe_metadata(folder: Path, **more: Any) -> dict[str, Any]:
    vocabulary = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokens = sorted(vocabulary[0], key=vocabulary[0].__getitem__)
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": [f"{left} {right}" for left, right in vocabulary[1]],
        "token_type": np.array(
            [CONTROL if token[0] == "<" and token[-1] == ">" and len(token) > 2 else NORMAL for token in tokens]
        ),
        "bos_token_id": 0,
        "eos_token_id": 2,
        **more,
    }


def test_byte_level_bpe(byte_level_files: Path, texts: list[str]) -> None:
    tokenizer = load(bpe_metadata(byte_level_files))
    oracle = Backend(models.BPE.from_file(str(byte_level_files / "vocab.json"), str(byte_level_files / "merges.txt")))
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    oracle.decoder = decoders.ByteLevel()
    for text in texts:
        expected = oracle.encode(text).ids
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text


def test_bos_and_eos_around_texts(byte_level_files: Path) -> None:
    plain = load(bpe_metadata(byte_level_files)).encode("Lily")
    assert load(bpe_metadata(byte_level_files, add_bos_token=True, add_eos_token=True)).encode("Lily") == [0, *plain, 2]
    assert load(bpe_metadata(byte_level_files, pre="llama-bpe")).encode("Lily")[0] == 0
    assert load(bpe_metadata(byte_level_files, pre="llama-bpe", add_bos_token=False)).encode("Lily")[0] != 0


def test_special_tokens_in_text(byte_level_files: Path) -> None:
    metadata = bpe_metadata(byte_level_files)
    metadata["tokens"] += ["<|end of turn|>", "  pad  "]
    metadata["token_type"] = np.append(metadata["token_type"], [CONTROL, USER_DEFINED])
    tokenizer = load(metadata)
    control, user = tokenizer.encode("<|end of turn|>"), tokenizer.encode("  pad  ")
    assert (len(control), len(user)) == (1, 1)
    ids = tokenizer.encode("a<|end of turn|>b  pad  c")
    assert control[0] in ids
    assert user[0] in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|end of turn|>b  pad  c"
    assert tokenizer.decode(ids) == "ab  pad  c"


def test_ends_of_generation_are_special_whatever_their_type(byte_level_files: Path) -> None:
    metadata = bpe_metadata(byte_level_files)
    metadata["tokens"].append("<|im_end|>")
    metadata["token_type"] = np.append(metadata["token_type"], [NORMAL])
    tokenizer = load(metadata)
    end = len(metadata["tokens"]) - 1
    assert tokenizer.encode("a<|im_end|>")[-1] == end
    assert tokenizer.eos_token_ids == {2, end}
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>")) == "a"


def test_phi3_strips_after_special_tokens(train_sentencepiece: Callable[..., Path]) -> None:
    path = train_sentencepiece(model_type="bpe", byte_fallback=True, normalization_rule_name="identity")
    metadata, _ = spm_metadata(path, "llama")
    metadata["tokens"].append("<|user|>")
    metadata["token_type"] = np.append(metadata["token_type"], [CONTROL])
    metadata["scores"] = np.append(metadata["scores"], [0])
    settings = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    phi = gguf_vocab.load({**settings, "general.name": "Phi-3-mini"}, "test.gguf")
    other = gguf_vocab.load({**settings, "general.name": "Llama"}, "test.gguf")
    assert phi is not None
    assert other is not None
    assert Tokenizer(phi).encode("<|user|>\nLily") == Tokenizer(phi).encode("<|user|>Lily")
    assert Tokenizer(other).encode("<|user|>\nLily") != Tokenizer(other).encode("<|user|>Lily")


@pytest.mark.parametrize(
    ("tokens", "more", "expected"),
    [
        (["a", "</s>", "<|eot_id|>", "<|im_end|>"], {}, {1, 2, 3}),
        (["a", "b", "c"], {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 2}, {1, 2}),
        (["<|end|>", "<|return|>", "<|call|>"], {}, {1, 2}),  # harmony: <|end|> ends a message only
        (["<|end|>", "<|user|>"], {}, {0}),
        (["</s>", "<|tool_response>", "<turn|>"], {}, {1, 2}),  # gemma 4: </s> is HTML
        (["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "x"], {}, {0, 1, 2}),
        (["a"], {"tokenizer.ggml.eot_token_id": 7}, set()),
    ],
)
def test_ends_of_generation(tokens: list[str], more: dict[str, int], expected: set[int]) -> None:
    assert gguf_vocab.ends_of_generation(tokens, more, None) == expected
    assert gguf_vocab.ends_of_generation(tokens, more, 0) == expected | {0} - (
        {0} if tokens[0] in ("<|end|>", "</s>") and len(expected) == 2 else set()
    )


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("llama-bpe", "I'LL pay 1234567.", ["I", "'LL", " pay", " ", "123", "456", "7", "."]),
        ("gpt-2", "I'LL pay 1234567.", ["I", "'", "LL", " pay", " 1234567", "."]),
        ("qwen2", "a 123\n\n b", ["a", " ", "1", "2", "3", "\n\n", " b"]),
        ("starcoder", "x 12", ["x", " ", "1", "2"]),
        ("falcon", "a=1234!?", ["a", "=", "123", "4", "!?"]),
        ("default", "a=1234!?", ["a", "=", "123", "4", "!?"]),
        ("deepseek-llm", "a 12345, b漢字", ["a", " ", "12345", ",", " b", "漢字"]),
        ("deepseek-coder", "a 123, b漢字", ["a", " ", "1", "2", "3", ",", " b", "漢字"]),
        ("deepseek-v3", "x=12345 漢字かな (a)", ["x", "=", "123", "45", " ", "漢字かな", " (", "a", ")"]),
        ("gpt-4o", "HTTPServer's camelCase", ["HTTPServer's", " camel", "Case"]),
        ("tekken", "HTTPServer's 12", ["HTTPServer", "'s", " ", "1", "2"]),
        ("kimi-k2", "abc漢字def1234", ["abc", "漢字", "def", "123", "4"]),
        ("afmoe", "12345 1234567 12", ["12", "345", " ", "1", "234", "567", " ", "12"]),
        ("superbpe", "a 1234567 b", ["a ", "1", "234", "567", " b"]),
        ("bloom", "Hello, (world)", ["Hello", ", (", "world", ")"]),
        ("viking", "ab12", ["ab", "1", "2"]),
        ("jais-2", "a" + " " * 7 + "b", ["a", "    ", "  ", " b"]),
        ("laguna", "a \n\nb", ["a", " ", "\n\n", "b"]),
    ],
)
def test_how_pre_tokenizers_cut(name: str, text: str, pieces: list[str]) -> None:
    backend = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    )
    assert [piece for piece, _ in backend.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_pre_tokenizer_against_the_regex_package(name: str) -> None:
    """Each pattern splits what the one before left; Oniguruma and the regex package must agree on every text."""
    kind = PRE_TOKENIZERS[name]
    patterns = [
        regex.compile(pattern.replace("&&[^\\p{Han}]", "--\\p{Han}"), regex.V1 if "&&" in pattern else regex.V0)
        for pattern in kind.patterns
    ]
    for text in [*TEXTS, "12345 678901 x1234567890", "I'Ll'D x'S 12,345.678 éCoLE ÉCole 東京TOKYO中文ab12"]:
        pieces = [text] if text else []
        for pattern in patterns:
            pieces = [part for piece in pieces for part in split(pattern, piece)]
        backend = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in kind.patterns]
        )
        assert [piece for piece, _ in backend.pre_tokenize_str(text)] == pieces
        assert len(splitter(kind.patterns).pre_tokenize_str(text)) == len(pieces)


def split(pattern: Any, text: str) -> list[str]:
    cuts = {0, len(text)}
    for match in pattern.finditer(text):
        cuts |= {match.start(), match.end()}
    places = sorted(cuts)
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pre": "made-up"}, UnsupportedModel, "made-up"),
        ({"model": "rwkv"}, UnsupportedModel, "rwkv"),
        ({"model": "plamo2"}, UnsupportedModel, "plamo2"),
        ({"merges": []}, UnsupportedModel, "merges"),
        ({"merges": ["abc"]}, DamagedFile, "'abc'"),
        ({"tokens": ["a", "b", "a"]}, DamagedFile, "'a' twice"),
        ({"token_type": [1, 1]}, DamagedFile, "token_type"),
        ({"bos_token_id": 10**6}, DamagedFile, "bos_token_id"),
        ({"tokens": 7}, DamagedFile, "cannot be used"),
        ({"scores": ["a"] * 600}, DamagedFile, "cannot be used"),
    ],
)
def test_refusals(byte_level_files: Path, change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(bpe_metadata(byte_level_files, **change))


@pytest.mark.parametrize("more", [{"precompiled_charsmap": np.array([-1, 1, 2], np.int8)}, {"unknown_token_id": 5}])
def test_damage_that_the_library_finds(more: dict[str, Any]) -> None:
    metadata = {"model": "t5", "tokens": ["a", "b"], "scores": [0.0, 0.0], "eos_token_id": 1, **more}
    with pytest.raises(DamagedFile, match=r"test\.gguf"):
        load(metadata)


def test_no_vocabulary() -> None:
    assert gguf_vocab.load({}, "test.gguf") is None
    assert gguf_vocab.load({"tokenizer.ggml.model": "no_vocab"}, "test.gguf") is None
    with pytest.raises(DamagedFile, match="tokens"):
        gguf_vocab.load({"tokenizer.ggml.model": "llama"}, "test.gguf")


def test_missing_bos_is_said() -> None:
    with pytest.raises(DamagedFile, match="bos_token_id"):
        load({"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"], "add_bos_token": True})


def test_tokens_that_are_no_utf8(train_sentencepiece: Callable[..., Path]) -> None:
    path = train_sentencepiece(model_type="bpe", byte_fallback=True, normalization_rule_name="identity")
    metadata, oracle = spm_metadata(path, "llama")
    metadata["tokens"] += ["\udce2\udc96x", "\udce2\udc97x", ""]
    metadata["token_type"] = np.append(metadata["token_type"], [NORMAL] * 3)
    metadata["scores"] = np.append(metadata["scores"], [-1e6] * 3)
    tokenizer = load(metadata)
    size = oracle.get_piece_size()
    assert tokenizer.token_text(size) == "\ufffdx"
    assert tokenizer.token_text(size + 2) == f"[EMPTY_{size + 2}]"
    assert tokenizer.encode("Lily", add_special_tokens=False) == oracle.encode("Lily")


def test_gemma4_writes_spaces_and_byte_tokens() -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["a", "b", "▁", "ab", "▁ab", "\n", "\n\n"]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * 7
    metadata = {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": types,
        "merges": ["a b", "▁ ab", "\n \n"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
        "add_bos_token": False,
    }
    tokenizer = load(metadata)
    ids = tokenizer.encode("ab ab\n\né")
    assert [tokens[token_id] for token_id in ids] == ["<bos>", "ab", "▁ab", "\n\n", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "ab ab\n\né"


def test_merges_of_tokens_with_spaces_and_of_none() -> None:
    """A token may begin with a space; a merge of tokens that are not there gives none, and keeps the others."""
    tokens = ["a", "b", " ", " a", "ab", "<eos>"]
    metadata = {
        "model": "gpt2",
        "pre": "default",
        "tokens": tokens,
        "token_type": [NORMAL] * 5 + [CONTROL],
        "merges": ["  a", "x y", "a b", "a x"],
        "eos_token_id": 5,
    }
    assert gguf_vocab.GGUFVocabulary.from_metadata(
        {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "test"
    ).merges == [(" ", "a"), ("x", "y"), ("a", "b"), ("a", "x")]
    tokenizer = load(metadata)
    assert tokenizer.encode("ab") == [4]
    assert tokenizer.decode([4, 0, 99, -1, 2**40]) == "aba"


@pytest.mark.parametrize(("token", "shown"), [("", "[EMPTY_1]"), ("\udcff\udcfex", "\ufffd\ufffdx"), ("é", "é")])
def test_tokens_that_are_no_text(token: str, shown: str) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", token]}
    assert gguf_vocab.GGUFVocabulary.from_metadata(metadata, "test").tokens == ["a", shown]
