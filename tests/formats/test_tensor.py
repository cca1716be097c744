"""Tensors: rows are cut, stacked and turned as bytes, and decode to what numpy makes of the values."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.formats.codecs import BF16, F16, F32, Q4_0, Q8_0, Codec
from headrace.formats.tensor import Tensor


def make(codec: Codec, *shape: int) -> Tensor:
    assert codec.encode is not None
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Tensor("t", codec, shape, codec.encode(values))


@pytest.mark.parametrize("codec", [F32, F16, BF16, Q8_0, Q4_0], ids=lambda codec: codec.name)
@pytest.mark.parametrize("rows", [np.array([4, 0, 0]), slice(1, 5, 2), slice(0)], ids=["list", "slice", "none"])
def test_rows_are_cut_without_decoding(codec: Codec, rows: np.ndarray | slice) -> None:
    tensor = make(codec, 6, 64)
    cut = tensor.take_rows(rows)
    assert cut.shape == cut.decode().shape
    np.testing.assert_array_equal(cut.decode(), tensor.decode()[rows])


@pytest.mark.parametrize("codec", [F32, Q8_0], ids=lambda codec: codec.name)
def test_an_expert_is_a_view(codec: Codec) -> None:
    tensor = make(codec, 3, 4, 32)
    expert = tensor.expert(2)
    assert (expert.name, expert.shape) == ("t[2]", (4, 32))
    assert np.shares_memory(expert.data, tensor.data)
    np.testing.assert_array_equal(expert.decode(), tensor.decode()[2])


@pytest.mark.parametrize("codec", [F32, F16, BF16], ids=lambda codec: codec.name)
def test_transpose(codec: Codec) -> None:
    tensor = make(codec, 3, 5)
    np.testing.assert_array_equal(tensor.transpose().decode(), tensor.decode().T)


def test_blocks_cannot_be_transposed() -> None:
    with pytest.raises(AssertionError):
        make(Q8_0, 32, 32).transpose()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0, 3), (3, 0)])
def test_from_array(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tensor = Tensor.from_array("t", values)
    assert (tensor.shape, tensor.nbytes) == (shape, values.nbytes)
    np.testing.assert_array_equal(tensor.decode(), values)


def test_from_array_of_a_view() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(Tensor.from_array("t", values).decode(), values)
