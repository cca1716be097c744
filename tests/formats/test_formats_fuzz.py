"""Damaged files of every kind: one of our errors, or a result that is consistent. Never anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DamagedFile, ModelError, UnsupportedModel
from headrace.formats.codecs import F16, F32, Q8_0
from headrace.formats.gguf import GGUFFile
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.safetensors import open_safetensors, write_safetensors
from headrace.formats.tensor import Tensor

Open = Callable[[Path], Mapping[str, Tensor]]


def open_gguf(path: Path) -> Mapping[str, Tensor]:
    return GGUFFile(path).tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def small_tensors() -> dict[str, Tensor]:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert F16.encode is not None
    return {"a": Tensor("a", F32, (3, 4), values.view(np.uint8)), "b": Tensor("b", F16, (3, 4), F16.encode(values))}


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, tuple[Open, bytes]]:
    """One small valid file of each format."""
    path = folder / "valid"
    metadata = {
        "general.alignment": 32,
        "name": "x",
        "tokens": ["a", "bc"],
        "scores": [1.0, 2.0],
        "nested": [[1], [2, 3]],
    }
    blocks = {"c": Tensor("c", Q8_0, (2, 32), np.arange(68, dtype=np.uint8).reshape(2, 34))}
    write_gguf(path, metadata, small_tensors() | blocks)
    sample = path.read_bytes()
    write_safetensors(path, small_tensors(), {"format": "pt"})
    return {"gguf": (open_gguf, sample), "safetensors": (open_safetensors, path.read_bytes())}


def check_consistent(tensors: Mapping[str, Tensor], file_size: int) -> None:
    """What any tensor must fulfil, whatever its bytes."""
    for name, tensor in tensors.items():
        assert name == tensor.name
        assert tensor.nbytes == prod(tensor.shape) // tensor.codec.block_size * tensor.codec.block_bytes <= file_size
        try:
            assert tensor.decode().shape == tensor.shape
        except UnsupportedModel:
            assert tensor.codec.ggml_type is None


def try_to_open(open_it: Open, path: Path, data: bytes) -> Mapping[str, Tensor] | None:
    path.write_bytes(data)
    try:
        tensors = open_it(path)
    except ModelError:
        return None
    check_consistent(tensors, len(data))
    return tensors


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_every_truncation_is_refused(kind: str, samples: dict[str, tuple[Open, bytes]], folder: Path) -> None:
    open_it, sample = samples[kind]
    path = folder / "truncated"
    padding = 28 if kind == "gguf" else 0  # behind the last of the GGUF tensors, which has 68 bytes
    assert sample.endswith(bytes(padding))
    for length in range(len(sample) - padding):
        path.write_bytes(sample[:length])
        with pytest.raises(DamagedFile):
            open_it(path)
    assert try_to_open(open_it, path, sample)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_every_byte_changed(kind: str, samples: dict[str, tuple[Open, bytes]], folder: Path) -> None:
    open_it, sample = samples[kind]
    refused = 0
    for position in range(len(sample)):
        for byte in {0xFF, sample[position] ^ 1, sample[position] ^ 0x80}:
            data = sample[:position] + bytes([byte]) + sample[position + 1 :]
            refused += try_to_open(open_it, folder / "flipped", data) is None
    assert refused > len(sample)


splice = st.tuples(st.integers(0, 2**16), st.integers(0, 9), st.binary(max_size=9))


@given(st.sampled_from(["gguf", "safetensors"]), st.lists(splice, min_size=1, max_size=4))
def test_bytes_replaced_inserted_and_removed(
    samples: dict[str, tuple[Open, bytes]], folder: Path, kind: str, splices: list[tuple[int, int, bytes]]
) -> None:
    open_it, data = samples[kind]
    for place, removed, inserted in splices:
        position = place % (len(data) + 1)
        data = data[:position] + inserted + data[position + removed :]
    try_to_open(open_it, folder / "spliced", data)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_the_magic(folder: Path, data: bytes, gguf_magic: bool) -> None:
    if gguf_magic:
        try_to_open(open_gguf, folder / "random", b"GGUF\x03\x00\x00\x00" + data)
    else:
        try_to_open(open_safetensors, folder / "random", len(data).to_bytes(8, "little") + b"{" + data)


def test_where_a_changed_gguf_still_opens_the_gguf_package_sees_the_same(
    samples: dict[str, tuple[Open, bytes]], folder: Path
) -> None:
    """For every changed byte of the tensor directory that we accept: same names, shapes and bytes."""
    _, sample = samples["gguf"]
    path, compared = folder / "differential", 0
    for position in range(sample.index(b"nested"), len(sample) - 256):
        data = bytearray(sample)
        data[position] ^= 4
        tensors = try_to_open(open_gguf, path, bytes(data))
        if tensors is None:
            continue
        try:
            theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        except UnicodeDecodeError:
            continue
        assert theirs.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert tuple(reversed(theirs[name].shape.tolist())) == tensor.shape
            assert theirs[name].data.tobytes() == tensor.data.tobytes()
        compared += 1
    assert compared > 0
