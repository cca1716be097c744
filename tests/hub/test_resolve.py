"""What a user calls a model → its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub, Repository

from headrace.errors import DamagedFile, ModelError, ModelNotFound, UnsupportedModel
from headrace.hub import resolve
from headrace.hub.resolve import bundled_folder, resolve_model
from headrace.hub.store import cached_models


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    return folder


def test_folder_by_text_and_by_path(here: Path) -> None:
    fill(here / "tiny", "config.json", "model.safetensors")
    assert resolve_model("tiny").folder == Path("tiny")
    assert resolve_model(here / "tiny").folder == here / "tiny"
    assert resolve_model("tiny/").name == "tiny/"


def test_folder_comes_before_the_hub(here: Path) -> None:
    fill(here / "org/name", "config.json", "model.safetensors")
    assert resolve_model("org/name").folder == Path("org/name")


def test_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    fill(here / "tiny", "config.json", "model.safetensors")
    assert resolve_model("~/tiny").folder == here / "tiny"


def test_gguf_file_and_folder_with_one(here: Path) -> None:
    fill(here / "models", "tiny-Q8_0.gguf", "mmproj-f16.gguf", "README.md")
    assert resolve_model("models/tiny-Q8_0.gguf").gguf_path == Path("models/tiny-Q8_0.gguf")
    assert resolve_model("models").gguf_path == Path("models/tiny-Q8_0.gguf")


def test_folder_with_several_gguf_lists_them(here: Path) -> None:
    fill(here / "models", "tiny-Q8_0.gguf", "tiny-Q4_0.gguf")
    with pytest.raises(ModelNotFound, match=r"the folder models holds 2 GGUF models.*Q4_0, Q8_0"):
        resolve_model("models")


def test_one_of_several_gguf_by_tag_or_file_name(here: Path) -> None:
    fill(here / "models", "tiny-Q8_0.gguf", "tiny-Q4_0.gguf")
    for wanted in ("q4_0", "tiny-Q4_0.gguf"):
        found = resolve_model(f"models:{wanted}")
        assert (found.name, found.gguf_path) == (f"models:{wanted}", Path("models/tiny-Q4_0.gguf"))
    with pytest.raises(ModelNotFound, match=r"the folder models holds 0 GGUF models that match 'Q5_0'.*Q4_0, Q8_0"):
        resolve_model("models:Q5_0")
    fill(here / "odd:name", "config.json", "model.safetensors")
    assert resolve_model("odd:name").folder == Path("odd:name")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"])
def test_a_link_that_leads_nowhere_is_damage(here: Path, name: str) -> None:
    """Left out in silence, a model would run without its template or its end of sequence."""
    fill(here / "tiny", "config.json", "model.safetensors", "tokenizer_config.json")
    (here / "tiny/README.md").symlink_to("nowhere")
    assert resolve_model("tiny").folder == Path("tiny")
    (here / "tiny" / name).unlink(missing_ok=True)
    (here / "tiny" / name).symlink_to("nowhere")
    with pytest.raises(DamagedFile, match=f"tiny/{name} is a link to a file that is not there"):
        resolve_model("tiny")


@pytest.mark.parametrize("name", ["a" * 5000, "org/" + "a" * 5000, "~nobody-here/model"])
def test_a_name_that_no_path_can_have(here: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be read \((File name too long|Could not determine home directory)\)"):
        resolve_model(name)


def test_what_may_not_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(here / "tiny", "config.json", "model.safetensors", "one.gguf")

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(ModelError, match=r"tiny cannot be read \(Permission denied\); check the path and"):
            resolve_model("tiny")
        assert resolve_model("tiny/one.gguf").gguf_path == Path("tiny/one.gguf")  # need not be listed
    files = resolve_model("tiny")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ModelError, match=r"tiny/config.json cannot be read \(Permission denied\); check its"):
        files.read_json("config.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": "\\ud800"}', "{", "\ufeff{}", "null", "[]", "\xff"])
def test_what_is_no_json_object(here: Path, text: str) -> None:
    fill(here / "tiny", "config.json", "model.safetensors")
    (here / "tiny/config.json").write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
    with pytest.raises(DamagedFile, match=r"config.json (is not valid JSON|does not hold a JSON object)"):
        resolve_model("tiny").read_json("config.json")


def test_split_gguf_begins_with_its_first_part(here: Path) -> None:
    parts = [f"big-Q8_0-0000{part}-of-00002.gguf" for part in (1, 2)]
    fill(here / "models", *parts)
    assert resolve_model("models").gguf_path == Path("models") / parts[0]
    assert resolve_model(f"models/{parts[1]}").gguf_path == Path("models") / parts[0]
    (here / "models" / parts[0]).unlink()
    with pytest.raises(DamagedFile, match=f"lacks part {parts[0]}"):
        resolve_model(f"models/{parts[1]}")


def test_a_gguf_under_any_name(here: Path) -> None:
    fill(here, "mmproj.gguf")
    assert resolve_model("mmproj.gguf").gguf_path == Path("mmproj.gguf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("storys", "no model 'storys', did you mean stories; a model is the bundled name stories, a folder"),
        ("tinny", "no model 'tinny', did you mean the folder tiny; a model is"),
        ("./tinny", "no model './tinny', did you mean the folder tiny; a model is"),
        ("tiny-q8.gguf", r"no model 'tiny-q8.gguf', did you mean the file tiny-Q8_0.gguf; a model is"),
        ("", "no model ''; a model is"),
        ("/nowhere/tiny", "no model '/nowhere/tiny'; a model is"),
        ("some words", "no model 'some words'; a model is"),
        ("notes.txt", "notes.txt is not a .gguf file; a model is"),
        ("empty", "the folder empty holds no model, expected config.json"),
    ],
)
def test_no_such_model(here: Path, name: str, message: str) -> None:
    fill(here, "tiny/config.json", "tiny/model.safetensors", "tiny-Q8_0.gguf", "notes.txt")
    (here / "empty").mkdir()
    with pytest.raises(ModelNotFound) as error:
        resolve_model(name)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_only_old_weights(here: Path) -> None:
    fill(here / "old", "config.json", "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"the folder old holds pytorch_model\.bin"):
        resolve_model("old")


def test_missing_shard(here: Path) -> None:
    fill(here / "tiny", "config.json", "model-00001-of-00002.safetensors")
    assert resolve_model("tiny").folder == Path("tiny")  # the loader names the weights that are missing


def test_bundled_model(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    fill(here / "stories", "config.json")  # a folder of that name does not hide it
    monkeypatch.setattr(resolve, "bundled_folder", lambda name: here / "package" / name)
    files = resolve_model("stories")
    assert (files.name, files.folder) == ("stories", here / "package" / "stories")


def test_an_installation_without_the_bundled_model() -> None:
    with pytest.raises(DamagedFile, match="lacks the bundled model nothing; install headrace again"):
        bundled_folder("nothing")


def test_hub_names(here: Path, hub: FakeHub) -> None:
    hub.repositories["acme/tiny"] = Repository({"config.json": b"{}", "model.safetensors": b"x", "t-Q4_0.gguf": b"y"})
    files = resolve_model("acme/tiny")
    assert (files.name, files.gguf_path) == ("acme/tiny", None)
    assert files.path("model.safetensors") is not None
    assert resolve_model("acme/tiny:q4_0").gguf_path.read_bytes() == b"y"
    assert [(model.name, model.format) for model in cached_models()] == [
        ("acme/tiny", "safetensors"),
        ("acme/tiny:Q4_0", "gguf"),
    ]


def test_a_mistyped_folder_that_looks_like_a_hub_name(here: Path, hub: FakeHub) -> None:
    fill(here / "models/tiny", "config.json", "model.safetensors")
    with pytest.raises(ModelNotFound, match=r"no repository models/tinny on .*did you mean the folder models/tiny"):
        resolve_model("models/tinny")


def test_a_cache_that_is_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "file"))
    with pytest.raises(ModelError, match=r"the cache .*file cannot be read \(it is a file\); set HF_HUB_CACHE"):
        cached_models()


def test_nothing_cached(hub: FakeHub) -> None:
    assert cached_models() == []
