"""Byte-level BPE, as GPT-2 introduced it: bytes written as printable characters, then merged by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers


@cache
def byte_to_character() -> tuple[str, ...]:
    """The character that stands for each byte: itself where it is printable in Latin-1, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


@cache
def character_to_byte() -> Mapping[str, int]:
    """The inverse of `byte_to_character`."""
    return {character: byte for byte, character in enumerate(byte_to_character())}


def to_characters(data: bytes) -> str:
    """How bytes are written in a byte-level vocabulary."""
    table = byte_to_character()
    return "".join([table[byte] for byte in data])


def splitter(patterns: Sequence[str], add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Split by each pattern in turn (what lies between matches is a piece as well), then write bytes as characters.

    Without patterns the pieces are GPT-2's. `add_prefix_space` is that of `tokenizers`' ByteLevel, the last step.
    """
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=not patterns))
    return pre_tokenizers.Sequence(steps)


def build(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    ignore_merges: bool = False,
    unknown: str | None = None,
) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer; `ignore_merges` takes a whole piece that is a token without merging it."""
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges, unk_token=unknown, fuse_unk=False)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    return backend
