"""The incremental detokenizer against the whole decode of `tokenizers`, over random ids cut at random places."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_samples import TEXTS
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from headrace.hub.files import ModelFiles
from headrace.text.detokenizer import Detokenizer, WholeJoiner
from headrace.text.tokenizer import Tokenizer
from headrace.text.vocabulary import Vocabulary

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [
    "<s>",
    "</s>",
    "<unk>",
    "▁",
    "▁a",
    "b",
    "▁▁c",
    "é",
    "🦙",
    " d",
    ".",
    "▁.",
    "n't",
    "##x",
    "##'s",
    "do",
    "y</w>",
    *"?!,",
    "' ",
    "do not",
    "'m",
    "'ve",
    "'re",
]
SPECIAL = ["<s>", "</s>"]


def fixed_vocabulary(decoder: decoders.Decoder | None) -> Tokenizer:
    """A vocabulary whose tokens are all of WORDS and BYTES, with a decoder."""
    vocab = {token: index for index, token in enumerate([*WORDS, *BYTES])}
    backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return Tokenizer(Vocabulary(backend))


SPM = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
DECODERS: dict[str, Any] = {
    "none": None,
    "byte_level": decoders.ByteLevel(),
    "byte_level_in_sequence": decoders.Sequence([decoders.ByteLevel()]),
    "spm": decoders.Sequence(SPM),
    "spm_strip": decoders.Sequence([*SPM, decoders.Strip(" ", 1, 0)]),
    "spm_strip_two": decoders.Sequence([*SPM, decoders.Strip(" ", 2, 0)]),
    "replace": decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
    "byte_fallback": decoders.ByteFallback(),
    "fuse": decoders.Fuse(),
    "metaspace": decoders.Metaspace("▁", prepend_scheme="always"),
    "metaspace_first": decoders.Metaspace("▁", prepend_scheme="first"),
    "metaspace_never": decoders.Metaspace("▁", prepend_scheme="never"),
    "word_piece": decoders.WordPiece("##", cleanup=False),
    "word_piece_cleanup": decoders.WordPiece("##", cleanup=True),
    "bpe_suffix": decoders.BPEDecoder("</w>"),
    "ctc": decoders.CTC("<unk>", "▁", cleanup=False),
    "strip_each": decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0), decoders.Fuse()]),
    "regex_replace": decoders.Sequence([decoders.Replace(Regex("[▁b]"), " "), decoders.Fuse()]),
}
WITHOUT_TABLE = {"ctc", "strip_each", "regex_replace"}
TOKENIZERS = {name: fixed_vocabulary(decoder) for name, decoder in DECODERS.items()}

_num_words, _num_bytes = len(WORDS), len(BYTES)
ids = st.lists(
    st.one_of(
        st.integers(0, _num_words - 1),
        st.integers(_num_words, _num_words + _num_bytes - 1),
        st.sampled_from([_num_words + byte for byte in "é漢🦙 a".encode()]),  # runs that are nearly UTF-8
        st.just(_num_words + _num_bytes + 7),  # outside the vocabulary
    ),
    max_size=24,
)


def pieces(tokenizer: Tokenizer, token_ids: list[int], sizes: list[int], skip: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    out, start = [], 0
    for size in [*sizes, len(token_ids)]:
        out.append(detokenizer.push(token_ids[start : start + size]))
        start = min(start + size, len(token_ids))
    return [*out, detokenizer.flush()]


@pytest.mark.parametrize("name", sorted(DECODERS))
@settings(max_examples=150, deadline=None)
@given(token_ids=ids, sizes=st.lists(st.integers(0, 3), max_size=24), skip=st.booleans())
def test_pieces_are_the_whole(name: str, token_ids: list[int], sizes: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.decode_whole(token_ids, skip)
    assert "".join(pieces(tokenizer, token_ids, sizes, skip)) == whole
    assert tokenizer.decode(token_ids, skip) == whole


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_which_decoders_have_a_table(name: str) -> None:
    assert (TOKENIZERS[name].byte_table.joining is None) == (name in WITHOUT_TABLE)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40), cuts=st.lists(st.integers(1, 5), max_size=60))
def test_valid_text_comes_in_whole_characters(text: str, cuts: list[int]) -> None:
    """Bytes one by one, as a byte-fallback vocabulary emits rare characters: no piece has a half of one."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    tokenizer = TOKENIZERS["spm"]
    parts = pieces(tokenizer, [_num_words + byte for byte in text.encode()], cuts, True)
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


def test_long_runs_of_bytes_are_not_held_back_for_ever() -> None:
    detokenizer = Detokenizer(TOKENIZERS["spm"])
    emitted = [detokenizer.push([_num_words + byte]) for byte in ("漢" * 100).encode()]
    assert len("".join(emitted)) >= 100 - 64 // 3
    assert emitted[-1] == "漢"
    assert detokenizer.push([_num_words + 0xFF]) == "\ufffd"
    assert detokenizer.push([_num_words + 0x41]) == "\ufffd"
    assert detokenizer.push([5]) + detokenizer.flush() == "b"


@pytest.mark.parametrize(
    ("name", "first", "later"), [("spm_strip", "a", " a"), ("metaspace", "a", " a"), ("none", "▁a", " ▁a")]
)
def test_going_on_from_a_prompt_keeps_the_space(name: str, first: str, later: str) -> None:
    tokenizer = TOKENIZERS[name]
    a = WORDS.index("▁a")

    def text(prompt: list[int]) -> str:
        detokenizer = Detokenizer(tokenizer, prompt_token_ids=prompt)
        return detokenizer.push([a]) + detokenizer.flush()

    assert text([]) == first
    assert text([0, 1]) == first  # special tokens are no text
    assert text([0, a]) == later


SHARED_FILES = [
    "models/stories260k",
    "models/babyllama-1m",
    "data/tokenizers/qwen2",
    "data/tokenizers/llama3",
    "data/tokenizers/gpt2",
    *(
        f"data/tokenizers/gguf/ggml-vocab-{name}.gguf"
        for name in ("bert-bge", "deepseek-coder", "gpt-2", "llama-spm", "starcoder")
    ),
]


@pytest.mark.parametrize("name", SHARED_FILES)
def test_real_vocabularies(shared: Path, name: str) -> None:
    path = shared / name
    files = ModelFiles(name, gguf_path=path) if path.suffix == ".gguf" else ModelFiles(name, folder=path)
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer is not None
    assert tokenizer.byte_table.joining is not None
    draw = random.Random(name)
    short = [token_id for token_id in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(token_id)) == 1]
    for trial in range(200):
        pool: Any = range(tokenizer.vocab_size) if trial % 2 or not short else short
        token_ids = [draw.choice(pool) for _ in range(draw.randrange(1, 30))]
        skip = bool(trial % 3)
        sizes = [draw.randrange(4) for _ in token_ids]
        assert "".join(pieces(tokenizer, token_ids, sizes, skip)) == tokenizer.decode_whole(token_ids, skip)
    for text in TEXTS:
        token_ids = tokenizer.encode(text)
        assert "".join(pieces(tokenizer, token_ids, [1] * len(token_ids), True)) == tokenizer.decode_whole(token_ids)


def test_cost_does_not_grow_with_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder with a table never decodes the ids of before again."""

    def refuse(*_: object) -> str:
        raise AssertionError

    tokenizer = TOKENIZERS["spm_strip"]
    monkeypatch.setattr(Tokenizer, "decode_whole", refuse)
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.push([4]) for _ in range(50)) == "a" + " a" * 49


def test_trained_vocabularies(
    word_piece: Backend, byte_level_files: Path, train_sentencepiece: Callable[..., Path]
) -> None:
    word_piece.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(Vocabulary(word_piece))
    token_ids = tokenizer.encode("Once upon a time, there was a ball!")
    assert "".join(pieces(tokenizer, token_ids, [1] * 99, True)) == word_piece.decode(token_ids)
    metaspace = Backend(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("▁a", -1.5)], unk_id=0))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    metaspace.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(Vocabulary(metaspace))
    token_ids = tokenizer.encode("a a  aa")
    assert "".join(pieces(tokenizer, token_ids, [1] * 99, True)) == "a a  aa"


def test_fallback_holds_back_what_may_change() -> None:
    tokenizer = TOKENIZERS["ctc"]
    detokenizer = Detokenizer(tokenizer)
    assert isinstance(detokenizer._joiner, WholeJoiner)
    token_ids = [WORDS.index(word) for word in ("b", "b", "é", "▁", "▁a", "b")]
    parts = [detokenizer.push([token_id]) for token_id in token_ids]
    assert "".join(parts) + detokenizer.flush() == tokenizer.decode_whole(token_ids)
    assert any(parts)
