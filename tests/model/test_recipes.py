"""Recipes move rows and lose none, in whatever codec the rows are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.formats.codecs import CODECS
from headrace.formats.tensor import Tensor
from headrace.model.recipes import Experts, HeadRows, Interleaved, Rows, TransposedRows

SIZES = st.integers(1, 5)


def spec_of(heads: int, head_dim: int, rotated: int) -> Any:
    return SimpleNamespace(num_heads=heads, head_dim=head_dim, ropes=(SimpleNamespace(rotated=rotated),))


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def values(tensors: list[Tensor]) -> list[np.ndarray]:
    return [tensor.decode() for tensor in tensors]


@given(st.lists(SIZES, min_size=1, max_size=4), SIZES, st.booleans())
def test_rows_are_cut_in_order(counts: list[int], columns: int, is_vector: bool) -> None:
    shapes: list[tuple[int, ...]] = [(count,) if is_vector else (count, columns) for count in counts]
    recipe = Rows(*"abcd"[: len(counts)])
    source = numbered(*recipe.source_shape(shapes))
    parts = values(recipe.cut(Tensor.from_array("x", source), shapes, spec_of(1, 1, 0)))
    assert [part.shape for part in parts] == shapes
    np.testing.assert_array_equal(np.concatenate(parts), source)


@given(st.lists(SIZES, min_size=1, max_size=3), SIZES)
def test_transposed_rows(counts: list[int], columns: int) -> None:
    shapes = [(count, columns) for count in counts]
    recipe = TransposedRows(*"abc"[: len(counts)])
    source = numbered(*recipe.source_shape(shapes))
    parts = values(recipe.cut(Tensor.from_array("x", source), shapes, spec_of(1, 1, 0)))
    np.testing.assert_array_equal(np.concatenate(parts), source.T)


@given(SIZES, SIZES, SIZES)
def test_head_rows(heads: int, head_dim: int, columns: int) -> None:
    shapes = [(heads * head_dim, columns)] * 3
    source = numbered(heads, 3, head_dim, columns)
    tensor = Tensor.from_array("x", source.reshape(-1, columns))
    for index, part in enumerate(values(HeadRows(*"qkv").cut(tensor, shapes, spec_of(heads, head_dim, 0)))):
        np.testing.assert_array_equal(part, source[:, index].reshape(-1, columns))


@settings(max_examples=30)
@given(SIZES, SIZES, SIZES, st.sampled_from(["f32", "f16", "q8_0", None]))
def test_interleaved_pairs_come_to_half_form(heads: int, pairs: int, kept: int, codec: str | None) -> None:
    half_form = np.random.default_rng(0).standard_normal((heads, 2 * pairs + kept, 32)).astype(np.float32)
    stored = half_form.copy()
    stored[:, 0 : 2 * pairs : 2], stored[:, 1 : 2 * pairs : 2] = half_form[:, :pairs], half_form[:, pairs : 2 * pairs]
    rows = heads * (2 * pairs + kept)
    spec = spec_of(heads, 2 * pairs + kept, 2 * pairs)
    if codec is None:  # a bias
        tensor, wanted = Tensor.from_array("x", stored[..., 0].reshape(rows)), half_form[..., 0].reshape(rows)
    else:
        encode, decode = CODECS[codec].encode, CODECS[codec].decode
        assert encode is not None
        tensor = Tensor("x", CODECS[codec], (rows, 32), encode(stored.reshape(rows, 32)))
        wanted = decode(encode(half_form.reshape(rows, 32)))
    (part,) = values(Interleaved("q").cut(tensor, [tensor.shape], spec))
    np.testing.assert_array_equal(part, wanted)


def test_experts_are_cut_and_numbered() -> None:
    recipe = Experts("layers.{}.experts.{}.up")
    spec: Any = SimpleNamespace(moe=SimpleNamespace(num_experts=3))
    assert recipe.names([7], spec) == [f"layers.7.experts.{expert}.up" for expert in range(3)]
    source = numbered(3, 2, 4)
    assert recipe.source_shape([(2, 4)] * 3) == source.shape
    for index, part in enumerate(values(recipe.cut(Tensor.from_array("x", source), [(2, 4)] * 3, spec))):
        np.testing.assert_array_equal(part, source[index])
