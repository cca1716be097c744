"""The kernels decode every codec to the same bits as the `gguf` package and as headrace.formats."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from ops_cases import dense, encoded_rows, same_bits, tensor_of

from headrace import _core  # noqa: TID251
from headrace.errors import UnsupportedModel
from headrace.formats.codecs import CODECS, opaque_codec
from headrace.formats.tensor import Tensor
from headrace.ops.cpu import CpuOps

NAMES = [name for name, _, _ in _core.codecs()]


def test_every_codec_of_the_formats_can_be_computed_with() -> None:
    assert set(NAMES) == {
        *("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "iq4_xs", "mxfp4"),
        *("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    }
    for name, values, size in _core.codecs():
        assert (CODECS[name].block_size, CODECS[name].block_bytes) == (values, size)


@pytest.mark.parametrize("name", NAMES)
def test_rows_decode_as_in_the_gguf_package(ops: CpuOps, name: str) -> None:
    codec = CODECS[name]
    data = encoded_rows(codec, 64, 512)
    expected = dequantize(data if name != "f16" else data.view(np.float16), gguf.GGMLQuantizationType[name.upper()])
    if name == "f32":
        expected = data.view(np.float32)
    assert np.isfinite(expected).all()
    assert same_bits(np.asarray(expected, np.float32), np.asarray(codec.decode(data)))
    tensor = Tensor("w", codec, (64, 512), data)
    for weight in (ops.pack([tensor]), ops.pack_table(tensor)):
        ours = ops.embed(weight, np.arange(64, dtype=np.int32))
        assert same_bits(ours, np.asarray(expected, np.float32).reshape(64, 512))


def test_every_exponent_of_mxfp4(ops: CpuOps) -> None:
    data = np.zeros((256, 17), np.uint8)
    data[:, 0] = np.arange(256)
    data[:, 1:] = np.arange(16) * 17
    weight = ops.pack([Tensor("w", CODECS["mxfp4"], (256, 32), data)])
    ours = ops.embed(weight, np.arange(256, dtype=np.int32))
    with np.errstate(over="ignore"):
        assert same_bits(ours, dequantize(data, gguf.GGMLQuantizationType.MXFP4))


def test_every_float16_and_bfloat16_value(ops: CpuOps) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(64, 1024)
    ids = np.arange(64, dtype=np.int32)
    for name, expected in (
        ("f16", bits.view(np.float16).astype(np.float32)),
        ("bf16", (bits.astype(np.uint32) << 16).view(np.float32)),
    ):
        weight = ops.pack([Tensor("w", CODECS[name], bits.shape, bits.view(np.uint8))])
        ours = ops.embed(weight, ids)
        number = ~np.isnan(expected)
        assert np.isnan(ours[~number]).all()
        assert same_bits(ours[number], expected[number])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_exact_linear_equals_linear_on_the_decoded_values(exact_ops: CpuOps, name: str, tokens: int) -> None:
    """Decoding in registers, in chunks or not at all makes no difference, not even in the last bit."""
    codec = CODECS[name]
    tensor = tensor_of(codec, 37, 768, seed=3)
    x = np.random.default_rng(1).standard_normal((tokens, 768), np.float32)
    ours = exact_ops.linear(x, exact_ops.pack([tensor]))
    assert same_bits(ours, exact_ops.linear(x, dense(exact_ops, tensor.decode())))


def test_parts_of_different_codecs_are_stacked(exact_ops: CpuOps) -> None:
    ops = exact_ops
    parts = [tensor_of(CODECS[name], rows, 256, seed=rows) for name, rows in (("q4_k", 5), ("f16", 17), ("q8_0", 33))]
    weight = ops.pack(parts)
    assert weight.shape == (55, 256)
    assert weight.format == "q4_k+f16+q8_0"
    stored = sum(part.nbytes for part in parts)
    assert stored <= weight.nbytes < 1.05 * stored
    whole = np.concatenate([part.decode() for part in parts])
    x = np.random.default_rng(1).standard_normal((3, 256), np.float32)
    assert same_bits(ops.linear(x, weight), ops.linear(x, dense(ops, whole)))
    ids = np.array([54, 0, 4, 5, 21, 22], np.int32)
    assert same_bits(ops.embed(weight, ids), whole[ids])


def test_an_unknown_codec_is_refused_by_name(ops: CpuOps) -> None:
    tensor = Tensor("blk.0.w", opaque_codec("iq1_s", 50, "no"), (2, 2), np.zeros((2, 100), np.uint8))
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.w is stored as iq1_s"):
        ops.pack([tensor])


def test_a_packed_weight_keeps_its_memory_alive(ops: CpuOps) -> None:
    weight = dense(ops, np.full((64, 4096), 3.0, np.float32))
    junk = [np.zeros((64, 4096), np.float32) for _ in range(4)]
    assert (ops.embed(weight, np.array([63], np.int32)) == 3).all()
    del junk
