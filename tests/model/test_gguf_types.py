"""Every GGUF type through the engine: the logits are those of a float32 model with the decoded values.

On the kernels the two are the same bits: a weight is decoded to float32 exactly, and the same sums are made in the same
order whatever it was decoded from. Against numpy, which adds in another order, a key or value that lies between two
float16 numbers may be stored as either: 1e-3 of the largest logit is allowed, and half of them agree to 1e-5 of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_sequence import OneSequence

from headrace.config import EngineConfig
from headrace.formats.codecs import CODECS, F32
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.tensor import Tensor
from headrace.hub.files import ModelFiles
from headrace.model.loader import load_decoder
from headrace.ops.reference import ReferenceOps
from headrace.ops.select import select_ops

HIDDEN, VOCABULARY, LAYERS = 256, 96, 2
SCALES_AT = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
"""Where a block's float16 scales lie, in bytes; elsewhere at its start"""
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.context_length": 64,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
    "llama.vocab_size": VOCABULARY,
}


def a_matrix(name: str, rows: int, codec_name: str, rng: np.random.Generator) -> Tensor:
    """Random blocks of the type with scales that make values of the order of 0.1."""
    codec = CODECS[codec_name]
    if codec.block_size == 1:
        assert codec.encode is not None
        values = (0.1 * rng.standard_normal((rows, HIDDEN))).astype(np.float32)
        return Tensor(name, codec, (rows, HIDDEN), codec.encode(values))
    data = rng.integers(0, 256, (rows, HIDDEN // codec.block_size, codec.block_bytes), np.uint8)
    if codec_name == "mxfp4":
        data[..., 0] = rng.integers(122, 125, data.shape[:2])
    else:
        offsets = SCALES_AT.get(codec_name, (0, 2) if codec_name in ("q4_1", "q5_1") else (0,))
        values = codec.decode(_with_scales(data, offsets, 1.0, rng).reshape(rows, -1))
        data = _with_scales(data, offsets, 0.1 / float(np.abs(values).mean()), rng)
    return Tensor(name, codec, (rows, HIDDEN), data.reshape(rows, -1))


def _with_scales(data: np.ndarray, offsets: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    data = data.copy()
    for offset in offsets:
        values = (scale * rng.uniform(0.5, 1.5, data.shape[:2])).astype(np.float16)
        data[..., offset : offset + 2] = values[..., None].view(np.uint8)
    return data


def a_model(codec_name: str) -> dict[str, Tensor]:
    rng = np.random.default_rng(5)
    shapes = {"attn_q": HIDDEN, "attn_k": 128, "attn_v": 128, "attn_output": HIDDEN}
    shapes |= {"ffn_gate": HIDDEN, "ffn_up": HIDDEN, "ffn_down": HIDDEN}
    tensors = [a_matrix(name, VOCABULARY, codec_name, rng) for name in ("token_embd.weight", "output.weight")]
    norms = ["output_norm.weight"]
    for layer in range(LAYERS):
        tensors += [a_matrix(f"blk.{layer}.{name}.weight", rows, codec_name, rng) for name, rows in shapes.items()]
        norms += [f"blk.{layer}.{name}.weight" for name in ("attn_norm", "ffn_norm")]
    tensors += [Tensor.from_array(name, rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)) for name in norms]
    return {tensor.name: tensor for tensor in tensors}


def logits(path: Path, *, reference: bool = False) -> np.ndarray:
    ops = ReferenceOps() if reference else select_ops(EngineConfig(threads=2, activations="f32"))
    tokens = np.random.default_rng(6).integers(0, VOCABULARY, 40).tolist()
    return OneSequence(load_decoder(ModelFiles("types", gguf_path=path), ops)).feed(tokens)


@pytest.mark.parametrize("codec_name", CODECS)
def test_logits_are_those_of_the_decoded_values(codec_name: str, tmp_path: Path) -> None:
    typed = a_model(codec_name)
    decoded = {name: Tensor.from_array(name, tensor.decode()) for name, tensor in typed.items()}
    assert {tensor.codec for tensor in decoded.values()} == {F32}
    write_gguf(tmp_path / "typed.gguf", METADATA, typed)
    write_gguf(tmp_path / "decoded.gguf", METADATA, decoded)
    found = logits(tmp_path / "typed.gguf")
    assert np.isfinite(found).all()
    assert found.std() > 0.1
    np.testing.assert_array_equal(found, logits(tmp_path / "decoded.gguf"))
    expected = logits(tmp_path / "decoded.gguf", reference=True)
    error = np.abs(found - expected) / np.abs(expected).max()
    assert error.max() < 1e-3
    assert np.median(error) < 1e-5
