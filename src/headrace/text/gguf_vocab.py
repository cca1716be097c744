"""The vocabulary inside a GGUF file as a `tokenizers` object, read as llama.cpp reads it.

Control and user-defined tokens are always found in a text before anything else (llama.cpp's `parse_special`), as
tokenizers from Hugging Face do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from headrace.errors import DamagedFile, HeadraceError, UnsupportedModel
from headrace.text import byte_level, sentencepiece
from headrace.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from headrace.text.sentencepiece import SPACE, PieceType
from headrace.text.vocabulary import Surround, Vocabulary

_ENDS_OF_GENERATION_TEXT = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[ "
    "<｜end▁of▁sentence｜> "
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>"
)
_ENDS_OF_GENERATION = frozenset(_ENDS_OF_GENERATION_TEXT.split())
"""Tokens that end a generation whatever the file's metadata says, by their text (llama.cpp's EOG list)."""

_ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unknown": "unk",
    "seperator": "sep",
    "padding": "pad",
    "cls": "cls",
    "mask": "mask",
}
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """The `tokenizer.ggml.*` metadata, checked."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[tuple[str, str]]
    ids: Mapping[str, int]
    """Role ("bos", "eos" …) to token id"""
    metadata: Mapping[str, Any]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], source: object) -> GGUFVocabulary:
        """Read the keys of a GGUF file's metadata; `source` names the file in errors.

        Raises:
            DamagedFile: lists of different lengths, a token twice, an id outside the vocabulary.
        """
        tokens = _read_tokens(metadata["tokenizer.ggml.tokens"], source)
        columns: dict[str, list[Any]] = {}
        for name, default in (("token_type", 1), ("scores", 0.0)):
            column = metadata.get(f"tokenizer.ggml.{name}")
            columns[name] = [default] * len(tokens) if column is None else [type(default)(value) for value in column]
            if len(columns[name]) < len(tokens):
                raise DamagedFile(f"{source} has {len(tokens)} tokens but {len(columns[name])} tokenizer.ggml.{name}")
        model = str(metadata.get("tokenizer.ggml.model", ""))
        return cls(
            model=model,
            pre=str(metadata.get("tokenizer.ggml.pre", "")),
            tokens=tokens,
            types=columns["token_type"][: len(tokens)],
            scores=columns["scores"][: len(tokens)],
            merges=_split_merges(metadata.get("tokenizer.ggml.merges", ()), source),
            ids=_role_ids(metadata, _DEFAULT_IDS.get(model, {}), len(tokens), source),
            metadata=metadata,
        )

    def flag(self, name: str, default: bool) -> bool:
        """The boolean `tokenizer.ggml.<name>`."""
        return bool(self.metadata.get(f"tokenizer.ggml.{name}", default))

    def text(self, role: str) -> str | None:
        """The token with a role, or None."""
        return self.tokens[self.ids[role]] if role in self.ids else None

    def of_type(self, *types: PieceType) -> Iterator[tuple[int, str]]:
        """(id, text) of the tokens of the given types."""
        return ((index, token) for index, token in enumerate(self.tokens) if self.types[index] in types)


def load(metadata: Mapping[str, Any], source: object) -> Vocabulary | None:
    """The vocabulary of a GGUF file, or None when it has none.

    Raises:
        UnsupportedModel: `tokenizer.ggml.model` or `tokenizer.ggml.pre` is not implemented.
        DamagedFile: the lists do not fit each other.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model in (None, "none", "no_vocab"):
        return None
    builder = _BUILDERS.get(str(model))
    if builder is None:
        known = ", ".join(_BUILDERS)
        raise UnsupportedModel(f"{source} has tokenizer.ggml.model {model!r}, which is not implemented ({known} are)")
    if "tokenizer.ggml.tokens" not in metadata:
        raise DamagedFile(f"{source} has tokenizer.ggml.model but no tokenizer.ggml.tokens; download it again")
    try:
        return _build(GGUFVocabulary.from_metadata(metadata, source), builder, source)
    except HeadraceError:
        raise
    except Exception as error:  # the library raises no other kind
        raise DamagedFile(f"{source} has a vocabulary that cannot be used ({error}); download it again") from error


def _build(vocabulary: GGUFVocabulary, builder: _Builder, source: object) -> Vocabulary:
    metadata = vocabulary.metadata
    ends = ends_of_generation(vocabulary.tokens, metadata, vocabulary.ids.get("eos"))
    for token_id in ends:  # some converters forget to mark them
        vocabulary.types[token_id] = PieceType.CONTROL
    backend, surround = builder(vocabulary, source)
    _add_special_tokens(backend, vocabulary)
    processor = surround.processor()
    if processor is not None:
        backend.post_processor = processor
    return Vocabulary(backend, special_tokens(metadata, source), ends)


def special_tokens(metadata: Mapping[str, Any], source: object) -> dict[str, str]:
    """Role to text, under the names that chat templates use: {"bos_token": "<s>", …}."""
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    defaults = _DEFAULT_IDS.get(str(metadata.get("tokenizer.ggml.model")), {})
    ids = _role_ids(metadata, defaults, len(tokens), source)
    return {f"{role}_token": str(tokens[token_id]) for role, token_id in ids.items()}


def ends_of_generation(tokens: Sequence[str], metadata: Mapping[str, Any], eos: int | None) -> frozenset[int]:
    """The tokens that end a generation: eos, eot and eom of the metadata, and the tokens known for it by their text."""
    ids = {index for index, token in enumerate(tokens) if token in _ENDS_OF_GENERATION}
    keys = ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")
    named = {int(metadata[key]) for key in (f"tokenizer.ggml.{name}_token_id" for name in keys) if key in metadata}
    ids |= {index for index in named if index < len(tokens)} | ({eos} if eos is not None else set())
    texts = {tokens[index]: index for index in ids}
    # Harmony and Solar end a message with <|end|> and a turn with one of the others.
    if "<|end|>" in texts and ({"<|return|>", "<|call|>"} <= texts.keys() or _has_flush_and_call(texts)):
        ids.discard(texts["<|end|>"])
    if "<|tool_response>" in texts and "</s>" in texts:  # Gemma 4 has </s> as an ordinary (HTML) token
        ids.discard(texts["</s>"])
    return frozenset(ids)


def _has_flush_and_call(texts: Mapping[str, int]) -> bool:
    return "<|flush|>" in texts and ("<|call|>" in texts or "<|calls|>" in texts)


def _build_spm(vocabulary: GGUFVocabulary, source: object) -> tuple[tokenizers.Tokenizer, Surround]:
    mergeable = [index for index, _ in vocabulary.of_type(PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)]
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    if vocabulary.merges and len({vocabulary.scores[index] for index in mergeable}) == 1:
        # Converted from a tokenizer.json, which has merges and no scores; the scores are placeholders.
        merges = _usable_merges(vocabulary, vocab)
    else:
        merges = sentencepiece.merges_by_score(vocabulary.tokens, vocabulary.scores, mergeable)
    byte_fallback = any(True for _ in vocabulary.of_type(PieceType.BYTE))
    backend = tokenizers.Tokenizer(sentencepiece.bpe(vocab, merges, vocabulary.text("unk"), byte_fallback))
    sentencepiece.set_space_handling(backend, b"", False, vocabulary.flag("add_space_prefix", True))
    return backend, _surround(vocabulary, source, add_bos=True, add_eos=False)


def _build_bpe(vocabulary: GGUFVocabulary, source: object) -> tuple[tokenizers.Tokenizer, Surround]:
    name = "gemma4" if vocabulary.model == "gemma4" else vocabulary.pre or "default"
    kind = PRE_TOKENIZERS.get(name)
    if kind is None:
        raise UnsupportedModel(f"{source} has tokenizer.ggml.pre {name!r}, a pre-tokenizer that is not implemented")
    if not vocabulary.merges:
        raise UnsupportedModel(f"{source} has no tokenizer.ggml.merges; convert it again with a recent converter")
    index = dict(zip(vocabulary.tokens, range(len(vocabulary.tokens)), strict=True))
    try:
        backend = _bpe(vocabulary, kind, index, vocabulary.merges)
    except Exception as error:
        if "out of vocabulary" not in str(error):  # the library raises no other kind
            raise
        backend = _bpe(vocabulary, kind, index, _usable_merges(vocabulary, index))
    add_bos = kind.add_bos and "bos" in vocabulary.ids
    if name == "gemma4":  # its files say false and mean true
        return backend, _surround(vocabulary, source, True, False, force_bos=True)
    return backend, _surround(vocabulary, source, add_bos, kind.add_sep)


def _usable_merges(vocabulary: GGUFVocabulary, index: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges between tokens of the vocabulary; others, which converters leave for renamed tokens, give no token."""
    return [pair for pair in vocabulary.merges if pair[0] in index and pair[1] in index and "".join(pair) in index]


def _bpe(
    vocabulary: GGUFVocabulary, kind: PreTokenizer, index: dict[str, int], merges: list[tuple[str, str]]
) -> tokenizers.Tokenizer:
    """Raises the library's Exception ("… out of vocabulary") when a merge is not between tokens of the vocabulary."""
    if not kind.normalize_spaces:
        return byte_level.build(index, merges, byte_level.splitter(kind.patterns), kind.ignore_merges)
    byte_fallback = "<0x00>" in index
    backend = tokenizers.Tokenizer(sentencepiece.bpe(index, merges, vocabulary.text("unk"), byte_fallback))
    sentencepiece.set_space_handling(backend, b"", False, prefix=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in kind.patterns]
    )
    return backend


def _build_wordpiece(vocabulary: GGUFVocabulary, source: object) -> tuple[tokenizers.Tokenizer, Surround]:
    """GGUF marks the first piece of a word with U+2581; WordPiece marks the others with ##."""
    vocab: dict[str, int] = {}
    for index, token in enumerate(vocabulary.tokens):
        piece = token
        if token.startswith(SPACE):
            piece = token[len(SPACE) :]
        elif vocabulary.types[index] == PieceType.NORMAL and not (token[:1] == "[" and token[-1:] == "]"):
            piece = f"##{token}"
        if vocab.setdefault(piece, index) != index:
            raise DamagedFile(f"{source} has the word piece {piece!r} twice, ids {vocab[piece]} and {index}")
    unknown = vocabulary.text("unk")
    if unknown is None or unknown not in vocab:
        raise DamagedFile(f"{source} has no unknown token; expected tokenizer.ggml.unknown_token_id")
    lowercase = vocabulary.flag("normalizer.lowercase", True)
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=vocabulary.flag("normalizer.strip_accents", lowercase)
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ids = vocabulary.ids
    first, last = ids.get("cls", ids.get("bos")), ids.get("sep")
    if first is None or last is None:
        raise DamagedFile(f"{source} has no cls or separator token; expected tokenizer.ggml.cls_token_id")
    tokens = vocabulary.tokens
    return backend, Surround(((tokens[first], first),), ((tokens[last], last),), between=())


def _build_unigram(vocabulary: GGUFVocabulary, source: object) -> tuple[tokenizers.Tokenizer, Surround]:
    unknown = vocabulary.ids.get("unk")
    scored = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    backend = tokenizers.Tokenizer(models.Unigram(scored, unk_id=unknown, byte_fallback=False))
    charsmap = bytes(int(value) & 0xFF for value in vocabulary.metadata.get("tokenizer.ggml.precompiled_charsmap", ()))
    squeeze = vocabulary.flag("remove_extra_whitespaces", False)
    prefix = vocabulary.flag("add_space_prefix", False) or squeeze
    sentencepiece.set_space_handling(backend, charsmap, squeeze, prefix)
    return backend, _surround(vocabulary, source, add_bos=False, add_eos=True)


_Builder = Callable[[GGUFVocabulary, object], tuple[tokenizers.Tokenizer, Surround]]
_BUILDERS: dict[str, _Builder] = {
    "llama": _build_spm,
    "gpt2": _build_bpe,
    "gemma4": _build_bpe,
    "bert": _build_wordpiece,
    "t5": _build_unigram,
}


def _surround(
    vocabulary: GGUFVocabulary, source: object, add_bos: bool, add_eos: bool, force_bos: bool = False
) -> Surround:
    wanted = {
        "bos": force_bos or vocabulary.flag("add_bos_token", add_bos),
        "eos": vocabulary.flag("add_eos_token", add_eos),
    }
    tokens: dict[str, tuple[tuple[str, int], ...]] = {}
    for role, is_wanted in wanted.items():
        if is_wanted and role not in vocabulary.ids:
            raise DamagedFile(
                f"{source} asks for a {role} token around texts but has no tokenizer.ggml.{role}_token_id"
            )
        tokens[role] = ((vocabulary.tokens[vocabulary.ids[role]], vocabulary.ids[role]),) if is_wanted else ()
    if "sep" not in vocabulary.ids or not all(wanted.values()):
        return Surround(tokens["bos"], tokens["eos"])
    separator = vocabulary.ids["sep"]  # a pair is <s> A </s></s> B </s>, as RoBERTa's, or has one </s> between
    between = ((vocabulary.tokens[separator], separator),) if vocabulary.flag("add_sep_token", True) else ()
    return Surround(tokens["bos"], tokens["eos"], between)


def _add_special_tokens(backend: tokenizers.Tokenizer, vocabulary: GGUFVocabulary) -> None:
    """Declare control, unknown and user-defined tokens, with the stripping that llama.cpp knows by model name."""
    name = str(vocabulary.metadata.get("general.name", "")).lower()
    phi3 = "phi-3" in name or "phi3" in name
    special: list[AddedToken] = []
    plain: list[AddedToken] = []
    types = (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.USER_DEFINED)
    for index, text in vocabulary.of_type(*types):
        is_special = vocabulary.types[index] != PieceType.USER_DEFINED
        strips_right = phi3 and text not in ("<unk>", "<s>", "<|endoftext|>")
        strips_left = text in ("<mask>", "[MASK]") and vocabulary.pre in _MASK_STRIPS_LEFT
        token = AddedToken(text, normalized=False, special=is_special, rstrip=strips_right, lstrip=strips_left)
        (special if is_special else plain).append(token)
    # WordPiece names differ from the file's; all of its special tokens stand in brackets, which both keep.
    known = [token for token in special if backend.token_to_id(token.content) is not None]
    backend.add_special_tokens(known)
    backend.add_tokens([token for token in plain if backend.token_to_id(token.content) is not None])


_MASK_STRIPS_LEFT = frozenset({"jina-v2-de", "jina-v2-es", "jina-v2-code", "modern-bert"})


def _read_tokens(texts: Sequence[str], source: object) -> list[str]:
    """The tokens; one that is no UTF-8 (no text encodes to it) gets U+FFFD for its stray bytes, and its id."""
    different = set(texts)
    if len(different) == len(texts) and "" not in different and _are_unicode(texts):
        return list(texts)
    tokens: list[str] = []
    index: dict[str, int] = {}
    for token_id, text in enumerate(texts):
        token = text or f"[EMPTY_{token_id}]"
        if not token.isascii() and any("\ud800" <= character <= "\udfff" for character in token):
            readable = token.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            token = readable if readable not in index else f"{readable}[{token_id}]"
        if index.setdefault(token, token_id) != token_id:
            raise DamagedFile(f"{source} has the token {token!r} twice, ids {index[token]} and {token_id}")
        tokens.append(token)
    return tokens


def _are_unicode(texts: Sequence[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # a surrogate, which stands for a stray byte
        return False
    return True


def _split_merges(merges: Sequence[str], source: object) -> list[tuple[str, str]]:
    """Each merge as its two tokens. Hardly any token has a space in it; where one does, the second space splits."""
    pairs: list[Any] = [tuple(str(merge).split(" ")) for merge in merges]
    for at, pair in enumerate(pairs):
        if len(pair) != 2 or not pair[0] or not pair[1]:
            pairs[at] = _split_merge(str(merges[at]), source)
    return pairs


def _split_merge(merge: str, source: object) -> tuple[str, str]:
    left, space, right = merge[1:].partition(" ")
    if not space or not right:
        raise DamagedFile(f"{source} has the merge {merge!r}, expected two tokens with a space between")
    return merge[:1] + left, right


def _role_ids(metadata: Mapping[str, Any], defaults: Mapping[str, int], size: int, source: object) -> dict[str, int]:
    ids = {role: index for role, index in defaults.items() if index < size}
    for key, role in _ROLES.items():
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is None:
            continue
        if not 0 <= int(index) < size:
            raise DamagedFile(f"{source} has tokenizer.ggml.{key}_token_id {index}, outside its {size} tokens")
        ids[role] = int(index)
    return ids
