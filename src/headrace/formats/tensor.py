"""A tensor as it lies in a file: bytes, a shape and the codec that gives them meaning.

Blocks of a codec run along the last axis, so whole rows can be cut, permuted and stacked without decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.formats.codecs import Codec


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` is uint8 of shape [*shape[:-1], bytes per row], usually a read-only view of a memory-mapped file.

    A tensor of shape () has one value, so its data is [bytes of a value].
    """

    name: str
    codec: Codec
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Size of the stored data."""
        return self.data.nbytes

    def decode(self) -> NDArray[np.float32]:
        """The values as float32 of `shape`."""
        return self.codec.decode(self.data).reshape(self.shape)

    def take_rows(self, rows: NDArray[np.integer] | slice) -> Tensor:
        """The given rows of the first axis, in the given order."""
        data = self.data[rows]
        return Tensor(self.name, self.codec, (data.shape[0], *self.shape[1:]), data)

    def expert(self, index: int) -> Tensor:
        """Entry `index` of the first axis: [experts, rows, columns] → [rows, columns]."""
        return Tensor(f"{self.name}[{index}]", self.codec, self.shape[1:], self.data[index])

    def transpose(self) -> Tensor:
        """[columns, rows] of a 2-D tensor; only for codecs without blocks.

        Raises:
            AssertionError: the codec has blocks.
        """
        assert self.codec.block_size == 1
        assert len(self.shape) == 2
        item = self.codec.block_bytes
        words = self.data.reshape(*self.shape, item)
        data = np.ascontiguousarray(words.transpose(1, 0, 2)).reshape(self.shape[1], self.shape[0] * item)
        return Tensor(self.name, self.codec, self.shape[::-1], data)

    @staticmethod
    def from_array(name: str, array: NDArray[np.float32]) -> Tensor:
        """A float32 tensor of the given values."""
        from headrace.formats.codecs import F32

        values = np.asarray(array, dtype=np.float32, order="C")
        data = values.reshape(*values.shape[:-1], values.shape[-1] if values.ndim else 1).view(np.uint8)
        return Tensor(name, F32, values.shape, data)
