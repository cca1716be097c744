"""Writing GGUF files, version 3."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.formats.gguf import ARRAY_TYPE, DEFAULT_ALIGNMENT, NUMBER_TYPES, STRING_TYPE
from headrace.formats.storage import replacing
from headrace.formats.tensor import Tensor

_LONGEST_NAME = 63
"""Bytes of a tensor's name that every GGUF reader takes."""


def write_gguf(path: Path | str, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a GGUF file; it appears under its name only when it is complete.

    Metadata values: str; bool; int (as uint32 where it fits, else int32, uint64, int64); float (as float32, GGUF's
    habit); a numpy number or array (its own type, rows as nested arrays); a non-empty list of these, all of one kind,
    where a list of int is int32 if that fits. Tensors are named by their keys.

    Raises:
        ValueError: a value or tensor that GGUF has no type for.
        ModelError: the file cannot be written.
    """
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment}, expected a power of two")
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    header += [_string(key) + _value(key, value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        header.append(_directory_entry(name, tensor, offset))
        offset += tensor.nbytes + -tensor.nbytes % alignment
    with replacing(Path(path)) as file:
        _write_padded(file, b"".join(header), alignment)
        for tensor in tensors.values():
            _write_padded(file, np.ascontiguousarray(tensor.data).data, alignment)


def _write_padded(file: BinaryIO, data: bytes | memoryview, alignment: int) -> None:
    file.write(data)
    file.write(bytes(-file.tell() % alignment))


def _directory_entry(name: str, tensor: Tensor, offset: int) -> bytes:
    if tensor.codec.ggml_type is None:
        raise ValueError(f"tensor {name!r} is {tensor.codec.name}, which GGUF has no type for")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"tensor name {name!r} is longer than {_LONGEST_NAME} bytes")
    if not 1 <= len(tensor.shape) <= 4 or min(tensor.shape) < 1:
        raise ValueError(f"tensor {name!r} has shape {list(tensor.shape)}, expected 1 to 4 dimensions, none empty")
    dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
    return _string(name) + dimensions + struct.pack("<IQ", tensor.codec.ggml_type, offset)


def _string(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> bytes:
    """A type number and the value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING_TYPE) + _string(value)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return struct.pack("<I", ARRAY_TYPE) + _array(key, value)
    number = value if isinstance(value, np.ndarray) else _numbers(key, [value], ["<u4", "<i4", "<u8", "<i8"])
    kind = _type_number(key, number)
    return struct.pack("<I", kind) + number.astype(NUMBER_TYPES[kind]).tobytes()


def _array(key: str, values: NDArray[Any] | Sequence[Any]) -> bytes:
    """The items' type number, their count and the items."""
    if len(values) and all(isinstance(value, str) for value in values):
        return struct.pack("<IQ", STRING_TYPE, len(values)) + b"".join(map(_string, values))
    if len(values) and all(isinstance(value, (np.ndarray, list, tuple)) for value in values):
        return struct.pack("<IQ", ARRAY_TYPE, len(values)) + b"".join(_array(key, value) for value in values)
    numbers = values if isinstance(values, np.ndarray) else _numbers(key, values, ["<i4", "<u4", "<i8", "<u8"])
    kind = _type_number(key, numbers)
    return struct.pack("<IQ", kind, len(numbers)) + numbers.astype(NUMBER_TYPES[kind]).tobytes()


def _numbers(key: str, values: Sequence[Any], integer_types: Sequence[str]) -> NDArray[Any]:
    """Python numbers of one kind in the first type that holds them; numpy's in their own."""
    kinds = {bool if isinstance(value, np.bool_) else type(value) for value in values}
    if len(kinds) != 1:
        raise ValueError(f"metadata {key!r} is an array of nothing or of mixed types, expected one kind of value")
    kind = kinds.pop()
    if kind is float:
        return np.array(values, "<f4")
    if kind is int:
        for code in integer_types:
            limits = np.iinfo(code)
            if limits.min <= min(values) and max(values) <= limits.max:
                return np.array(values, code)
    if kind is bool or issubclass(kind, np.generic):
        return np.array(values)
    raise ValueError(f"metadata {key!r} is {values[0]!r}, which GGUF has no type for")


def _type_number(key: str, numbers: NDArray[Any]) -> int:
    for number, dtype in NUMBER_TYPES.items():
        if dtype == numbers.dtype.newbyteorder("<"):
            return number
    raise ValueError(f"metadata {key!r} is of numpy type {numbers.dtype}, which GGUF has no type for")
