"""Tokenizers of model folders, against transformers, SentencePiece, tiktoken's vectors and the vectors of llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from text_samples import TEXTS, vectors
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, RobertaTokenizer

from headrace.errors import DamagedFile, ModelError, RequestError, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.text.chat import load_chat_template
from headrace.text.folder_vocab import configured_end_ids
from headrace.text.tokenizer import Tokenizer

Write = Callable[[dict[str, Any]], ModelFiles]


def load(files: ModelFiles) -> Tokenizer:
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize(("name", "vector"), [("qwen2", "qwen2"), ("llama3", "llama-bpe")])
def test_vectors(shared: Path, name: str, vector: str) -> None:
    folder = shared / "data/tokenizers" / name
    tokenizer = load(ModelFiles(name, folder=folder))
    inputs, outputs = vectors(folder / f"ggml-vocab-{vector}.gguf")
    assert tokenizer.encode_batch(inputs, add_special_tokens=False) == outputs
    assert [tokenizer.decode(ids) for ids in outputs] == inputs


def test_llama3_rank_file_has_metas_special_tokens(shared: Path) -> None:
    files = ModelFiles("llama3", folder=shared / "data/tokenizers/llama3")
    tokenizer = load(files)
    assert tokenizer.vocab_size == 128_256
    assert tokenizer.eos_token_ids == {128_001, 128_008, 128_009}
    assert (tokenizer.bos_token, tokenizer.add_bos) == ("<|begin_of_text|>", True)
    text = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    assert tokenizer.encode(text, add_special_tokens=False) == [128000, 128006, 882, 128007, 271, 13347, 128009]


def test_qwen2_against_transformers(shared: Path, texts: list[str]) -> None:
    folder = shared / "data/tokenizers/qwen2"
    ours, theirs = load(ModelFiles("qwen2", folder=folder)), Qwen2Tokenizer.from_pretrained(str(folder))
    compare(ours, theirs, [*texts, "<|im_start|>user\nHi<|im_end|>"])
    assert ours.eos_token_ids == {151643}
    assert ours.special_ids == {151643, 151644, 151645}


def test_gpt2_by_openais_file_names(shared: Path, write_folder: Write, texts: list[str]) -> None:
    folder = shared / "data/tokenizers/gpt2"
    ours = load(ModelFiles("gpt2", folder=folder))
    theirs = GPT2Tokenizer.from_pretrained(
        str(write_folder({"vocab.json": folder / "encoder.json", "merges.txt": folder / "vocab.bpe"}).folder)
    )
    compare(ours, theirs, texts)


def compare(ours: Tokenizer, theirs: PreTrainedTokenizerFast, texts: list[str]) -> None:
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False), text
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), text


@pytest.mark.parametrize(
    ("class_name", "theirs"),
    [("GPT2Tokenizer", GPT2Tokenizer), ("RobertaTokenizer", RobertaTokenizer), ("Qwen2TokenizerFast", Qwen2Tokenizer)],
)
@pytest.mark.parametrize("space", [True, False])
def test_vocabulary_and_merges(
    byte_level_files: Path, write_folder: Write, class_name: str, theirs: Any, space: bool
) -> None:
    roles = {
        "add_prefix_space": space,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    files = write_folder(
        {
            "vocab.json": byte_level_files / "vocab.json",
            "merges.txt": byte_level_files / "merges.txt",
            "tokenizer_config.json": {"tokenizer_class": class_name, **roles},
        }
    )
    oracle = theirs.from_pretrained(str(files.folder))
    compare(load(files), oracle, TEXTS)


def test_opt_asks_for_bos_in_its_config(byte_level_files: Path, write_folder: Write) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "add_bos_token": True}
    files = write_folder(
        {
            "vocab.json": byte_level_files / "vocab.json",
            "merges.txt": byte_level_files / "merges.txt",
            "tokenizer_config.json": config,
        }
    )
    ours = load(files)
    assert ours.encode("Lily") == GPT2Tokenizer.from_pretrained(str(files.folder)).encode("Lily")
    assert ours.encode("Lily")[0] == 2
    assert ours.add_bos


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
        {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf"},
        {
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "user_defined_symbols": ["▁▁", "<tool>"],
        },
        {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc", "vocab_size": 200},
        {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "unigram", "normalization_rule_name": "identity", "vocab_size": 200, "bos_id": -1, "pad_id": 3},
    ],
)
def test_sentencepiece_model(
    train_sentencepiece: Callable[..., Path], write_folder: Write, texts: list[str], options: dict[str, Any]
) -> None:
    path = train_sentencepiece(**options)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load(write_folder({"tokenizer.model": path}))
    start = [] if options.get("bos_id") == -1 else [1]
    for text in [*texts, "a <tool> b<tool>  <tool>"]:
        expected = oracle.encode(text)
        assert tokenizer.encode(text) == [*start, *expected], text
        if oracle.unk_id() not in expected:
            assert tokenizer.decode(expected) == oracle.decode(expected), text
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.eos_token_ids == {2}


def test_sentencepiece_prefix_without_legacy(train_sentencepiece: Callable[..., Path], write_folder: Write) -> None:
    path = train_sentencepiece(model_type="bpe", byte_fallback=True, normalization_rule_name="identity")
    legacy = load(write_folder({"tokenizer.model": path}))
    ids = legacy.encode("Lily</s>Lily")
    assert ids[1 : ids.index(2)] == ids[ids.index(2) + 1 :]
    modern = load(write_folder({"tokenizer.model": path, "tokenizer_config.json": {"legacy": False}}))
    ids = modern.encode("Lily</s>Lily")
    assert ids[1 : ids.index(2)] == legacy.encode("Lily", add_special_tokens=False)
    assert modern.decode(ids[ids.index(2) + 1 :]) == "Lily"
    assert ids[ids.index(2) + 1 :] != ids[1 : ids.index(2)]


def backend_without_post_processor(folder: Path) -> Backend:
    backend = Backend(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in ("<s>", "</s>", "<pad>")])
    return backend


def test_tokenizer_json_against_transformers(byte_level_files: Path, tmp_path: Path) -> None:
    backend = backend_without_post_processor(byte_level_files)
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.add_tokens(["<plain>"])
    made.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    made.save_pretrained(str(tmp_path))
    ours = load(ModelFiles("model", folder=tmp_path))
    compare(ours, AutoTokenizer.from_pretrained(str(tmp_path)), [*TEXTS, "a<plain>b<|extra|> c</s>"])
    assert ours.special_tokens["pad_token"] == "<pad>"
    assert ours.vocab_size == len(made)


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({"add_bos_token": True}, [0], []),
        ({"add_bos_token": True, "add_eos_token": True}, [0], [2]),
        ({"add_eos_token": True}, [], [2]),
        ({}, [], []),
    ],
)
def test_config_completes_a_post_processor_that_adds_nothing(
    byte_level_files: Path, write_folder: Write, config: dict[str, Any], before: list[int], after: list[int]
) -> None:
    backend = backend_without_post_processor(byte_level_files)
    backend.post_processor = processors.ByteLevel()
    roles = {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>"}
    files = write_folder({"tokenizer.json": backend.to_str(), "tokenizer_config.json": {**roles, **config}})
    plain = backend.encode("Lily").ids
    assert load(files).encode("Lily") == [*before, *plain, *after]
    assert load(files).encode("Lily", add_special_tokens=False) == plain


def test_a_post_processor_that_adds_something_stands(byte_level_files: Path, write_folder: Write) -> None:
    backend = backend_without_post_processor(byte_level_files)
    plain = backend.encode("Lily").ids
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False}
    files = write_folder({"tokenizer.json": backend.to_str(), "tokenizer_config.json": config})
    assert load(files).encode("Lily") == [0, *plain, 2]


def test_nothing_is_truncated_or_padded(byte_level_files: Path, write_folder: Write) -> None:
    backend = backend_without_post_processor(byte_level_files)
    expected = backend.encode("Once upon a time").ids
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    assert load(write_folder({"tokenizer.json": backend.to_str()})).encode("Once upon a time") == expected


def test_added_tokens_of_the_config(byte_level_files: Path, write_folder: Write) -> None:
    backend = backend_without_post_processor(byte_level_files)
    size = backend.get_vocab_size()
    declared = {str(size): {"content": "<|new|>", "special": True}, str(size + 1): {"content": "<plain>"}}
    tokenizer = load(
        write_folder({"tokenizer.json": backend.to_str(), "tokenizer_config.json": {"added_tokens_decoder": declared}})
    )
    assert tokenizer.encode("<|new|><plain>") == [size, size + 1]
    assert size in tokenizer.special_ids
    assert size + 1 not in tokenizer.special_ids
    wrong = {"added_tokens_decoder": {str(size + 5): {"content": "<|new|>", "special": True}}}
    with pytest.raises(DamagedFile, match=f"id {size + 5}, expected {size}"):
        load(write_folder({"tokenizer_config.json": wrong}))


def test_added_tokens_of_older_folders(byte_level_files: Path, write_folder: Write) -> None:
    size = len(json.loads((byte_level_files / "vocab.json").read_text()))
    files = write_folder(
        {
            "vocab.json": byte_level_files / "vocab.json",
            "merges.txt": byte_level_files / "merges.txt",
            "added_tokens.json": {"<|plain|>": size + 1, "<|end|>": size},
            "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "bos_token": "<s>"},
        }
    )
    ours, theirs = load(files), GPT2Tokenizer.from_pretrained(str(files.folder))
    compare(ours, theirs, ["a<|end|> b<|plain|>c"])
    assert ours.encode("<|end|><|plain|>") == [size, size + 1]
    assert ours.eos_token_ids == {size}


def test_end_of_sequence_ids_are_gathered(byte_level_files: Path, write_folder: Write) -> None:
    tokenizer = load(
        write_folder(
            {
                "tokenizer.json": backend_without_post_processor(byte_level_files).to_str(),
                "tokenizer_config.json": {"bos_token": None},
                "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
                "generation_config.json": {"eos_token_id": [7, 8]},
                "config.json": {"eos_token_id": 9, "text_config": {"eos_token_id": 10}},
            }
        )
    )
    assert tokenizer.eos_token_ids == {2, 7, 8, 9, 10}
    assert tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("length", [9_999, 10_000, 25_000])
def test_long_texts_have_the_same_ids(shared: Path, length: int) -> None:
    folder = shared / "models/stories260k"
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    tokenizer = load(ModelFiles(name="x", folder=folder))
    text = ("Once upon a time, 日本 🐱  there was\n" * 1000)[:length]
    for special in (True, False):
        assert tokenizer.encode(text, special) == backend.encode(text, add_special_tokens=special).ids
    with pytest.raises(RequestError, match="lone surrogate"):
        tokenizer.encode(text + "\ud800")


def test_a_folder_whose_name_is_not_utf_8(byte_level_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    backend = Backend(BPE.from_file(str(byte_level_files / "vocab.json"), str(byte_level_files / "merges.txt")))
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    tokenizer = load(ModelFiles(name="x", folder=folder))
    assert tokenizer.encode("low", add_special_tokens=False) == backend.encode("low", add_special_tokens=False).ids


def test_a_tokenizer_that_may_not_be_read(write_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_folder({"tokenizer.json": {}})

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match=r"tokenizer.json cannot be read \(Permission denied\); check its permissions"):
        Tokenizer.from_files(files)


def test_no_tokenizer(write_folder: Write) -> None:
    assert Tokenizer.from_files(write_folder({"config.json": {"model_type": "llama"}})) is None


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({"tekken.json": "{}"}, UnsupportedModel, "tekken.json"),
        ({"vocab.txt": "[PAD]"}, UnsupportedModel, "vocab.txt"),
        ({"vocab.json": "{}"}, UnsupportedModel, "vocab.json"),
        (
            {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"}},
            UnsupportedModel,
            "CLIPTokenizer",
        ),
        (
            {
                "tokenizer.json": '{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
                "config.json": {"eos_token_id": "2"},
            },
            DamagedFile,
            "eos_token_id",
        ),
        (
            {
                "tokenizer.json": '{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
                "tokenizer_config.json": {"added_tokens_decoder": {"0": "x"}},
            },
            DamagedFile,
            "added_tokens_decoder",
        ),
        ({"tokenizer.json": "{"}, DamagedFile, "tokenizer.json"),
        ({"tokenizer.json": "{}"}, DamagedFile, "tokenizer.json"),
        ({"tokenizer.model": b"\x0a\xff"}, DamagedFile, "tokenizer.model"),
        ({"tokenizer.model": b""}, DamagedFile, "without pieces"),
        ({"tokenizer.model": b"IQ== 0\nx\n"}, DamagedFile, "line 2"),
        ({"tokenizer.model": b"IQ== 0\n"}, DamagedFile, "byte 0"),
        (
            {
                "vocab.json": '{"a": 0}',
                "merges.txt": "a b",
                "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"},
            },
            DamagedFile,
            "merges.txt",
        ),
    ],
)
def test_refusals(write_folder: Write, files: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Tokenizer.from_files(write_folder(files))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "char"}, "model type 4"),
        ({"model_type": "bpe", "user_defined_symbols": ["▁▁"]}, "user-defined"),
        ({"model_type": "unigram", "treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_sentencepiece_refusals(
    train_sentencepiece: Callable[..., Path], write_folder: Write, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        Tokenizer.from_files(write_folder({"tokenizer.model": train_sentencepiece(**options)}))


def test_every_cut_of_a_sentencepiece_file_is_damage(
    train_sentencepiece: Callable[..., Path], write_folder: Write
) -> None:
    data = train_sentencepiece(model_type="bpe", normalization_rule_name="identity").read_bytes()
    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    needed = len(data) - len(data.split(model.normalizer_spec.SerializeToString())[1])
    for size in (*range(40), *range(40, needed, 97), needed - 1):
        with pytest.raises(DamagedFile, match=r"tokenizer\.model"):
            load(write_folder({"tokenizer.model": data[:size]}))
    assert load(write_folder({"tokenizer.model": data[:needed]})).vocab_size == len(model.pieces)


def test_lone_surrogates_are_the_clients_mistake(byte_level_files: Path, write_folder: Write) -> None:
    tokenizer = load(write_folder({"tokenizer.json": backend_without_post_processor(byte_level_files).to_str()}))
    for bad in ("\ud800", "ab\udfffc", "\ude00\ud83d"):
        with pytest.raises(RequestError, match="surrogate") as caught:
            tokenizer.encode(bad)
        assert caught.value.param == "prompt"


def test_token_bytes_and_text(shared: Path) -> None:
    tokenizer = load(ModelFiles("stories", folder=shared / "models/stories260k"))
    assert tokenizer.token_bytes(3 + 0xE2) == b"\xe2"
    assert tokenizer.token_text(3 + 0xE2) == "\ufffd"
    ids = tokenizer.encode(" Once")
    assert b"".join(map(tokenizer.token_bytes, ids[1:])) == b"  Once"
    assert tokenizer.token_bytes(10**9) == b""
    assert tokenizer.token_text(2) == "</s>"


def test_golden_text(shared: Path) -> None:
    folder = shared / "models/stories260k"
    golden = json.loads((folder / "golden.json").read_text())
    tokenizer = load(ModelFiles("stories260k", folder=folder))
    assert tokenizer.decode(golden["greedy_ids_from_bos"]).startswith(golden["text"])


def test_template_sees_the_roles_of_the_vocabulary_file(
    train_sentencepiece: Callable[..., Path], write_folder: Write
) -> None:
    path = train_sentencepiece(model_type="bpe", normalization_rule_name="identity")
    files = write_folder({"tokenizer.model": path, "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}"})
    template = load_chat_template(files)
    assert template is not None
    assert template.render([{"role": "user", "content": "Hi"}]) == "<s>Hi"


@pytest.mark.parametrize("wrong", [True, -1, 10**30, "2", [1, None], 1.5])
def test_end_ids_that_are_no_token_ids_are_refused(tmp_path: Path, wrong: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(DamagedFile, match="expected token ids"):
        configured_end_ids(ModelFiles("model", folder=tmp_path))
