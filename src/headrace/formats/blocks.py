"""The block layouts of GGML's quantised types, and how each turns into numbers.

A quantised row is a run of blocks; a block holds a few scales and many small integers. Each layout below is a packed
little-endian record, and its unpack function computes the values of n such records into `out` [n, values in a block]
float32. The order of the float operations is part of the format: it decides the last bit.

Source: the layouts are those published with GGML (ggml-common.h); "scale" and "minimum" are its d and dmin (or m).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Blocks: TypeAlias = NDArray[np.void]
"""[n] records of one layout."""

Q8_0 = np.dtype([("scale", "<f2"), ("values", "i1", 32)])
Q4_0 = np.dtype([("scale", "<f2"), ("low", "u1", 16)])
Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("low", "u1", 16)])
Q5_0 = np.dtype([("scale", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
Q5_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
Q2_K = np.dtype([("scales", "u1", 16), ("low", "u1", 64), ("scale", "<f2"), ("minimum", "<f2")])
Q3_K = np.dtype([("high", "u1", 32), ("low", "u1", 64), ("scales", "u1", 12), ("scale", "<f2")])
Q4_K = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("scales", "u1", 12), ("low", "u1", 128)])
Q5_K = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("scales", "u1", 12), ("high", "u1", 32), ("low", "u1", 128)])
Q6_K = np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("scale", "<f2")])
IQ4_NL = np.dtype([("scale", "<f2"), ("low", "u1", 16)])
IQ4_XS = np.dtype([("scale", "<f2"), ("scales_high", "u1", 2), ("scales_low", "u1", 4), ("low", "u1", 128)])
MXFP4 = np.dtype([("exponent", "u1"), ("low", "u1", 16)])

_IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_IQ4_LEVELS.flags.writeable = False
"""What the 16 codes of IQ4_NL and IQ4_XS stand for."""

_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_E2M1_DOUBLED.flags.writeable = False
"""The 16 values of the 4-bit float E2M1, times two (OCP Microscaling Formats v1.0); code 8 is plain zero."""


def _spread(packed: NDArray[np.uint8], run: int, bits: int) -> NDArray[np.uint8]:
    """Take apart bytes that hold 8 / bits small integers each: [n, bytes] → [n, bytes * 8 / bits].

    Bytes come in runs: the lowest bits of a whole run are consecutive values, then the next bits of the same run.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    fields = packed.reshape(len(packed), -1, 1, run) >> shifts
    fields &= np.uint8((1 << bits) - 1)
    return fields.reshape(len(packed), packed.shape[1] * 8 // bits)


def _float(blocks: Blocks, field: str) -> Floats:
    """A field of one half-precision number as [n, 1] float32."""
    return blocks[field].astype(np.float32)[:, None]


def _five_bits(blocks: Blocks) -> NDArray[np.uint8]:
    """[n, 32] from the low nibbles and the 32-bit string of fifth bits of Q5_0 and Q5_1."""
    fifth = np.unpackbits(blocks["high"], axis=1, bitorder="little")
    return _spread(blocks["low"], 16, 4) | (fifth << np.uint8(4))


def _scales_and_minimums(blocks: Blocks) -> tuple[Floats, Floats]:
    """Scale and minimum of each of the eight sub-blocks of Q4_K and Q5_K, both [n, 8, 1].

    Twelve bytes hold sixteen 6-bit numbers. Of sub-blocks 0-3 they lie in the low six bits of bytes 0-3 (scales) and
    4-7 (minimums); of sub-blocks 4-7 the low four bits share bytes 8-11 and the high two top up bytes 0-7.
    """
    first, second, third = np.split(blocks["scales"], 3, axis=1)
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return (_float(blocks, "scale") * scales)[..., None], (_float(blocks, "minimum") * minimums)[..., None]


def _write(out: Floats, scales: Floats, codes: NDArray[Any], minimums: Floats | None = None) -> None:
    """out = scales * codes (- minimums) over sub-blocks: scales and minimums [n, sub-blocks, 1], codes [n, values]."""
    grouped = out.reshape(len(out), scales.shape[1], -1)
    np.multiply(scales, codes.reshape(grouped.shape), out=grouped)
    if minimums is not None:
        grouped -= minimums


def unpack_q8_0(blocks: Blocks, out: Floats) -> None:
    """32 signed bytes."""
    np.multiply(blocks["values"], _float(blocks, "scale"), out=out)


def unpack_q4_0(blocks: Blocks, out: Floats) -> None:
    """32 nibbles, offset by 8."""
    codes = _spread(blocks["low"], 16, 4).view(np.int8) - np.int8(8)
    np.multiply(_float(blocks, "scale"), codes, out=out)


def unpack_q4_1(blocks: Blocks, out: Floats) -> None:
    """32 nibbles above a minimum."""
    np.multiply(_float(blocks, "scale"), _spread(blocks["low"], 16, 4), out=out)
    out += _float(blocks, "minimum")


def unpack_q5_0(blocks: Blocks, out: Floats) -> None:
    """32 five-bit codes, offset by 16."""
    np.multiply(_float(blocks, "scale"), _five_bits(blocks).view(np.int8) - np.int8(16), out=out)


def unpack_q5_1(blocks: Blocks, out: Floats) -> None:
    """32 five-bit codes above a minimum."""
    np.multiply(_float(blocks, "scale"), _five_bits(blocks), out=out)
    out += _float(blocks, "minimum")


def unpack_q2_k(blocks: Blocks, out: Floats) -> None:
    """Sixteen sub-blocks of 16; a 4-bit scale and a 4-bit minimum share a byte."""
    scales = _float(blocks, "scale") * (blocks["scales"] & 15)
    minimums = _float(blocks, "minimum") * (blocks["scales"] >> 4)
    _write(out, scales[..., None], _spread(blocks["low"], 32, 2), minimums[..., None])


def unpack_q3_k(blocks: Blocks, out: Floats) -> None:
    """Sixteen sub-blocks of 16 with 6-bit signed scales; a set high bit stands for 0, a clear one for -4."""
    low_bits, high_bits = _spread(blocks["scales"][:, :8], 8, 4), _spread(blocks["scales"][:, 8:], 4, 2)
    scales = _float(blocks, "scale") * ((low_bits | (high_bits << np.uint8(4))).view(np.int8) - np.int8(32))
    codes = _spread(blocks["low"], 32, 2) | (_spread(blocks["high"], 32, 1) << np.uint8(2))
    _write(out, scales[..., None], codes.view(np.int8) - np.int8(4))


def unpack_q4_k(blocks: Blocks, out: Floats) -> None:
    """Eight sub-blocks of 32 nibbles, each above a minimum."""
    scales, minimums = _scales_and_minimums(blocks)
    _write(out, scales, _spread(blocks["low"], 32, 4), minimums)


def unpack_q5_k(blocks: Blocks, out: Floats) -> None:
    """Eight sub-blocks of 32; bit s of the high bytes belongs to sub-block s."""
    scales, minimums = _scales_and_minimums(blocks)
    codes = _spread(blocks["low"], 32, 4) | (_spread(blocks["high"], 32, 1) << np.uint8(4))
    _write(out, scales, codes, minimums)


def unpack_q6_k(blocks: Blocks, out: Floats) -> None:
    """Sixteen sub-blocks of 16 with 8-bit signed scales."""
    scales = _float(blocks, "scale") * blocks["scales"]
    codes = _spread(blocks["low"], 64, 4) | (_spread(blocks["high"], 32, 2) << np.uint8(4))
    _write(out, scales[..., None], codes.view(np.int8) - np.int8(32))


def unpack_iq4_nl(blocks: Blocks, out: Floats) -> None:
    """32 nibbles that pick one of 16 uneven levels."""
    np.multiply(_float(blocks, "scale"), _IQ4_LEVELS[_spread(blocks["low"], 16, 4)], out=out)


def unpack_iq4_xs(blocks: Blocks, out: Floats) -> None:
    """Eight sub-blocks of 32 with 6-bit signed scales."""
    scale_bits = _spread(blocks["scales_low"], 1, 4) | (_spread(blocks["scales_high"], 1, 2) << np.uint8(4))
    scales = _float(blocks, "scale") * (scale_bits.view(np.int8) - np.int8(32))
    _write(out, scales[..., None], _IQ4_LEVELS[_spread(blocks["low"], 16, 4)])


def unpack_mxfp4(blocks: Blocks, out: Floats) -> None:
    """The scale is a bare power of two, 2^(exponent - 127), halved because the table of values is doubled."""
    scale = np.ldexp(np.float32(1), blocks["exponent"].astype(np.int32) - 128)[:, None]
    np.multiply(scale, _E2M1_DOUBLED[_spread(blocks["low"], 16, 4)], out=out)
