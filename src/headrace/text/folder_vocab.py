"""The vocabulary of a folder in Hugging Face form: tokenizer.json, or the files that came before it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, normalizers, processors

from headrace.errors import DamagedFile, HeadraceError, ModelError, UnsupportedModel
from headrace.hub.files import ModelFiles
from headrace.text import byte_level, sentencepiece, tiktoken
from headrace.text.pretokenizers import PRE_TOKENIZERS
from headrace.text.vocabulary import Surround, Vocabulary, add_tokens

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_UNREADABLE = ("tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "qwen.tiktoken")


def load(files: ModelFiles) -> Vocabulary | None:
    """The folder's vocabulary, or None when it has no tokenizer at all.

    Raises:
        UnsupportedModel: only tokenizer files of a kind that is not implemented.
        DamagedFile: a tokenizer file that cannot be read.
    """
    config = files.read_json("tokenizer_config.json") or {}
    backend = _load_backend(files, config)
    if backend is None:
        return None
    backend.no_truncation()
    backend.no_padding()
    roles = special_tokens(files)
    _add_declared_tokens(backend, config, files, frozenset(roles.values()))
    named = [AddedToken(text, normalized=False, special=True) for text in roles.values()]
    backend.add_special_tokens([token for token in named if backend.token_to_id(token.content) is not None])
    _complete_post_processor(backend, config, roles)
    return Vocabulary(backend, roles, _end_ids(backend, roles, files))


def special_tokens(files: ModelFiles) -> dict[str, str]:
    """Role to text: of tokenizer_config.json, else special_tokens_map.json, else the vocabulary file itself."""
    config = files.read_json("tokenizer_config.json") or {}
    fallback = files.read_json("special_tokens_map.json") or {}
    found = _roles_of_vocabulary_file(files, config)
    names = dict.fromkeys((*ROLES, *(key for key in config if key.endswith("_token"))))
    for name in names:
        value = config.get(name, fallback.get(name))
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _roles_of_vocabulary_file(files: ModelFiles, config: Mapping[str, Any]) -> dict[str, str]:
    path = files.path("tokenizer.model")
    if path is None or files.path("tokenizer.json") is not None or {"bos_token", "eos_token"} <= config.keys():
        return {}
    if tiktoken.is_rank_file(path):
        return {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    model = sentencepiece.read(path)
    roles = {f"{name}_token": model.role(name) for name in model.ids}
    return {name: text for name, text in roles.items() if text is not None}


def _load_backend(files: ModelFiles, config: Mapping[str, Any]) -> tokenizers.Tokenizer | None:
    path = files.path("tokenizer.json")
    if path is not None:
        return _read_tokenizer_json(path)
    path = files.path("tokenizer.model")
    if path is not None:
        return _read_rank_file(path) if tiktoken.is_rank_file(path) else _read_sentencepiece(path, config)
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        first, second = files.path(vocabulary), files.path(merges)
        if first is not None and second is not None:
            return _read_vocabulary_and_merges(
                first, second, _class_name(files, config, vocabulary), config.get("add_prefix_space") is True
            )
    for name in _UNREADABLE:
        if (path := files.path(name)) is not None:
            raise UnsupportedModel(f"{path} is a tokenizer file that is not implemented; add a tokenizer.json")
    return None


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())  # from_file takes no path that is not UTF-8
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # the library raises no other kind
        raise DamagedFile(f"{path} cannot be read ({error}); download or export the tokenizer again") from error


def _read_sentencepiece(path: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    class_name = str(config.get("tokenizer_class") or "LlamaTokenizer").removesuffix("Fast")
    if class_name not in _LLAMA_LIKE:
        raise UnsupportedModel(
            f"{path} belongs to a {class_name}, which is not implemented without a tokenizer.json; add one"
        )
    model = sentencepiece.read(path)
    try:
        backend = sentencepiece.build(model, path, legacy=config.get("legacy") is not False)
    except HeadraceError:
        raise
    except Exception as error:  # the library raises no other kind
        raise DamagedFile(f"{path} cannot be used ({error}); download it again") from error
    ends: dict[str, tuple[tuple[str, int], ...]] = {}
    for role, default in (("bos", True), ("eos", False)):
        text = model.role(role)
        wanted = config.get(f"add_{role}_token", default)
        token_id = None if text is None else backend.token_to_id(text)
        ends[role] = ((text, token_id),) if wanted and text is not None and token_id is not None else ()
    if (processor := Surround(ends["bos"], ends["eos"]).processor()) is not None:
        backend.post_processor = processor
    return backend


def _read_rank_file(path: Path) -> tokenizers.Tokenizer:
    vocabulary, merges = tiktoken.vocabulary_and_merges(tiktoken.read(path))
    kind = PRE_TOKENIZERS["llama3"]
    backend = byte_level.build(vocabulary, merges, byte_level.splitter(kind.patterns), kind.ignore_merges)
    if len(vocabulary) == _LLAMA3_RANKS:
        add_tokens(backend, ((_LLAMA3_RANKS + index, token) for index, token in enumerate(_llama3_tokens())), path)
        backend.post_processor = Surround((("<|begin_of_text|>", _LLAMA3_RANKS),)).processor()
    return backend


_LLAMA_LIKE = frozenset({"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizer"})
_LLAMA3_RANKS = 128_000
_LLAMA3_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


def _llama3_tokens() -> Iterable[AddedToken]:
    """Llama 3's 256 special tokens, which its reference code lists beside the file."""
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    names += [f"<|reserved_special_token_{index}|>" for index in range(2)]
    names += ["<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"]
    names += ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    names += [f"<|reserved_special_token_{index}|>" for index in range(3, 3 + 256 - len(names))]
    return (AddedToken(name, normalized=False, special=True) for name in names)


def _class_name(files: ModelFiles, config: Mapping[str, Any], vocabulary: str) -> str:
    name = config.get("tokenizer_class")
    if name is None and vocabulary == "encoder.json":
        name = "GPT2Tokenizer"
    if name is None:
        name = _CLASS_OF_MODEL.get(str((files.read_json("config.json") or {}).get("model_type")))
    return str(name).removesuffix("Fast")


_CLASS_OF_MODEL = {
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
}
_GPT2_LIKE = frozenset({"GPT2Tokenizer", "CodeGenTokenizer", "RobertaTokenizer", "BartTokenizer"})


def _read_vocabulary_and_merges(
    vocabulary: Path, merges: Path, class_name: str, add_prefix_space: bool
) -> tokenizers.Tokenizer:
    if class_name not in _GPT2_LIKE | {"Qwen2Tokenizer"}:
        raise UnsupportedModel(
            f"{vocabulary} belongs to a {class_name}, which is not implemented without a tokenizer.json; add one"
        )
    try:
        vocab: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")
    except ValueError as error:
        raise DamagedFile(f"{vocabulary} or {merges} cannot be read ({error}); download them again") from error
    if lines[0].startswith("#version"):
        lines = lines[1:]
    pairs = [(left, right) for left, _, right in (line.rstrip("\r").partition(" ") for line in lines) if left]
    unknown = "<unk>" if class_name in ("RobertaTokenizer", "BartTokenizer") and "<unk>" in vocab else None
    patterns = PRE_TOKENIZERS["qwen2"].patterns if class_name == "Qwen2Tokenizer" else ()
    try:
        backend = byte_level.build(vocab, pairs, byte_level.splitter(patterns, add_prefix_space), unknown=unknown)
        if class_name in ("RobertaTokenizer", "BartTokenizer"):
            backend.post_processor = processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]))
    except Exception as error:  # the library raises no other kind
        raise DamagedFile(f"{merges} does not fit {vocabulary.name} ({error}); download them again") from error
    if class_name == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
    return backend


def _add_declared_tokens(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], files: ModelFiles, roles: frozenset[str]
) -> None:
    """Add the tokens of `added_tokens_decoder` that the vocabulary files themselves do not declare.

    Folders older than that key have added_tokens.json, {token: id}, instead.
    """
    declared = config.get("added_tokens_decoder") or {}
    if not declared and files.path("tokenizer.json") is None:
        older = files.read_json("added_tokens.json") or {}
        declared = {
            token_id: {"content": text, "special": text in roles, "normalized": text not in roles}
            for text, token_id in older.items()
        }
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    source = files.path("tokenizer_config.json")
    try:
        missing = [
            (int(token_id), AddedToken(entry["content"], **{flag: bool(entry.get(flag, False)) for flag in flags}))
            for token_id, entry in declared.items()
            if entry["content"] not in present
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{source} has added_tokens_decoder in another form than {{id: token}} ({error})") from error
    add_tokens(backend, missing, source)


def _complete_post_processor(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], roles: Mapping[str, str]
) -> None:
    """Honour add_bos_token and add_eos_token where the tokenizer's own post-processor adds nothing.

    A tokenizer.json whose post-processor adds special tokens is taken at its word, as transformers does; many files
    converted from Llama tokenizers leave it to tokenizer_config.json.
    """
    if backend.num_special_tokens_to_add(False) > 0:
        return
    ends: dict[str, tuple[tuple[str, int], ...]] = {"bos": (), "eos": ()}
    for role in ends:
        text = roles.get(f"{role}_token")
        token_id = None if text is None else backend.token_to_id(text)
        if config.get(f"add_{role}_token") is True and text is not None and token_id is not None:
            ends[role] = ((text, token_id),)
    if (processor := Surround(ends["bos"], ends["eos"]).processor()) is not None:
        backend.post_processor = processor


def configured_end_ids(files: ModelFiles) -> frozenset[int]:
    """The end-of-sequence ids of a folder's generation_config.json and config.json (and its text part).

    Raises:
        DamagedFile: they are not token ids.
    """
    ids: set[int] = set()
    config = files.read_json("config.json") or {}
    sources = (files.read_json("generation_config.json") or {}, config, config.get("text_config") or {})
    for source in sources:
        value = source.get("eos_token_id")
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token_id) is int and 0 <= token_id < 2**31 for token_id in values):
            raise DamagedFile(f"{files.name} has eos_token_id {value!r} in its configuration, expected token ids")
        ids.update(values)
    return frozenset(ids)


def _end_ids(backend: tokenizers.Tokenizer, roles: Mapping[str, str], files: ModelFiles) -> frozenset[int]:
    """Every end-of-sequence id of the configuration and the tokenizer."""
    ids = configured_end_ids(files)
    texts = [roles[name] for name in ("eos_token",) if name in roles]
    path = files.path("tokenizer.model")
    if not ids and path is not None and tiktoken.is_rank_file(path):
        texts.extend(_LLAMA3_ENDS)
    found = (backend.token_to_id(text) for text in texts)
    return frozenset(ids | {token_id for token_id in found if token_id is not None})
