"""Codecs: what the bytes of a weight mean. One row of the table at the end for each format that headrace reads.

A codec cuts a row of values into blocks of `block_size` values, each stored in `block_bytes` bytes; plain floats are
blocks of one. Decoding is exact to the bit for every format; the block layouts are in `headrace.formats.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.errors import UnsupportedModel
from headrace.formats import blocks
from headrace.formats.blocks import Blocks, Floats

Bytes: TypeAlias = NDArray[np.uint8]
Decode: TypeAlias = Callable[[Bytes], Floats]
Encode: TypeAlias = Callable[[Floats], Bytes]
Unpack: TypeAlias = Callable[[Blocks, Floats], None]
Pack: TypeAlias = Callable[[Floats, Blocks], None]

_CHUNK_VALUES = 1 << 18
"""Values handled at a time, so that intermediate arrays stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to store numbers.

    `decode` maps uint8 [..., bytes] to float32 [..., values]; it may return a read-only view of its input. `encode` is
    its inverse up to rounding, from float32 [..., values], or None where headrace only reads the format; it raises
    UnsupportedModel for values that the format cannot hold (NaN or infinity in a block format, overflow). Both need
    whole blocks along the last axis.
    """

    name: str
    block_size: int
    block_bytes: int
    decode: Decode = field(repr=False, compare=False)
    encode: Encode | None = field(default=None, repr=False, compare=False)
    ggml_type: int | None = None
    """The type's number in a GGUF file."""

    def row_bytes(self, num_values: int) -> int:
        """Bytes of a row of that many values, which must be whole blocks."""
        assert num_values % self.block_size == 0
        return num_values // self.block_size * self.block_bytes


def opaque_codec(name: str, item_bytes: int, why: str) -> Codec:
    """A codec for data that no model should compute with, such as integer buffers: decoding raises `why`.

    It lets a tensor be listed, counted and left alone; only its use is an error.
    """
    return Codec(name, 1, item_bytes, partial(_refuse, why))


def _refuse(why: str, _data: Bytes) -> NoReturn:
    raise UnsupportedModel(why)


# Plain floats


def _decode_f32(data: Bytes) -> Floats:
    values = np.ascontiguousarray(data).view("<f4")
    return values.astype(np.float32, copy=not values.flags.aligned)


def _decode_f16(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _decode_bf16(data: Bytes) -> Floats:
    values = np.ascontiguousarray(data).view("<u2").astype(np.uint32)
    values <<= np.uint32(16)
    return values.view(np.float32)


def _as_bytes(values: NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8)


def _encode_f32(values: Floats) -> Bytes:
    return _as_bytes(values.astype("<f4", copy=False))


def _encode_f16(values: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.any(np.isinf(halves) & np.isfinite(values)):
        raise UnsupportedModel(
            "weights are larger than 65,504, which f16 cannot hold; keep them as they are or use bf16"
        )
    return _as_bytes(halves)


def _encode_bf16(values: Floats) -> Bytes:
    """Round to nearest, ties to even; NaN stays NaN (quiet), finite values may round to infinity as IEEE says."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return _as_bytes(np.where(np.isnan(values), quiet, rounded).astype("<u2"))


# Blocks


def _decode_blocks(layout: np.dtype[np.void], size: int, unpack: Unpack, data: Bytes) -> Floats:
    assert data.shape[-1] % layout.itemsize == 0
    records = np.ascontiguousarray(data).reshape(-1).view(layout)
    values = np.empty((len(records), size), np.float32)
    step = _CHUNK_VALUES // size
    with np.errstate(all="ignore"):  # scales may be NaN or infinite; they decode to what IEEE arithmetic gives
        for start in range(0, len(records), step):
            unpack(records[start : start + step], values[start : start + step])
    return values.reshape(*data.shape[:-1], data.shape[-1] // layout.itemsize * size)


def _encode_blocks(layout: np.dtype[np.void], size: int, pack: Pack, values: Floats) -> Bytes:
    assert values.shape[-1] % size == 0
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, size)
    records = np.empty(len(rows), layout)
    step = _CHUNK_VALUES // size
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            pack(rows[start : start + step], records[start : start + step])
    return records.view(np.uint8).reshape(*values.shape[:-1], values.shape[-1] // size * layout.itemsize)


def _store_scale(scale: Floats, records: Blocks, name: str) -> Floats:
    """Store scale [n, 1] as half precision; returns its inverse [n, 1], 0 where the block is all zero in effect.

    As in GGML, values are divided by the scale before its rounding to half precision.
    """
    records["scale"] = scale[:, 0]
    if not np.isfinite(records["scale"]).all():
        raise UnsupportedModel(
            f"weights hold NaN, infinity or numbers too large for {name}; load the model without quantizing it"
        )
    inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _pack_q8_0(values: Floats, records: Blocks) -> None:
    """Scale = largest magnitude / 127; values round half away from zero."""
    inverse = _store_scale(np.abs(values).max(axis=1, keepdims=True) / np.float32(127), records, "q8_0")
    scaled = values * inverse
    whole = np.trunc(scaled)
    whole += np.sign(scaled) * (np.abs(scaled - whole) >= 0.5)
    records["values"] = whole.astype(np.int8)


def _pack_q4_0(values: Floats, records: Blocks) -> None:
    """Scale = the (first) value of largest magnitude / -8, so that this value is exact; codes are offset by 8."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    inverse = _store_scale(largest / np.float32(-8), records, "q4_0")
    codes = np.minimum(values * inverse + np.float32(8.5), np.float32(15)).astype(np.uint8)
    records["low"] = codes[:, :16] | (codes[:, 16:] << np.uint8(4))


# The table


def _block_codec(
    name: str, layout: np.dtype[np.void], size: int, ggml_type: int, *, unpack: Unpack, pack: Pack | None = None
) -> Codec:
    decode = partial(_decode_blocks, layout, size, unpack)
    encode = None if pack is None else partial(_encode_blocks, layout, size, pack)
    return Codec(name, size, layout.itemsize, decode, encode, ggml_type)


F32 = Codec("f32", 1, 4, _decode_f32, _encode_f32, 0)
F16 = Codec("f16", 1, 2, _decode_f16, _encode_f16, 1)
BF16 = Codec("bf16", 1, 2, _decode_bf16, _encode_bf16, 30)
Q8_0 = _block_codec("q8_0", blocks.Q8_0, 32, 8, unpack=blocks.unpack_q8_0, pack=_pack_q8_0)
Q4_0 = _block_codec("q4_0", blocks.Q4_0, 32, 2, unpack=blocks.unpack_q4_0, pack=_pack_q4_0)
Q4_1 = _block_codec("q4_1", blocks.Q4_1, 32, 3, unpack=blocks.unpack_q4_1)
Q5_0 = _block_codec("q5_0", blocks.Q5_0, 32, 6, unpack=blocks.unpack_q5_0)
Q5_1 = _block_codec("q5_1", blocks.Q5_1, 32, 7, unpack=blocks.unpack_q5_1)
Q2_K = _block_codec("q2_k", blocks.Q2_K, 256, 10, unpack=blocks.unpack_q2_k)
Q3_K = _block_codec("q3_k", blocks.Q3_K, 256, 11, unpack=blocks.unpack_q3_k)
Q4_K = _block_codec("q4_k", blocks.Q4_K, 256, 12, unpack=blocks.unpack_q4_k)
Q5_K = _block_codec("q5_k", blocks.Q5_K, 256, 13, unpack=blocks.unpack_q5_k)
Q6_K = _block_codec("q6_k", blocks.Q6_K, 256, 14, unpack=blocks.unpack_q6_k)
IQ4_NL = _block_codec("iq4_nl", blocks.IQ4_NL, 32, 20, unpack=blocks.unpack_iq4_nl)
IQ4_XS = _block_codec("iq4_xs", blocks.IQ4_XS, 256, 23, unpack=blocks.unpack_iq4_xs)
MXFP4 = _block_codec("mxfp4", blocks.MXFP4, 32, 39, unpack=blocks.unpack_mxfp4)

_ALL = (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4)

CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in _ALL})
"""Every codec by name."""

CODECS_BY_GGML_TYPE: Mapping[int, Codec] = MappingProxyType(
    {codec.ggml_type: codec for codec in _ALL if codec.ggml_type is not None}
)
"""Every codec by its type number in a GGUF file."""
