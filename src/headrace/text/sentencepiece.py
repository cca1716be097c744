"""SentencePiece vocabularies as `tokenizers` objects: the `.model` file, and what GGUF keeps of one.

The file is a protocol buffer (google/sentencepiece, `sentencepiece_model.proto`); only the fields that matter for
encoding and decoding are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from headrace.errors import DamagedFile, UnsupportedModel

SPACE = "▁"
"""U+2581, which stands for a space inside pieces"""


class PieceType(IntEnum):
    """What a piece is; the same numbers in `.model` files and in `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: str = ""
    score: float = 0.0
    type: int = PieceType.NORMAL


@dataclass(slots=True)
class SentencePieceModel:
    """The contents of a `.model` file, with the defaults of its format."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    denormalizer_charsmap: bytes = b""
    parts: set[str] = field(default_factory=set)
    """Which of the file's parts were there"""

    def role(self, name: str) -> str | None:
        """The text of the piece that plays the role "unk", "bos", "eos" or "pad"."""
        index = self.ids[name]
        return self.pieces[index].text if 0 <= index < len(self.pieces) else None


def read(path: Path) -> SentencePieceModel:
    """Parse a `.model` file.

    Raises:
        DamagedFile: it is not a SentencePiece model, or it is cut off.
    """
    try:
        model = _parse(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
        raise DamagedFile(f"{path} is not a SentencePiece model ({error}); download it again") from error
    missing = [part for part in ("pieces", "trainer_spec", "normalizer_spec") if part not in model.parts]
    if missing:
        raise DamagedFile(f"{path} is a SentencePiece model without {missing[0]}, or cut off; download it again")
    return model


def build(model: SentencePieceModel, source: Path, legacy: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer that encodes and decodes as the SentencePiece library does.

    `legacy` puts the dummy prefix space after every special token, as SentencePiece does with each piece of text;
    otherwise only the start of the text gets it.

    Raises:
        UnsupportedModel: word or character models, unused pieces, whitespace as a suffix, a denormalizer.
    """
    _refuse_unsupported(model, source)
    names = [piece.text for piece in model.pieces]
    if model.model_type == 1:
        scored = [(name, piece.score) for name, piece in zip(names, model.pieces, strict=True)]
        unigram = models.Unigram(scored, unk_id=model.ids["unk"], byte_fallback=model.byte_fallback)
        backend = tokenizers.Tokenizer(unigram)
    else:
        mergeable = [index for index, piece in enumerate(model.pieces) if piece.type == PieceType.NORMAL]
        merges = merges_by_score(names, [piece.score for piece in model.pieces], mergeable)
        backend = tokenizers.Tokenizer(
            bpe({name: index for index, name in enumerate(names)}, merges, model.role("unk"), model.byte_fallback)
        )
    set_space_handling(
        backend, model.charsmap, model.remove_extra_whitespaces, model.add_dummy_prefix, everywhere=legacy
    )
    for name, piece in zip(names, model.pieces, strict=True):
        if piece.type in (PieceType.CONTROL, PieceType.UNKNOWN):
            backend.add_special_tokens([AddedToken(name, normalized=False, special=True)])
        elif piece.type == PieceType.USER_DEFINED:
            backend.add_tokens([AddedToken(name, normalized=SPACE in name)])
    return backend


def merges_by_score(names: Sequence[str], scores: Sequence[float], mergeable: Sequence[int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best score first.

    SentencePiece joins the pair whose result scores best. Where scores tie (converters that had none write one
    placeholder for all), the lower id goes first: SentencePiece numbers its pieces in the order of their merges.
    """
    rank = {names[index]: index for index in mergeable}
    find = rank.get
    merges: list[tuple[str, str]] = []
    for index in sorted(mergeable, key=lambda index: (-scores[index], index)):
        name = names[index]
        splits = [
            (left, right, cut)
            for cut in range(1, len(name))
            if (left := find(name[:cut])) is not None and (right := find(name[cut:])) is not None
        ]
        splits.sort()
        merges += [(name[:cut], name[cut:]) for _, _, cut in splits]
    return merges


def bpe(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str | None, byte_fallback: bool
) -> models.BPE:
    """A BPE model over characters; what is not in the vocabulary becomes <0xNN> tokens, or one unknown token."""
    return models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)


def set_space_handling(
    backend: tokenizers.Tokenizer, charsmap: bytes, squeeze: bool, prefix: bool, everywhere: bool = True
) -> None:
    """Normalise as the charsmap says, strip and squeeze spaces, put one in front, write spaces as U+2581; and back.

    `everywhere` puts the prefix before every stretch of text between special tokens, not only before the first.
    """
    steps: list[normalizers.Normalizer] = []
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if squeeze:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))  # ^ and $ would be those of a line
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if prefix and everywhere:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    if prefix and not everywhere:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    decoder: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        decoder.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(decoder)


def _refuse_unsupported(model: SentencePieceModel, source: Path) -> None:
    unused = [piece.text for piece in model.pieces if piece.type == PieceType.UNUSED]
    # Such a symbol may contain the dummy prefix, which `tokenizers` adds only after it has looked for symbols.
    changes_spaces = model.add_dummy_prefix or model.remove_extra_whitespaces
    spaced = [piece.text for piece in model.pieces if piece.type == PieceType.USER_DEFINED and SPACE in piece.text]
    reasons = {
        f"model type {model.model_type}, expected 1 (unigram) or 2 (BPE)": model.model_type not in (1, 2),
        f"unused pieces ({unused[:1]})": bool(unused),
        f"user-defined symbols with spaces ({spaced[:1]}) and a space prefix": bool(spaced) and changes_spaces,
        "treat_whitespace_as_suffix": model.whitespace_as_suffix,
        "escape_whitespaces = false": not model.escape_whitespaces,
        "a denormalizer": bool(model.denormalizer_charsmap),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UnsupportedModel(f"{source} has {reason}, which is not implemented; export a tokenizer.json")


def _parse(data: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(data):
        if number == 1:
            model.pieces.append(_parse_piece(_expect_bytes(value)))
            model.parts.add("pieces")
        elif number == 2:
            _parse_trainer(model, _expect_bytes(value))
            model.parts.add("trainer_spec")
        elif number == 3:
            _parse_normalizer(model, _expect_bytes(value))
            model.parts.add("normalizer_spec")
        elif number == 5:
            for inner, content in _fields(_expect_bytes(value)):
                if inner == 2:
                    model.denormalizer_charsmap = _expect_bytes(content)
    return model


def _parse_piece(data: bytes) -> Piece:
    piece = Piece()
    for number, value in _fields(data):
        if number == 1:
            piece.text = _expect_bytes(value).decode("utf-8")
        elif number == 2:
            (piece.score,) = struct.unpack("<f", _expect_bytes(value))
        elif number == 3:
            piece.type = _expect_int(value)
    return piece


def _parse_trainer(model: SentencePieceModel, data: bytes) -> None:
    roles = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value in _fields(data):
        if number == 3:
            model.model_type = _expect_int(value)
        elif number == 24:
            model.whitespace_as_suffix = bool(value)
        elif number == 35:
            model.byte_fallback = bool(value)
        elif number in roles:
            index = _expect_int(value)
            model.ids[roles[number]] = index - (1 << 64) if index >> 63 else index


def _parse_normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2:
            model.charsmap = _expect_bytes(value)
        elif number == 3:
            model.add_dummy_prefix = bool(value)
        elif number == 4:
            model.remove_extra_whitespaces = bool(value)
        elif number == 5:
            model.escape_whitespaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protocol buffer message: (number, varint) or (number, bytes)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            raise ValueError(f"cut off at byte {len(data)}")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"number too long at byte {position}")


def _expect_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def _expect_int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a message where a number was expected")
    return value
