"""Every codec against the gguf package, to the bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace.errors import UnsupportedModel
from headrace.formats.codecs import BF16, CODECS, CODECS_BY_GGML_TYPE, F16, F32, Q4_0, Q8_0, opaque_codec
from headrace.formats.tensor import Tensor

NAMES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
NAMES += ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"]
ENCODING = [name for name in NAMES if CODECS[name].encode is not None]


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit; a NaN may be any NaN (its payload depends on the instruction that made it)."""
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def oracle(data: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, GGMLQuantizationType[name.upper()])


def test_the_table_is_complete_and_agrees_with_ggml() -> None:
    assert list(CODECS) == NAMES
    assert len(CODECS_BY_GGML_TYPE) == len(NAMES)
    for name, codec in CODECS.items():
        ggml_type = GGMLQuantizationType[name.upper()]
        assert codec.ggml_type == ggml_type
        assert CODECS_BY_GGML_TYPE[ggml_type] is codec
        assert (codec.block_size, codec.block_bytes) == GGML_QUANT_SIZES[ggml_type]


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CODECS["f32"] = F16  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
def test_random_bytes_decode_as_in_gguf(name: str) -> None:
    """Random bytes hold every kind of scale: normal, denormal, infinite and NaN."""
    codec = CODECS[name]
    data = np.random.default_rng(0).integers(0, 256, (37, 11 * codec.block_bytes), np.uint8)
    assert_same_bits(codec.decode(data), oracle(data, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("half", [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01])
def test_each_kind_of_scale_decodes_as_in_gguf(name: str, half: int) -> None:
    """Every two bytes of the block take the pattern once, so the scales do, wherever they lie."""
    codec = CODECS[name]
    pairs = max(1, codec.block_bytes // 2)
    data = np.random.default_rng(half).integers(0, 256, (pairs, 4 * codec.block_bytes), np.uint8)
    for pair in range(pairs):
        data[pair, 2 * pair : 2 * pair + 2] = np.array([half], "<u2").view(np.uint8)
    assert_same_bits(codec.decode(data), oracle(data, name))


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_value_in_every_place(name: str) -> None:
    codec = CODECS[name]
    data = (np.arange(256, dtype=np.uint8)[:, None] + 3 * np.arange(codec.block_bytes, dtype=np.uint8)).astype(np.uint8)
    assert_same_bits(codec.decode(data), oracle(data, name))


@pytest.mark.parametrize("name", NAMES)
def test_decode_keeps_leading_axes_and_cuts_long_inputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = CODECS[name]
    data = np.random.default_rng(1).integers(0, 256, (3, 2, 5 * codec.block_bytes), np.uint8)
    whole = codec.decode(data)
    assert whole.shape == (3, 2, 5 * codec.block_size)
    monkeypatch.setattr("headrace.formats.codecs._CHUNK_VALUES", 2 * codec.block_size)
    assert_same_bits(codec.decode(data), whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0,), (0, 1), (3, 0)])
def test_decode_of_nothing(name: str, shape: tuple[int, ...]) -> None:
    codec = CODECS[name]
    data = np.zeros((*shape[:-1], shape[-1] * codec.block_bytes), np.uint8)
    assert codec.decode(data).shape == (*shape[:-1], shape[-1] * codec.block_size)


@pytest.mark.parametrize("name", NAMES)
def test_decode_of_a_strided_view(name: str) -> None:
    codec = CODECS[name]
    data = np.random.default_rng(2).integers(0, 256, (8, 2 * codec.block_bytes), np.uint8)
    assert_same_bits(codec.decode(data[::2]), oracle(data[::2].copy(), name))
    assert_same_bits(codec.decode(data[:, codec.block_bytes :]), oracle(data[:, codec.block_bytes :].copy(), name))


@pytest.mark.parametrize("name", NAMES)
def test_decode_of_unaligned_bytes(name: str) -> None:
    codec = CODECS[name]
    data = np.random.default_rng(3).integers(0, 256, 1 + 4 * codec.block_bytes, np.uint8)[1:]
    values = codec.decode(data)
    assert values.flags.aligned
    assert_same_bits(values, oracle(data.copy(), name))


def weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Like a trained matrix, with outliers, empty blocks, ties and tiny numbers."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.02, shape).astype(np.float32)
    values[0, :64] = 0
    values[1, :40] *= 1000
    values[2, ::3] *= 1e-6
    values[3, :32] = np.tile(np.float32([-1, 1]), 16)
    values[4, :32] = np.arange(32) - 16
    values[5, :32] = np.linspace(-127, 127, 32)
    return values


@pytest.mark.parametrize("name", ENCODING)
def test_encode_as_gguf_does(name: str) -> None:
    codec = CODECS[name]
    values = weights(4, (64, 512))
    encode = codec.encode
    assert encode is not None
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, GGMLQuantizationType[name.upper()]).view(np.uint8)
    np.testing.assert_array_equal(encode(values), expected.reshape(64, -1))


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"])
def test_quantised_weights_decode_as_in_gguf(name: str) -> None:
    values = weights(5, (16, 512))
    with np.errstate(all="ignore"):
        data = gguf.quants.quantize(values, GGMLQuantizationType[name.upper()])
    assert_same_bits(CODECS[name].decode(data), oracle(data, name))
    assert np.abs(CODECS[name].decode(data)[8:] - values[8:]).max() < 0.02


@given(
    hnp.arrays(np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: not 0 < abs(x) < 1e-30))
)
def test_encode_any_numbers_as_gguf_does(values: np.ndarray) -> None:
    for name in ("q8_0", "q4_0", "bf16", "f16"):
        encode = CODECS[name].encode
        assert encode is not None
        with np.errstate(all="ignore"):
            expected = gguf.quants.quantize(values, GGMLQuantizationType[name.upper()]).view(np.uint8)
        np.testing.assert_array_equal(encode(values), expected)


@given(hnp.arrays(np.uint32, 64))
def test_bf16_rounds_any_bits_as_gguf_does(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    encode = BF16.encode
    assert encode is not None
    expected = gguf.quants.quantize(values[None], GGMLQuantizationType.BF16).view(np.uint8)
    np.testing.assert_array_equal(encode(values[None]), expected)


def test_bf16_rounds_ties_to_even() -> None:
    values = np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F818001, 0x7F7FFFFF], np.uint32).view(np.float32)
    assert BF16.encode is not None
    assert BF16.encode(values).view("<u2").tolist() == [0x3F80, 0x3F82, 0x3F80, 0x3F82, 0x7F80]


@given(hnp.arrays(np.float32, (2, 32), elements=st.floats(-1e3, 1e3, width=32)))
def test_q8_0_error_is_at_most_half_a_step(values: np.ndarray) -> None:
    assert Q8_0.encode is not None
    decoded = Q8_0.decode(Q8_0.encode(values))
    largest = np.abs(values).max(axis=1, keepdims=True)
    # half a step, the rounding of the scale to half precision (2^-11), and its underflow for tiny blocks
    assert (np.abs(decoded - values) <= largest * (0.5 / 127 + 2**-11 + 1e-6) + 127 * 2.0**-25).all()


@pytest.mark.parametrize("codec", [Q8_0, Q4_0], ids=["q8_0", "q4_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_encode_refuses_what_blocks_cannot_hold(codec, bad: float) -> None:
    values = np.ones((2, 64), np.float32)
    values[1, 40] = bad
    with pytest.raises(UnsupportedModel, match=codec.name):
        codec.encode(values)


@pytest.mark.parametrize("codec", [Q8_0, Q4_0], ids=["q8_0", "q4_0"])
def test_blocks_too_small_for_their_scale_become_zero(codec) -> None:
    values = np.full((1, 32), 1e-40, np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), np.zeros((1, 32), np.float32))


def test_f16_refuses_overflow_and_keeps_infinity() -> None:
    assert F16.encode is not None
    with pytest.raises(UnsupportedModel, match="65,504"):
        F16.encode(np.float32([70000.0]))
    assert np.isinf(F16.decode(F16.encode(np.float32([np.inf])))).all()


def test_f32_decodes_without_a_copy() -> None:
    data = np.arange(16, dtype=np.float32).view(np.uint8)
    assert np.shares_memory(F32.decode(data), data)


def test_an_opaque_tensor_is_refused_only_when_used() -> None:
    tensor = Tensor("mask", opaque_codec("i64", 8, "tensor mask is I64"), (4,), np.zeros(32, np.uint8))
    assert tensor.nbytes == 32
    with pytest.raises(UnsupportedModel, match="tensor mask is I64"):
        tensor.decode()
