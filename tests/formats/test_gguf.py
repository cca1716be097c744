"""GGUF files: against the gguf package in both directions, and every way that a file can be wrong."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from headrace.errors import DamagedFile, HeadraceError, ModelNotFound, UnsupportedModel
from headrace.formats.codecs import CODECS, F32, Q8_0, opaque_codec
from headrace.formats.gguf import GGUFFile
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.tensor import Tensor

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.rope.freq_base": 10000.5,
    "flag": True,
    "below zero": -7,
    "large": 2**40,
    "very large": 2**64 - 1,
    "double": np.float64(0.1),
    "byte": np.uint8(200),
    "not utf-8": b"\xffa\xc3".decode("utf-8", "surrogateescape"),
    "empty": "",
    "tokens": ["<s>", "", "é", "日本", b"\xf0".decode("utf-8", "surrogateescape")],
    "scores": np.array([0.5, -1.5], np.float32),
    "kinds": [1, 2, 3],
    "bools": [True, False],
    "nothing": np.array([], np.int32),
    "nested": [["a", "b"], ["c"]],
    "matrix": np.arange(6, dtype=np.int16).reshape(2, 3),
    "scalar": np.array(5, ">u2"),
    "big-endian": np.array([1, 2], ">i4"),
}


def tensor(name: str, codec_name: str, *shape: int, seed: int = 0) -> Tensor:
    codec = CODECS[codec_name]
    bytes_shape = (*shape[:-1], codec.row_bytes(shape[-1]))
    return Tensor(name, codec, shape, np.random.default_rng(seed).integers(0, 256, bytes_shape, np.uint8))


def one_of_each() -> dict[str, Tensor]:
    return {name: tensor(name, name, 3, 2, CODECS[name].block_size * 2, seed=i) for i, name in enumerate(CODECS)}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and ours and isinstance(ours[0], np.ndarray):
        return bool(np.array_equal(ours, theirs))
    if isinstance(ours, np.ndarray):
        return bool(np.array_equal(ours, np.asarray(theirs, ours.dtype)))
    return bool(ours == theirs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_what_is_written_is_read_back(path: Path) -> None:
    tensors = one_of_each() | {"vector": tensor("vector", "f32", 5)}
    write_gguf(path, METADATA, tensors)
    file = GGUFFile(path)
    assert (file.version, file.path, file.paths) == (3, path, (path,))
    assert list(file.metadata) == list(METADATA)
    for key, value in METADATA.items():
        expected = np.float32(value) if isinstance(value, float) and not isinstance(value, np.generic) else value
        assert same(file.metadata[key], expected), key
    assert type(file.metadata["flag"]) is bool
    assert type(file.metadata["byte"]) is int
    assert file.metadata["not utf-8"].encode("utf-8", "surrogateescape") == b"\xffa\xc3"
    assert list(file.tensors) == list(tensors)
    for name, read in file.tensors.items():
        assert (read.name, read.codec, read.shape) == (name, tensors[name].codec, tensors[name].shape)
        np.testing.assert_array_equal(read.data, tensors[name].data)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("alignment", [32, 64, 1024])
def test_the_gguf_package_reads_what_we_write(path: Path, alignment: int) -> None:
    metadata = {key: value for key, value in METADATA.items() if key not in {"not utf-8", "tokens", "nested", "matrix"}}
    tensors = one_of_each()
    write_gguf(path, metadata | {"general.alignment": alignment}, tensors)
    reader = gguf.GGUFReader(path)
    for key, value in metadata.items():
        theirs = reader.fields[key].contents()
        assert same(np.float32(value) if isinstance(value, float) else value, theirs), key
    assert [t.name for t in reader.tensors] == list(tensors)
    for theirs in reader.tensors:
        ours = tensors[theirs.name]
        assert theirs.tensor_type == ours.codec.ggml_type
        assert tuple(reversed(theirs.shape.tolist())) == ours.shape
        assert theirs.data_offset % alignment == 0
        assert theirs.data.tobytes() == ours.data.tobytes()


def test_we_read_what_the_gguf_package_writes(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 255)
    writer.add_int64("i64", -(2**50))
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", False)
    writer.add_array("strings", ["x", "ÿ"])
    writer.add_array("floats", [0.25, 4.0])
    values = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    quantised = gguf.quants.quantize(values, GGMLQuantizationType.Q5_1)
    writer.add_tensor("q5_1", quantised, raw_dtype=GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    expected = {"u8": 255, "i64": -(2**50), "f64": 0.1, "bool": False, "strings": ["x", "ÿ"]}
    assert {key: file.metadata[key] for key in expected} == expected
    assert file.metadata["floats"].tolist() == [0.25, 4.0]
    assert file.metadata["general.architecture"] == "llama"
    np.testing.assert_array_equal(file.tensors["f32"].decode(), values)
    np.testing.assert_array_equal(file.tensors["f16"].decode(), values.astype(np.float16).astype(np.float32))
    decoded = gguf.quants.dequantize(quantised, GGMLQuantizationType.Q5_1)
    np.testing.assert_array_equal(file.tensors["q5_1"].decode(), decoded)


def test_a_real_vocabulary_reads_as_by_the_gguf_package(shared: Path) -> None:
    path = shared / "data/tokenizers/gguf/ggml-vocab-llama-spm.gguf"
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for key, field in fields.items():
        assert same(ours.metadata[key], field.contents()), key


def test_version_2_reads_as_version_3(path: Path) -> None:
    write_gguf(path, METADATA, one_of_each())
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    file = GGUFFile(path)
    assert file.version == 2
    assert len(file.tensors) == len(CODECS)


def test_tensors_outlive_the_file_object_and_its_name(path: Path) -> None:
    write_gguf(path, {}, {"a": Tensor.from_array("a", np.arange(64, dtype=np.float32).reshape(2, 32))})
    tensors = GGUFFile(path).tensors
    path.unlink()
    assert tensors["a"].decode().sum() == 2016
    assert not tensors["a"].data.flags.writeable


def test_integer_buffers_are_listed_and_refused_when_used(path: Path) -> None:
    path.write_bytes(raw(infos=info("ids", [8], 26), num_tensors=1, data=32))
    file = GGUFFile(path)
    assert file.tensors["ids"].shape == (8,)
    with pytest.raises(UnsupportedModel, match="'ids' is i32"):
        file.tensors["ids"].decode()


# Split files


def write_split(folder: Path, count: int = 3, **changes: Any) -> list[Path]:
    paths = [folder / f"m-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    for number, path in enumerate(paths):
        metadata = {"split.no": np.uint16(number), "split.count": np.uint16(count), "split.tensors.count": 2 * count}
        names = [f"t{number}.{i}" for i in range(2)]
        metadata |= changes
        write_gguf(
            path, metadata | {"mine": number}, {name: tensor(name, "q8_0", 2, 32, seed=number) for name in names}
        )
    return paths


def test_a_split_file_is_one(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    file = GGUFFile(paths[0])
    assert file.paths == tuple(paths)
    assert list(file.tensors) == ["t0.0", "t0.1", "t1.0", "t1.1", "t2.0", "t2.1"]
    assert file.metadata["mine"] == 0
    np.testing.assert_array_equal(file.tensors["t2.0"].data, tensor("", "q8_0", 2, 32, seed=2).data)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf is missing"):
        GGUFFile(paths[0])


def test_a_later_shard_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"give the first one, m-00001-of-00003\.gguf"):
        GGUFFile(write_split(tmp_path)[1])


def test_a_renamed_shard_is_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelNotFound, match="00001-of-00003"):
        GGUFFile(path)


def test_shards_that_contradict_each_other(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(DamagedFile, match="shard 2 of 3"):
        GGUFFile(paths[0])
    with pytest.raises(DamagedFile, match="announces 7"):
        GGUFFile(write_split(tmp_path, **{"split.tensors.count": 7})[0])
    paths = write_split(tmp_path)
    metadata = {"split.no": 2, "split.count": 3}
    write_gguf(paths[2], metadata, {name: tensor(name, "f32", 1) for name in ("t0.0", "t2.1")})
    with pytest.raises(DamagedFile, match=r"'t0\.0' is in an earlier shard"):
        GGUFFile(paths[0])


# Damage


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def raw(pairs: bytes = b"", infos: bytes = b"", *, num_pairs: int = 0, num_tensors: int = 0, data: int = 0) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_pairs) + pairs + infos
    return header + bytes(-len(header) % 32 + data)


def info(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


KEY = string("k")
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello, world", "not a GGUF file: it begins with b'hello, w'"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html>", "web page"),
    "magic only": (b"GGUF", "ends after 4 bytes"),
    "no counts": (b"GGUF" + struct.pack("<I", 3), "truncated"),
    "version 0": (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "version is 0"),
    "absurd version": (b"GGUF" + struct.pack("<IQQ", 0x12345678, 0, 0), "version is"),
    "many tensors": (raw(num_tensors=2**63), "more than it can hold"),
    "many pairs": (raw(num_pairs=2**63), "more than it can hold"),
    "huge key": (raw(struct.pack("<Q", 2**64 - 1) + bytes(99), num_pairs=1), "runs past its end"),
    "control bytes": (
        raw(string("a\x00b") + struct.pack("<IB", 0, 2), num_pairs=1),
        "key at byte 24 is no name",
    ),
    "long key": (raw(string("k" * 2000) + struct.pack("<IB", 0, 2), num_pairs=1), "key at byte 24 is no name"),
    "name of stray bytes": (raw(infos=struct.pack("<Q", 1) + b"\xff" * 99, num_tensors=1), "tensor name at byte 24"),
    "type 13": (raw(KEY + struct.pack("<I", 13) + bytes(9), num_pairs=1), "unknown type 13"),
    "bool 2": (raw(KEY + struct.pack("<IB", 7, 2), num_pairs=1), "neither true nor false"),
    "key twice": (raw(2 * (KEY + struct.pack("<IB", 0, 2)), num_pairs=2), "'k' is there twice"),
    "huge array": (raw(KEY + struct.pack("<I", 9) + array(0, 2**62), num_pairs=1), "more than it can hold"),
    "cut in the last string": (
        raw()[:16] + struct.pack("<Q", 1) + KEY + struct.pack("<IQ", 8, 5) + b"abc",
        "truncated",
    ),
    "huge wide array": (raw(KEY + struct.pack("<I", 9) + array(12, 60) + bytes(99), num_pairs=1), "truncated"),
    "huge strings": (raw(KEY + struct.pack("<I", 9) + array(8, 2**40), num_pairs=1), "more than it can hold"),
    "array type": (raw(KEY + struct.pack("<I", 9) + array(99, 1) + bytes(9), num_pairs=1), "unknown type 99"),
    "nesting": (raw(KEY + struct.pack("<I", 9) + array(9, 1) * 5000, num_pairs=1), "nested deeper"),
    "wide nesting": (raw(KEY + struct.pack("<I", 9) + array(9, 2**30) * 500, num_pairs=1), "more than it can hold"),
    "alignment": (raw(string("general.alignment") + struct.pack("<II", 4, 48), num_pairs=1), "power of two"),
    "alignment 0": (raw(string("general.alignment") + struct.pack("<II", 4, 0), num_pairs=1), "power of two"),
    "alignment text": (raw(string("general.alignment") + struct.pack("<I", 8) + KEY, num_pairs=1), "power of two"),
    "dimensions": (raw(infos=info("a", [1] * 5), num_tensors=1, data=64), "5 dimensions"),
    "4 billion dimensions": (raw(infos=string("a") + b"\xff" * 24, num_tensors=1), "4294967295 dimensions"),
    "zero": (raw(infos=info("a", [0]), num_tensors=1, data=64), "impossible"),
    "huge shape": (raw(infos=info("a", [2**63, 2**63]), num_tensors=1, data=64), "truncated"),
    "half a block": (raw(infos=info("a", [33, 2], 8), num_tensors=1, data=99), "impossible for q8_0"),
    "absurd tensor type": (raw(infos=info("a", [1], 2**31), num_tensors=1, data=64), "absurd type"),
    "crooked offset": (raw(infos=info("a", [1], 0, 4), num_tensors=1, data=64), "not a multiple of 32"),
    "far offset": (raw(infos=info("a", [1], 0, 2**62), num_tensors=1, data=64), "truncated"),
    "wrapping offset": (raw(infos=info("a", [1], 0, 2**64 - 32), num_tensors=1, data=64), "truncated"),
    "overlap": (raw(infos=info("a", [9]) + info("b", [9], 0, 32), num_tensors=2, data=99), "'a' and 'b' overlap"),
    "tensor twice": (raw(infos=2 * info("a", [1]), num_tensors=2, data=64), "'a' is there twice"),
    "no data": (raw(infos=info("a", [8]), num_tensors=1), "truncated"),
    "split count": (raw(string("split.count") + struct.pack("<If", 6, 2.0), num_pairs=1), "split.count is 2.0"),
}


def test_counts_that_a_huge_file_could_hold_are_refused_at_once(path: Path) -> None:
    """A sparse file of a gigabyte: the counts fit into it, but no model has them."""
    for kind in (0, 8, 9):
        head = raw(KEY + struct.pack("<I", 9) + array(kind, 2**25), num_pairs=1)
        with path.open("wb") as file:
            file.write(head)
            file.truncate(2**30)
        with pytest.raises(DamagedFile, match="more than it can hold"):
            GGUFFile(path)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_line(path: Path, name: str) -> None:
    data, message = DAMAGE[name]
    path.write_bytes(data)
    with pytest.raises(DamagedFile) as caught:
        GGUFFile(path)
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert "\n" not in text
    assert "again" in text or "git lfs pull" in text or "download the file itself" in text


UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (b"GGUF" + struct.pack("<III", 1, 0, 0), "version 1"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4"),
    "ggml": (b"lmgg" + bytes(60), "older than GGUF"),
    "iq2_xxs": (raw(infos=info("blk.0.w", [256], 16), num_tensors=1, data=99), "'blk.0.w' has GGML type IQ2_XXS"),
    "new type": (raw(infos=info("blk.0.w", [256], 77), num_tensors=1, data=99), "'blk.0.w' has GGML type number 77"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_implemented_is_refused_by_name(path: Path, name: str) -> None:
    data, message = UNSUPPORTED[name]
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match=message):
        GGUFFile(path)


def test_every_type_of_the_gguf_package_is_known_or_refused_by_its_name(path: Path) -> None:
    for kind in GGMLQuantizationType:
        path.write_bytes(raw(infos=info("t", [256], kind), num_tensors=1, data=4096))
        try:
            codec = GGUFFile(path).tensors["t"].codec
        except UnsupportedModel as error:
            assert f"GGML type {kind.name}," in str(error)  # noqa: PT017
        else:
            assert codec.name == kind.name.lower()
            block_size, block_bytes = gguf.constants.GGML_QUANT_SIZES[kind]
            assert (codec.block_size, codec.block_bytes) == (block_size, block_bytes)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        GGUFFile(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFound, match="is a folder"):
        GGUFFile(tmp_path)
    with pytest.raises(ModelNotFound, match="not a regular file"):
        GGUFFile("/dev/null")
    with pytest.raises(HeadraceError):
        GGUFFile(tmp_path / "null\0byte")
    with pytest.raises(HeadraceError):
        GGUFFile(tmp_path / ("x" * 5000))


# Writing


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"k": None}, {}, "no type for"),
        ({"k": []}, {}, "mixed types"),
        ({"k": [1, "a"]}, {}, "mixed types"),
        ({"k": [2**70]}, {}, "no type for"),
        ({"k": b"bytes"}, {}, "no type for"),
        ({"k": np.zeros(2, np.complex64)}, {}, "complex64"),
        ({"general.alignment": 3}, {}, "power of two"),
        ({}, {"x" * 64: Tensor("x", F32, (1,), np.zeros(4, np.uint8))}, "longer than 63"),
        ({}, {"x": Tensor("x", F32, (), np.zeros(4, np.uint8))}, "1 to 4 dimensions"),
        ({}, {"x": Tensor("x", opaque_codec("i64", 8, ""), (1,), np.zeros(8, np.uint8))}, "i64"),
    ],
)
def test_what_cannot_be_written(path: Path, metadata: dict, tensors: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_gguf(path, metadata, tensors)
    assert not list(path.parent.iterdir())


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    write_gguf(path, {"k": "old"}, {})

    class Broken:
        codec, shape, nbytes = Q8_0, (32,), 34

        @property
        def data(self) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(HeadraceError, match="No space left"):
        write_gguf(path, {"k": "new"}, {"x": Broken()})  # type: ignore[dict-item]
    assert GGUFFile(path).metadata == {"k": "old"}
    assert list(path.parent.iterdir()) == [path]
