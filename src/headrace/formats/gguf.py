"""GGUF files, versions 2 and 3: metadata, and tensors that stay on disk until they are touched.

A file is a header (magic, version, counts), key-value pairs, a directory of tensors, then their data at aligned
offsets. Everything is little-endian. Source: the GGUF specification (ggml, docs/gguf.md).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DamagedFile, ModelNotFound, UnsupportedModel
from headrace.formats.codecs import CODECS, CODECS_BY_GGML_TYPE, Codec, opaque_codec
from headrace.formats.storage import describe_start, map_file
from headrace.formats.tensor import Tensor

Metadata: TypeAlias = dict[str, Any]

DEFAULT_ALIGNMENT = 32

NUMBER_TYPES: Mapping[int, np.dtype[Any]] = {
    number: np.dtype(code)
    for number, code in enumerate(["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "", "", "<u8", "<i8", "<f8"])
    if code
}
"""Metadata value types that are plain numbers, as numpy reads them."""
STRING_TYPE, ARRAY_TYPE = 8, 9

_UNREAD_TYPES: Mapping[int, str] = {
    **{4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"},
    **{21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0"},
    **{35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4", 41: "Q1_0"},
}
_BUFFER_TYPES: Mapping[int, tuple[str, int]] = {
    24: ("i8", 1),
    25: ("i16", 2),
    26: ("i32", 4),
    27: ("i64", 8),
    28: ("f64", 8),
}
"""Types of buffers that are listed but cannot be computed with: name and bytes."""

# A damaged count must not cost memory or time. Real files have 300,000 tokens, 600,000 merges, 10,000 tensors.
_MAX_VALUES = 1 << 24
_MAX_STRING = 1 << 28
_MAX_NAME = 1 << 10
_MAX_NESTING = 4
_MAX_DIMENSIONS = 4
_LARGEST_TYPE_NUMBER = 255

_SHARD_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GGUFFile:
    """A GGUF file, or all shards of a split one, opened and checked from end to end.

    Attributes:
        path: the file, or the first shard.
        paths: every file that belongs to it.
        version: 2 or 3.
        metadata: key → value. Numbers are int, float or bool; arrays of numbers are numpy arrays, other arrays lists.
            Strings that are not UTF-8 (some vocabularies have such tokens) keep each stray byte as a surrogate:
            `value.encode("utf-8", "surrogateescape")` gives back the bytes of any string.
        tensors: name → tensor, shapes in numpy's order ([rows, columns]), data mapped from the file. Integer and f64
            buffers are listed too; decoding one raises UnsupportedModel.

    Raises:
        ModelNotFound: the file or one of its shards is not there.
        UnsupportedModel: a version, byte order or tensor type that headrace does not read.
        DamagedFile: the file is truncated, malformed or contradicts itself.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        first = _read_part(self.path)
        self.version = first.version
        self.metadata: Metadata = first.metadata
        self.tensors: dict[str, Tensor] = first.tensors
        self.paths: tuple[Path, ...] = (self.path,)
        count = _split_number(first, "split.count", default=1)
        if count > 1:
            self.paths = _shard_paths(first, count)
            for number, shard in enumerate(self.paths[1:], start=1):
                self._add_shard(shard, number, count)
            total = _split_number(first, "split.tensors.count", default=len(self.tensors))
            if total != len(self.tensors):
                raise _damaged(self.path, f"its shards hold {len(self.tensors)} tensors, it announces {total}")

    def _add_shard(self, path: Path, number: int, count: int) -> None:
        if not path.is_file():
            raise ModelNotFound(f"{path} is missing, shard {number + 1} of {count}; download it into the same folder")
        part = _read_part(path)
        if (_split_number(part, "split.no", -1), _split_number(part, "split.count", -1)) != (number, count):
            raise _damaged(path, f"it does not say that it is shard {number + 1} of {count}")
        for name, tensor in part.tensors.items():
            if name in self.tensors:
                raise _damaged(path, f"tensor {name!r} is in an earlier shard too")
            self.tensors[name] = tensor


@dataclass(frozen=True, slots=True)
class _Part:
    """One file."""

    path: Path
    version: int
    metadata: Metadata
    tensors: dict[str, Tensor]


def _damaged(path: Path, what: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {what}; download or convert it again")


def _split_number(part: _Part, key: str, default: int) -> int:
    value = part.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _damaged(part.path, f"{key} is {value!r}, expected a number")
    return value


def _shard_paths(first: _Part, count: int) -> tuple[Path, ...]:
    path, number = first.path, _split_number(first, "split.no", default=0)
    match = _SHARD_NAME.fullmatch(path.name)
    if match is None or (int(match[2]), int(match[3])) != (number + 1, count):
        expected = f"…-{number + 1:05}-of-{count:05}.gguf"
        raise ModelNotFound(
            f"{path} is shard {number + 1} of {count} but not named {expected}; give all shards such names"
        )
    names = [f"{match[1]}-{shard:05}-of-{count:05}.gguf" for shard in range(1, count + 1)]
    if number:
        raise ModelNotFound(f"{path} is shard {number + 1} of {count}; give the first one, {names[0]}")
    return tuple(path.with_name(name) for name in names)


def _read_part(path: Path) -> _Part:
    data = map_file(path)
    version = _check_version(path, data)
    cursor = _Cursor(path, data)
    cursor.skip(8)
    num_tensors, num_pairs = cursor.count("tensors", 24), cursor.count("key-value pairs", 13)
    metadata: Metadata = {}
    for _ in range(num_pairs):
        key = cursor.name("key")
        if key in metadata:
            raise _damaged(path, f"key {key!r} is there twice")
        metadata[key] = cursor.value(cursor.uint32(), key)
    entries = [_Entry.read(cursor) for _ in range(num_tensors)]
    return _Part(path, version, metadata, _tensors(path, data, entries, cursor.position, _alignment(path, metadata)))


def _check_version(path: Path, data: NDArray[np.uint8]) -> int:
    start = data[:8].tobytes()
    if start[:4] in {b"lmgg", b"fmgg", b"tjgg", b"algg"}:
        raise UnsupportedModel(f"{path} is in a GGML format older than GGUF; convert the original model to GGUF again")
    if start[:4] != b"GGUF":
        raise DamagedFile(f"{path} is not a GGUF file: {describe_start(data)}")
    if len(start) < 8:
        raise _damaged(path, f"it ends after {len(start)} bytes")
    version = int.from_bytes(start[4:], "little")
    if version in {2, 3}:
        return version
    if int.from_bytes(start[4:], "big") in {1, 2, 3}:
        raise UnsupportedModel(f"{path} is big-endian GGUF; convert the original model to little-endian GGUF")
    if version == 0 or version > _LARGEST_TYPE_NUMBER:
        raise _damaged(path, f"its version is {version}")
    raise UnsupportedModel(
        f"{path} is GGUF version {version}, headrace reads 2 and 3; convert the original model again"
    )


def _alignment(path: Path, metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _damaged(path, f"general.alignment is {alignment!r}, expected a power of two")
    return alignment


class _Cursor:
    """A position in a file's header. Every read is checked against the file's end."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.position = 0
        self._data = data
        self._bytes = data.data
        self._size = len(data)
        self._values_left = _MAX_VALUES

    def skip(self, num_bytes: int) -> int:
        """Advance, and return the position before."""
        start = self.position
        if num_bytes > self._size - start:
            raise _damaged(self.path, f"its header runs past its end at byte {self._size:,}, so it is truncated")
        self.position = start + num_bytes
        return start

    def uint32(self) -> int:
        return int.from_bytes(self._bytes[self.skip(4) : self.position], "little")

    def uint64(self) -> int:
        return int.from_bytes(self._bytes[self.skip(8) : self.position], "little")

    def count(self, of_what: str, smallest: int) -> int:
        """A number of items that take at least `smallest` bytes each."""
        count = self.uint64()
        self._values_left -= count
        if self._values_left < 0 or count * smallest > self._size - self.position:
            raise _damaged(self.path, f"it announces {count:,} {of_what}, more than it can hold")
        return count

    def string(self) -> str:
        return self.strings(1)[0]

    def name(self, of_what: str) -> str:
        """A string that messages may quote; control characters in it mean that something else was met."""
        start = self.position
        name = self.string()
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise _damaged(self.path, f"the {of_what} at byte {start:,} is no name")
        return name

    def strings(self, count: int) -> list[str]:
        """`count` strings, each a 64-bit length and UTF-8; vocabularies have 10^5, so this loop is kept bare."""
        values: list[str] = []
        position, size, view, length_at = self.position, self._size, self._bytes, struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = position + 8
            length = length_at(view, position)[0] if start <= size else _MAX_STRING
            position = start + length
            if position > size or length >= _MAX_STRING:
                raise _damaged(self.path, f"a string at byte {start - 8:,} runs past its end, so it is truncated")
            values.append(str(view[start:position], "utf-8", "surrogateescape"))
        self.position = position
        return values

    def value(self, kind: int, key: str, nesting: int = 0) -> Any:
        """A metadata value of the given type."""
        if kind == STRING_TYPE:
            return self.string()
        if kind == ARRAY_TYPE:
            return self._array(key, nesting + 1)
        return self._numbers(kind, 1, key)[0].item()

    def _array(self, key: str, nesting: int) -> Any:
        if nesting > _MAX_NESTING:
            raise _damaged(self.path, f"the value of {key!r} has arrays nested deeper than {_MAX_NESTING}")
        kind = self.uint32()
        if kind == STRING_TYPE:
            return self.strings(self.count(f"strings in {key!r}", 8))
        if kind == ARRAY_TYPE:
            return [self._array(key, nesting + 1) for _ in range(self.count(f"arrays in {key!r}", 12))]
        return self._numbers(kind, self.count(f"numbers in {key!r}", 1), key)

    def _numbers(self, kind: int, count: int, key: str) -> NDArray[Any]:
        dtype = NUMBER_TYPES.get(kind)
        if dtype is None:
            raise _damaged(self.path, f"the value of {key!r} has the unknown type {kind}")
        start = self.skip(count * dtype.itemsize)
        raw = self._data[start : self.position].copy()
        if dtype.kind == "b" and count and raw.max() > 1:
            raise _damaged(self.path, f"the value of {key!r} is neither true nor false")
        return raw.view(dtype)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the tensor directory. `offset` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @staticmethod
    def read(cursor: _Cursor) -> _Entry:
        name = cursor.name("tensor name")
        num_dimensions = cursor.uint32()
        if num_dimensions > _MAX_DIMENSIONS:
            raise _damaged(cursor.path, f"tensor {name!r} has {num_dimensions} dimensions, at most 4 are allowed")
        dimensions = [cursor.uint64() for _ in range(num_dimensions)]
        return _Entry(name, tuple(reversed(dimensions)), cursor.uint32(), cursor.uint64())


def _codec(path: Path, entry: _Entry) -> Codec:
    codec = CODECS_BY_GGML_TYPE.get(entry.kind)
    if codec is not None:
        return codec
    tensor = f"{path}: tensor {entry.name!r}"
    if entry.kind in _BUFFER_TYPES:
        name, item_bytes = _BUFFER_TYPES[entry.kind]
        return opaque_codec(name, item_bytes, f"{tensor} is {name}, which headrace cannot compute with")
    if entry.kind > _LARGEST_TYPE_NUMBER:
        raise _damaged(path, f"tensor {entry.name!r} has the absurd type {entry.kind}")
    name = _UNREAD_TYPES.get(entry.kind, f"number {entry.kind}")
    known = ", ".join(name.upper() for name in CODECS)
    raise UnsupportedModel(f"{tensor} has GGML type {name}, which headrace does not read; use a file with {known}")


def _tensors(
    path: Path, data: NDArray[np.uint8], entries: list[_Entry], header_end: int, alignment: int
) -> dict[str, Tensor]:
    """Views of the data section; checks every name, shape and extent."""
    data_start = header_end + -header_end % alignment
    tensors: dict[str, Tensor] = {}
    extents: list[tuple[int, int, str]] = []
    for entry in entries:
        name, shape, codec = entry.name, entry.shape or (1,), _codec(path, entry)
        if name in tensors:
            raise _damaged(path, f"tensor {name!r} is there twice")
        if min(shape) < 1 or shape[-1] % codec.block_size:
            raise _damaged(path, f"tensor {name!r} has shape {list(shape)}, impossible for {codec.name}")
        if entry.offset % alignment:
            raise _damaged(path, f"tensor {name!r} has offset {entry.offset}, not a multiple of {alignment}")
        row_bytes, start = codec.row_bytes(shape[-1]), data_start + entry.offset
        end = start + prod(shape[:-1]) * row_bytes
        if end > len(data):
            raise _damaged(
                path,
                f"it has {len(data):,} bytes, tensor {name!r} would end at {end:,}, so it is truncated or malformed",
            )
        extents.append((start, end, name))
        tensors[name] = Tensor(name, codec, shape, data[start:end].reshape(*shape[:-1], row_bytes))
    _check_no_overlap(path, extents)
    return tensors


def _check_no_overlap(path: Path, extents: list[tuple[int, int, str]]) -> None:
    extents = sorted(extents)
    for (_, end, name), (start, _, next_name) in pairwise(extents):
        if start < end:
            raise _damaged(path, f"tensors {name!r} and {next_name!r} overlap")
