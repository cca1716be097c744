"""Tiktoken's rank files: one `base64-of-the-bytes rank` a line, as Llama 3 ships its `tokenizer.model`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import DamagedFile
from headrace.text.byte_level import to_characters
from headrace.text.sentencepiece import merges_by_score


def is_rank_file(path: Path) -> bool:
    """Whether a `tokenizer.model` is text of this form rather than a SentencePiece model."""
    with path.open("rb") as file:
        first = file.readline(4096).split()
    try:
        return len(first) == 2 and first[1].isdigit() and bool(base64.b64decode(first[0], validate=True))
    except binascii.Error:
        return False


def read(path: Path) -> dict[bytes, int]:
    """The bytes of each token and its rank, which is its id.

    Raises:
        DamagedFile: a line of another form, or a byte that has no token.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise DamagedFile(
                f"{path}, line {number}: expected a base64 token and a rank; download it again"
            ) from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DamagedFile(f"{path} has no token for byte {missing[0]}; download it again")
    return ranks


def vocabulary_and_merges(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The same as byte-level BPE: tiktoken joins the pair whose result has the lowest rank."""
    names = [to_characters(token) for token in ranks]
    ids = list(ranks.values())
    merges = merges_by_score(names, [-rank for rank in ids], range(len(names)))
    return dict(zip(names, ids, strict=True)), merges
