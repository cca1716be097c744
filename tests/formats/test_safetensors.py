"""safetensors files: against the safetensors package in both directions, and every way that a file can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from headrace.errors import DamagedFile, HeadraceError, ModelNotFound, UnsupportedModel
from headrace.formats.codecs import BF16, F16, F32, Q8_0
from headrace.formats.safetensors import open_safetensors, write_safetensors
from headrace.formats.tensor import Tensor

TORCH = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def torch_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{dtype}-{shape}": torch.randn(shape, generator=generator).to(dtype)
        for dtype in TORCH
        for shape in [(3, 5), (7,), (2, 3, 4), (), (0, 4), (4, 0), (1,)]
    }
    return tensors | {'ünïcode "name"\n': torch.ones(1)}


def test_we_read_what_the_safetensors_package_writes(path: Path) -> None:
    expected = torch_tensors()
    safetensors.torch.save_file(expected, path, metadata={"format": "pt"})
    tensors = open_safetensors(path)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor.name, tensor.codec, tensor.shape) == (
            name,
            TORCH[expected[name].dtype],
            tuple(expected[name].shape),
        )
        np.testing.assert_array_equal(tensor.decode(), expected[name].float().numpy())
        assert not tensor.data.flags.writeable


def test_the_safetensors_package_reads_what_we_write(path: Path) -> None:
    expected = torch_tensors()
    tensors = {}
    for name, value in expected.items():
        codec = TORCH[value.dtype]
        row = codec.row_bytes(value.shape[-1] if value.shape else 1)
        data = value.reshape(-1).view(torch.uint8).numpy().reshape(*value.shape[:-1], row)
        tensors[name] = Tensor(name, codec, tuple(value.shape), data)
    write_safetensors(path, tensors, {"format": "pt", "note": "é"})
    theirs = safetensors.torch.load_file(path)
    assert theirs.keys() == expected.keys()
    for name, value in theirs.items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name])
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "é"}
    ours = open_safetensors(path)
    assert all(np.array_equal(ours[name].data, tensors[name].data) for name in tensors)
    assert list(path.parent.iterdir()) == [path]


def test_data_is_aligned_whatever_the_header(path: Path) -> None:
    for length in range(1, 9):
        write_safetensors(path, {"x" * length: Tensor.from_array("", np.ones(3, np.float32))})
        assert open_safetensors(path)["x" * length].data.ctypes.data % 8 == 0


def test_real_models(shared: Path) -> None:
    for folder in (shared / "models/stories260k", shared / "models/babyllama-1m"):
        theirs = safetensors.torch.load_file(folder / "model.safetensors")
        ours = open_safetensors(folder)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name].decode(), theirs[name].numpy()) for name in theirs)


def test_buffers_are_listed_and_refused_when_used(path: Path) -> None:
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float64, torch.complex64]
    expected = {str(kind): torch.zeros(1, 1, 4, 4).to(kind) for kind in kinds}
    safetensors.torch.save_file(expected | {"weight": torch.ones(2)}, path)
    tensors = open_safetensors(path)
    assert tensors.keys() == {*expected, "weight"}
    for name in expected:
        assert tensors[name].shape == (1, 1, 4, 4)
        with pytest.raises(UnsupportedModel, match=name):
            tensors[name].decode()
    assert tensors["weight"].decode().tolist() == [1, 1]


def test_float8_is_refused_by_name(path: Path) -> None:
    safetensors.torch.save_file({"layer.weight": torch.ones(2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(UnsupportedModel, match=r"'layer.weight' is 'F8_E4M3'"):
        open_safetensors(path)


# Folders


def shard(folder: Path, name: str, *tensors: str) -> None:
    values = {tensor: Tensor.from_array(tensor, np.full((2, 2), len(tensor), np.float32)) for tensor in tensors}
    write_safetensors(folder / name, values)


def index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_one(tmp_path: Path) -> None:
    shard(tmp_path, "1.safetensors", "a", "b")
    shard(tmp_path, "2.safetensors", "c")
    index(tmp_path, {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"})
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert sorted(open_safetensors(path)) == ["a", "b", "c"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path, "1.safetensors", "a")
    index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors"})
    with pytest.raises(ModelNotFound, match=r"lacks 2\.safetensors, 3\.safetensors"):
        open_safetensors(tmp_path)


def test_a_tensor_that_is_not_where_the_index_says(tmp_path: Path) -> None:
    shard(tmp_path, "1.safetensors", "a")
    shard(tmp_path, "2.safetensors", "b", "c")
    for weight_map in ({"a": "1.safetensors", "b": "1.safetensors"}, {"b": "1.safetensors", "c": "2.safetensors"}):
        index(tmp_path, weight_map)
        with pytest.raises(DamagedFile, match=r"'b' is not in 1\.safetensors"):
            open_safetensors(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    shard(tmp_path, "1.safetensors", "a")
    shard(tmp_path, "2.safetensors", "a", "b")
    index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    with pytest.raises(DamagedFile, match=r"'a' is in 1\.safetensors too"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, {}, [], {"a": 1}, {"a": "."}, {"a": "../1.safetensors"}, {"a": "/etc/passwd"}]
)
def test_an_index_that_cannot_be_used(tmp_path: Path, weight_map: Any) -> None:
    index(tmp_path, weight_map)
    with pytest.raises(DamagedFile, match=r"index\.json is damaged"):
        open_safetensors(tmp_path)


def test_an_index_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(DamagedFile, match="not an object"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["..", "", "null\0byte"])
def test_an_index_that_names_no_file(tmp_path: Path, name: str) -> None:
    index(tmp_path, {"a": name})
    with pytest.raises(ModelNotFound):
        open_safetensors(tmp_path)


def test_a_folder_with_pickles_only_says_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match=r"only as pytorch_model\.bin; convert them to safetensors"):
        open_safetensors(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor"):
        open_safetensors(tmp_path)


def test_a_folder_with_weights_under_other_names(tmp_path: Path) -> None:
    for i in range(5):
        shard(tmp_path, f"model-{i}.safetensors", "a")
    with pytest.raises(ModelNotFound, match=r"only model-0\.safetensors, .* and 2 more"):
        open_safetensors(tmp_path)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        open_safetensors(tmp_path / "nothing.safetensors")
    with pytest.raises(ModelNotFound, match="not a regular file"):
        open_safetensors("/dev/zero")
    for name in ("null\0byte", "x" * 5000):
        with pytest.raises(HeadraceError):
            open_safetensors(tmp_path / name)


# Damage


def raw(header: Any, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def twice(key: str) -> bytes:
    entry = json.dumps(one()).encode()
    return b'{"%s": %s, "%s": %s}' % (key.encode(), entry, key.encode(), entry)


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"1234567", "not a safetensors file"),
    "text": (b"hello, world, how are you", "begins with b'hello, w'"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    "html": (b"<html><body>Not found", "web page"),
    "header past the end": (struct.pack("<Q", 2**40) + b"{}", "truncated"),
    "endless header": (struct.pack("<Q", 2**64 - 1) + b"{}", "truncated"),
    "no json": (raw(b"{nope}"), "JSON cannot be read"),
    "latin-1": (raw(b'{"\xe9": 1}'), "JSON cannot be read"),
    "nesting": (raw(b'{"a":' + b"[" * 100_000), "JSON cannot be read"),
    "long number": (raw(b'{"a":' + b"9" * 10_000 + b"}"), "JSON cannot be read"),
    "tensor twice": (raw(twice("a"), 8), "'a' is there twice"),
    "field twice": (raw(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "'dtype' is there twice"),
    "entry is a number": (raw({"a": 1}), "'a' is not a dtype"),
    "field missing": (raw({"a": {"dtype": "F32", "shape": [2]}}, 8), "'a' is not a dtype"),
    "field too many": (raw({"a": one() | {"more": 1}}, 8), "'a' is not a dtype"),
    "dtype": (raw({"a": one(dtype=1)}, 8), "malformed"),
    "shape": (raw({"a": one(shape=2)}, 8), "malformed"),
    "negative size": (raw({"a": one(shape=[-2, -1])}, 8), "malformed"),
    "fractional size": (raw({"a": one(shape=[2.0])}, 8), "malformed"),
    "true": (raw({"a": one(shape=[True, 2])}, 8), "malformed"),
    "infinite": (raw(b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}', 8), "malformed"),
    "three offsets": (raw({"a": one(offsets=[0, 4, 8])}, 8), "malformed"),
    "negative bytes": (raw({"a": one(offsets=[8, 0])}, 8), "has -8 bytes"),
    "wrong bytes": (raw({"a": one(shape=[3])}, 8), "has 8 bytes, its shape [3] in F32 needs others"),
    "huge and empty": (raw({"a": one(shape=[2**62, 2**62, 0], offsets=[0, 0])}), "absurd shape"),
    "many dimensions": (raw({"a": one(shape=[1] * 99, offsets=[0, 4])}, 4), "absurd shape"),
    "gap": (raw({"a": one(offsets=[8, 16])}, 16), "leaves a gap"),
    "overlap": (raw({"a": one(), "b": one(offsets=[4, 12])}, 12), "'b' overlaps"),
    "same place": (raw({"a": one(), "b": one()}, 8), "'b' overlaps"),
    "data missing": (raw({"a": one()}, 7), "the file has 7"),
    "data left": (raw({"a": one()}, 9), "the file has 9"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_line(path: Path, name: str) -> None:
    data, message = DAMAGE[name]
    path.write_bytes(data)
    with pytest.raises(DamagedFile) as caught:
        open_safetensors(path)
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize("name", ["data missing", "data left", "gap", "overlap", "wrong bytes", "no json"])
def test_the_safetensors_package_refuses_these_too(path: Path, name: str) -> None:
    path.write_bytes(DAMAGE[name][0])
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load_file(path)


def test_what_cannot_be_written(path: Path) -> None:
    tensor = Tensor.from_array("a", np.zeros((2, 32), np.float32))
    assert Q8_0.encode is not None
    with pytest.raises(ValueError, match="q8_0"):
        write_safetensors(path, {"a": Tensor("a", Q8_0, (2, 32), Q8_0.encode(tensor.decode()))})
    with pytest.raises(ValueError, match="reserves"):
        write_safetensors(path, {"__metadata__": tensor})
    with pytest.raises(ValueError, match="strings to strings"):
        write_safetensors(path, {"a": tensor}, {"k": 1})  # type: ignore[dict-item]
    with pytest.raises(HeadraceError, match="cannot be written"):
        write_safetensors(path / "no" / "folder", {"a": tensor})
    assert not list(path.parent.iterdir())
