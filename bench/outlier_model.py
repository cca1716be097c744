"""Give a Llama-like GGUF file outliers in its activations, without changing what it computes in exact arithmetic.

    python bench/outlier_model.py MODEL-f32.gguf OUT.gguf --channels 4 --factor 64

In every layer a few channels of the norms' weights are multiplied by a factor, and the columns that read them divided:
the inputs of q, k, v, gate and up then have values many times as large as their neighbours, as large models do
(arXiv:2402.17762), which is hard on activations with few bits. Quantise the result with llama-quantize.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from headrace.formats.codecs import F32
from headrace.formats.gguf import GGUFFile
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.tensor import Tensor
from headrace.types import FloatArray

READERS = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}
"""Norms, and the matrices that read what they give."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--factor", type=float, default=64.0, help="a power of two changes no bit of the weights")
    options = parser.parse_args()
    file = GGUFFile(options.model)
    tensors = dict(file.tensors)
    random = np.random.default_rng(0)
    for norm, readers in READERS.items():
        for name in [name for name in tensors if name.endswith(f".{norm}.weight")]:
            layer = name.removesuffix(f".{norm}.weight")
            factors = np.ones(tensors[name].shape, np.float32)
            factors[random.permutation(factors.size)[: options.channels]] = options.factor
            tensors[name] = scaled(tensors[name], factors)
            for reader in readers:
                matrix = f"{layer}.{reader}.weight"
                tensors[matrix] = scaled(tensors[matrix], np.float32(1) / factors)
    metadata = {key: value for key, value in file.metadata.items() if key != "general.file_type"}
    write_gguf(options.out, metadata, tensors)


def scaled(tensor: Tensor, factors: FloatArray) -> Tensor:
    """The tensor, its columns (or its values, if it is a vector) times the factors."""
    if tensor.codec is not F32:
        raise SystemExit(f"{tensor.name} is {tensor.codec.name}; convert the file with llama-quantize to F32 first")
    return Tensor.from_array(tensor.name, tensor.decode() * factors)


if __name__ == "__main__":
    main()
