"""Triton's binary tensor data: tensors that stand behind the JSON, in its order, in requests and in answers.

Numbers are little-endian; a text (BYTES) is its length as a UINT32, then its bytes. A header says where the JSON ends.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.json import encode

from headrace.errors import RequestError
from headrace.server.dialects.base import Answer, Incoming, JsonObject
from headrace.server.dialects.kserve.requests import InferFields, InputTensor

HEADER = "inference-header-content-length"
SIZE = "binary_data_size"

_FORMATS: Mapping[str, str] = {
    **{"BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"},
    **{"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d"},
}
_HALF = "BF16"
"""The upper half of an FP32"""
_LENGTH = struct.Struct("<I")
_MOST_VALUES = 65_536
"""Of a request's tensors together: a body of the largest size would be millions, and take seconds to read"""


@dataclass(frozen=True, slots=True)
class BinaryOutputs:
    """Which outputs of an answer stand behind its JSON."""

    by_default: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether this one does."""
        return self.named.get(name, self.by_default)


def json_size(incoming: Incoming) -> int:
    """How many bytes of a body are its JSON.

    Raises:
        RequestError: the header that says so is no number, or not one within the body.
    """
    given = incoming.headers.get(HEADER)
    if given is None:
        return len(incoming.body)
    size = int(given) if given.isascii() and given.isdecimal() and len(given) < 12 else -1
    if not 0 < size <= len(incoming.body):
        raise RequestError(f"{HEADER} is {given[:40]!r}, expected 1 to {len(incoming.body):,}, the body's size")
    return size


def fill(fields: InferFields, behind: bytes) -> None:
    """Give the inputs whose data stands behind the JSON that data.

    Raises:
        RequestError: there is too little or too much of it, or it is not what its datatype says.
    """
    begin = count = 0
    for index, one in enumerate(fields.inputs):
        size = (one.parameters or {}).get(SIZE)
        if size is None:
            continue
        path = f"inputs[{index}].parameters.{SIZE}"
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(behind) - begin:
            left = len(behind) - begin
            raise RequestError(f"{path} is {str(size)[:40]!r}, and {left:,} bytes are left behind the JSON", param=path)
        if one.data is not None:
            raise RequestError(f"{path} is given beside data; send one of them", param=path)
        one.data = _values(one, behind[begin : begin + size], f"inputs[{index}]", count)
        begin += size
        count += len(one.data)
    if begin < len(behind):
        raise RequestError(
            f"{len(behind) - begin:,} bytes behind the JSON are of no input; check {SIZE}", param="inputs"
        )


def answer(body: JsonObject, binary: BinaryOutputs) -> bytes | Answer:
    """An answer of infer, with the data of the outputs that are to be binary behind it."""
    behind = []
    for output in body["outputs"]:
        if binary.has(output["name"]):
            data = _bytes(output["datatype"], output.pop("data"))
            output["parameters"] = {SIZE: len(data)}
            behind.append(data)
    said = encode(body)
    if not behind:
        return said
    headers = {HEADER: str(len(said))}
    return Answer(body=said + b"".join(behind), media_type="application/octet-stream", headers=headers)


def _values(one: InputTensor, data: bytes, path: str, before: int) -> list[Any]:
    """What a tensor's bytes are, after `before` values of others."""
    if one.datatype == "BYTES":
        return _texts(data, path, before)
    kind = "H" if one.datatype == _HALF else _FORMATS.get(one.datatype)
    if kind is None:
        return []  # whoever reads the tensor refuses its datatype
    if len(data) % struct.calcsize(kind):
        raise RequestError(f"{path}: {len(data):,} bytes are no row of {one.datatype}", param=path)
    _check_count(before + len(data) // struct.calcsize(kind), path)
    if one.datatype == _HALF:
        kind, data = "f", b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    values = [value for (value,) in struct.iter_unpack(f"<{kind}", data)]
    if not all(map(math.isfinite, values)):
        raise RequestError(f"{path} has a number that is not finite", param=path)
    return values


def _texts(data: bytes, path: str, before: int) -> list[str]:
    texts: list[str] = []
    begin = 0
    while begin < len(data):
        _check_count(before + len(texts) + 1, path)
        start = begin + _LENGTH.size
        length = _LENGTH.unpack_from(data, begin)[0] if start <= len(data) else len(data)
        begin = start + length
        if begin > len(data):
            raise RequestError(f"{path}: the data ends within a text, which begins with its length", param=path)
        try:
            texts.append(data[start:begin].decode())
        except UnicodeDecodeError:
            raise RequestError(f"{path} has a text that is not valid UTF-8", param=path) from None
    return texts


def _check_count(count: int, path: str) -> None:
    if count > _MOST_VALUES:
        message = f"the request has more than {_MOST_VALUES:,} values behind its JSON, up to {path}; send fewer"
        raise RequestError(message, param=path)


def _bytes(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype != "BYTES":
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    texts = [str(value).encode("utf-8", "replace") for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
