"""Tables of rope's cos and sin, in the float32 arithmetic of the code that the models were trained with.

Frequencies, the product position * frequency, and cos and sin are each rounded to float32: at position 100,000 a
model sees the rounding, so it is part of the model.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from headrace.model.spec import (
    DivisorScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    RopeSpec,
    YarnScaling,
)
from headrace.ops.base import Ops, RopeTable
from headrace.types import FloatArray

CHUNK = 1024
"""Positions computed at a time. Always whole chunks, so that no row depends on how far a table has grown."""


def frequencies(rope: RopeSpec) -> list[FloatArray]:
    """Radians per position, [rotated / 2] float32, for each variant."""
    exponents = np.arange(0, rope.rotated, 2).astype(np.float32) / np.float32(rope.rotated)
    powers: FloatArray = np.power(np.float64(rope.theta), exponents.astype(np.float64)).astype(np.float32)
    plain: FloatArray = np.float32(1) / powers
    match rope.scaling:
        case None:
            return [plain]
        case LinearScaling(factor):
            return [plain / np.float32(factor)]
        case DivisorScaling(divisors):
            given: FloatArray = np.asarray(divisors, np.float32)
            return [plain / given]
        case Llama3Scaling():
            return [_llama3(plain, rope.scaling)]
        case YarnScaling():
            return [_yarn(powers, rope, rope.scaling)]
        case LongRopeScaling(short_divisors, long_divisors):
            pair = (np.asarray(divisors, np.float32) for divisors in (short_divisors, long_divisors))
            return [np.float32(1) / (divisors * powers) for divisors in pair]


def _llama3(plain: FloatArray, scaling: Llama3Scaling) -> FloatArray:
    factor, low, high = (np.float32(x) for x in (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor))
    context = scaling.original_context
    wavelength = np.float32(2 * math.pi) / plain
    is_long = wavelength > np.float32(context / scaling.low_freq_factor)
    is_short = wavelength < np.float32(context / scaling.high_freq_factor)
    smooth = (np.float32(context) / wavelength - low) / np.float32(scaling.high_freq_factor - scaling.low_freq_factor)
    assert high != low
    between = (np.float32(1) - smooth) * plain / factor + smooth * plain
    return np.where(is_long, plain / factor, np.where(is_short, plain, between))


def _yarn(powers: FloatArray, rope: RopeSpec, scaling: YarnScaling) -> FloatArray:
    def dimension_of(rotations: float) -> float:
        wavelengths = scaling.original_context / (rotations * 2 * math.pi)
        return rope.rotated * math.log(wavelengths) / (2 * math.log(rope.theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotated - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp
    steps = np.arange(rope.rotated // 2, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    kept = np.float32(1) - ramp
    interpolated = np.float32(1) / (np.float32(scaling.factor) * powers)
    extrapolated = np.float32(1) / powers
    mixed: FloatArray = interpolated * (np.float32(1) - kept) + extrapolated * kept
    return mixed


def _magnitude(rope: RopeSpec) -> np.float32:
    return np.float32(rope.scaling.magnitude if isinstance(rope.scaling, YarnScaling | LongRopeScaling) else 1.0)


class RopeTables:
    """One RopeTable for each of a model's ropes, made longer as longer sequences come.

    Row position * num_rope_variants + variant holds a position's angles (see Decoder.rope_rows).
    """

    def __init__(self, spec: ModelSpec, ops: Ops) -> None:
        self._ops = ops
        self._ropes = spec.ropes
        self._num_variants = spec.num_rope_variants
        self._frequencies = [frequencies(rope) for rope in spec.ropes]
        self._values = [np.empty((2, 0, rope.rotated // 2), np.float32) for rope in spec.ropes]
        self.num_rows = 0
        self.tables: tuple[RopeTable, ...] = ()

    def grow(self, num_rows: int) -> bool:
        """Make rows 0 … num_rows - 1 available (and as many again, so that growth is rare).

        True if that replaced `tables`.
        """
        if num_rows <= self.num_rows or not self._ropes:
            return False
        rows_per_chunk = CHUNK * self._num_variants
        have = self.num_rows // rows_per_chunk
        need = max(-(-num_rows // rows_per_chunk), 2 * have)
        for index, values in enumerate(self._values):
            chunks = [self._chunk(index, number) for number in range(have, need)]
            self._values[index] = np.concatenate([values, *chunks], axis=1)
        self.tables = tuple(RopeTable(self._ops.vector(cos), self._ops.vector(sin)) for cos, sin in self._values)
        self.num_rows = need * rows_per_chunk
        return True

    def _chunk(self, index: int, number: int) -> NDArray[np.float32]:
        """cos and sin of one chunk of positions: [2, CHUNK * variants, rotated / 2]."""
        positions = np.arange(number * CHUNK, (number + 1) * CHUNK, dtype=np.float32)
        variants = self._frequencies[index]
        variants = variants * (self._num_variants // len(variants))
        angles = np.stack([positions[:, None] * each for each in variants], axis=1)
        angles = angles.reshape(-1, angles.shape[-1]).astype(np.float64)  # the product is float32; cos of it is exact
        values = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
        return values * _magnitude(self._ropes[index])
