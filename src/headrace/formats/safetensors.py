"""safetensors files: one file, or a folder with one file or several and their index. Nothing is copied to read them.

A file is a 64-bit length, a JSON header of that length, and the tensors' bytes without gaps. Source: the format's
description at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DamagedFile, ModelError, ModelNotFound, UnsupportedModel
from headrace.formats.codecs import BF16, F16, F32, Codec, opaque_codec
from headrace.formats.storage import describe_start, map_file, replacing
from headrace.formats.tensor import Tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FLOATS: Mapping[str, Codec] = MappingProxyType({"F32": F32, "F16": F16, "BF16": BF16})
_BUFFERS: Mapping[str, int] = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}
)
"""Types of buffers (masks, position ids) that are listed but cannot be computed with, and their bytes."""

_OTHER_FORMATS = (".bin", ".bin.index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
_LONGEST_HEADER = 100_000_000
_LARGEST_SIZE = 1 << 62
_MOST_DIMENSIONS = 32


def open_safetensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file, or of a folder's model.safetensors or model.safetensors.index.json, by name.

    Integer, bool and f64 tensors, such as the attention masks in old checkpoints, are listed too; decoding one raises
    UnsupportedModel.

    Raises:
        ModelNotFound: there is no such file, or no weights in the folder.
        ModelError: a file or folder cannot be read.
        UnsupportedModel: weights in another format, or of a type that headrace does not read (float8 …).
        DamagedFile: a file is truncated, malformed or contradicts itself or the index.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            return _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
        for name, open_it in ((SINGLE_FILE, _open_file), (INDEX_FILE, _open_index)):
            if (path / name).exists():
                return open_it(path / name)
        raise _no_weights(path, sorted(entry.name for entry in path.iterdir()))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}); check its permissions") from error


def _no_weights(folder: Path, names: list[str]) -> ModelError:
    lacks = f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}"
    if others := [name for name in names if name.endswith(".safetensors")]:
        return ModelNotFound(f"{lacks}, only {_some(others)}; download the missing file or give one of these")
    if others := [name for name in names if name.endswith(_OTHER_FORMATS)]:
        return UnsupportedModel(
            f"{folder} has its weights only as {_some(others)}; convert them to safetensors: load the model with"
            " transformers and call save_pretrained"
        )
    return ModelNotFound(f"{lacks}; download the model again")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _damaged(path: Path, what: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {what}; download it again")


# Shards


def _open_index(path: Path) -> dict[str, Tensor]:
    index = _parse_json(path, map_file(path))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(path, "it has no weight_map")
    for name, filename in weight_map.items():
        if not isinstance(filename, str) or Path(filename).name != filename:
            raise _damaged(path, f"tensor {name!r} lies in {filename!r}, expected the name of a file beside it")
    tensors: dict[str, Tensor] = {}
    home: dict[str, str] = {}
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise ModelNotFound(f"{path.parent} lacks {_some(missing)}, which {path.name} names; download the model again")
    for shard in shards:
        for name, tensor in _open_file(path.parent / shard).items():
            if name in home:
                raise _damaged(path.parent / shard, f"tensor {name!r} is in {home[name]} too")
            tensors[name], home[name] = tensor, shard
    for name, shard in weight_map.items():
        if home.get(name) != shard:
            raise _damaged(path, f"tensor {name!r} is not in {shard}")
    return tensors


# One file


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor's line in the header; `begin` and `end` count from the end of the header."""

    name: str
    codec: Codec
    shape: tuple[int, ...]
    begin: int
    end: int


def _open_file(path: Path) -> dict[str, Tensor]:
    data = map_file(path)
    header_end = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 9 or data[8] != ord("{"):
        raise DamagedFile(f"{path} is not a safetensors file: {describe_start(data)}")
    if header_end > len(data) or header_end > _LONGEST_HEADER + 8:
        raise _damaged(
            path, f"its header would end at byte {header_end:,} of {len(data):,}, so it is truncated or malformed"
        )
    header = _parse_json(path, data[8:header_end])
    header.pop("__metadata__", None)
    entries = [_read_entry(path, name, fields) for name, fields in header.items()]
    _check_extents(path, entries, len(data) - header_end)
    return {entry.name: _tensor(entry, data[header_end + entry.begin : header_end + entry.end]) for entry in entries}


def _tensor(entry: _Entry, data: NDArray[np.uint8]) -> Tensor:
    row_bytes = entry.codec.row_bytes(entry.shape[-1] if entry.shape else 1)
    return Tensor(entry.name, entry.codec, entry.shape, data.reshape(*entry.shape[:-1], row_bytes))


def _parse_json(path: Path, data: NDArray[np.uint8]) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in pairs:
            if name in fields:
                raise _damaged(path, f"{name!r} is there twice")
            fields[name] = value
        return fields

    try:
        value = json.loads(str(data.data, "utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its JSON cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, "its JSON is not an object")
    return value


def _read_entry(path: Path, name: str, fields: Any) -> _Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"the entry of tensor {name!r} is not a dtype, a shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"the dtype, shape or data_offsets of tensor {name!r} are malformed")
    begin, end = offsets
    codec = _codec(path, name, dtype)
    if len(shape) > _MOST_DIMENSIONS or prod(size or 1 for size in shape) * codec.block_bytes > _LARGEST_SIZE:
        raise _damaged(path, f"tensor {name!r} has the absurd shape {str(shape)[:80]}")
    if end - begin != prod(shape) * codec.block_bytes:
        raise _damaged(path, f"tensor {name!r} has {end - begin:,} bytes, its shape {shape} in {dtype} needs others")
    return _Entry(name, codec, tuple(shape), begin, end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _LARGEST_SIZE for value in values)


def _codec(path: Path, name: str, dtype: str) -> Codec:
    if dtype in _FLOATS:
        return _FLOATS[dtype]
    if dtype in _BUFFERS:
        why = (
            f"{path}: tensor {name!r} is {dtype}, headrace computes with F32, F16 and BF16; convert it to one of these"
        )
        return opaque_codec(dtype.lower(), _BUFFERS[dtype], why)
    raise UnsupportedModel(
        f"{path}: tensor {name!r} is {dtype[:40]!r}, headrace reads F32, F16 and BF16; use an unquantised model"
    )


def _check_extents(path: Path, entries: list[_Entry], size: int) -> None:
    """The tensors must fill the data section of `size` bytes from end to end, without gap or overlap."""
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            problem = "overlaps another" if entry.begin < position else "leaves a gap before it"
            raise _damaged(path, f"tensor {entry.name!r} {problem}")
        position = entry.end
    if position != size:
        raise _damaged(
            path, f"its tensors take {position:,} bytes, the file has {size:,}, so it is truncated or malformed"
        )


# Writing


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write f32, f16 and bf16 tensors, named by their keys; the file appears only when it is complete.

    Widest types go first and the header is padded, so that every tensor is aligned to its type.

    Raises:
        ValueError: a tensor of another codec, or a name or metadata that the format does not allow.
        ModelError: the file cannot be written.
    """
    if "__metadata__" in tensors:
        raise ValueError("a tensor is named '__metadata__', which safetensors reserves; rename it")
    names = {codec.name: dtype for dtype, codec in _FLOATS.items()}
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(text, str) for text in chain.from_iterable(metadata.items())):
            raise ValueError("metadata of a safetensors file maps strings to strings")
        header["__metadata__"] = dict(metadata)
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].codec.block_bytes, item[0]))
    begin = 0
    for name, tensor in ordered:
        if tensor.codec.name not in names:
            raise ValueError(
                f"tensor {name!r} is {tensor.codec.name}, safetensors takes f32, f16 and bf16; write a GGUF file"
            )
        offsets = [begin, begin := begin + tensor.nbytes]
        header[name] = {"dtype": names[tensor.codec.name], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(Path(path)) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor.data).data)
