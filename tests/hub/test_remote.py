"""Names on the hub, against a hub of our own over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import FakeHub, Repository
from waiting import wait_until

from headrace.errors import ModelError, ModelNotFound, UnsupportedModel
from headrace.hub import remote
from headrace.hub.names import HubName, parse_hub_name
from headrace.hub.remote import fetch

WEIGHTS = bytes(range(256)) * 400  # 100 KB


def folder_model(**more: bytes) -> Repository:
    return Repository({"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS, **more})


@pytest.fixture(autouse=True)
def resume_small_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGE", 1000)


def test_folder_is_fetched_whole_without_duplicates(hub: FakeHub) -> None:
    unwanted = {
        "pytorch_model.bin": b"x",
        "consolidated.00.pth": b"x",
        "consolidated.safetensors": b"x",
        "original/model.safetensors": b"x",
        "onnx/model.onnx": b"x",
        "model.fp16.safetensors": b"x",
        "README.md": b"x",
    }
    wanted = {"chat_template.jinja": b"{{ messages }}", "generation_config.json": b"{}"}
    hub.repositories["acme/tiny"] = folder_model(**unwanted, **wanted)
    folder = fetch(HubName("acme/tiny"))
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    assert present == {"config.json", "tokenizer.json", "model.safetensors", *wanted}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_shards_win_over_a_whole_copy_when_there_is_an_index(hub: FakeHub) -> None:
    shards = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    more = {shards[0]: WEIGHTS, shards[1]: WEIGHTS[:5000], "model.safetensors.index.json": index}
    hub.repositories["acme/tiny"] = folder_model(**more)
    folder = fetch(HubName("acme/tiny"))
    assert not (folder / "model.safetensors").exists()
    assert [(folder / shard).stat().st_size for shard in shards] == [len(WEIGHTS), 5000]


def test_second_time_nothing_is_downloaded_and_offline_nothing_is_asked(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    folder = fetch(HubName("acme/tiny"))
    hub.requests.clear()
    assert fetch(HubName("acme/tiny")) == folder
    assert hub.downloads() == []
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(HubName("acme/tiny")) == folder
    assert hub.requests == []


def test_the_cache_is_huggingface_hubs_own(hub: FakeHub) -> None:
    from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache

    hub.repositories["acme/tiny"] = folder_model()
    folder = fetch(HubName("acme/tiny"))
    found = try_to_load_from_cache("acme/tiny", "model.safetensors", cache_dir=constants.HF_HUB_CACHE)
    assert found == str(folder / "model.safetensors")
    scan = scan_cache_dir(constants.HF_HUB_CACHE)
    assert [repository.repo_id for repository in scan.repos] == ["acme/tiny"]
    assert not scan.warnings


def test_revision(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    hub.repositories["acme/tiny"].branches = ("main", "v2")
    folder = fetch(parse_hub_name("acme/tiny@v2"))
    with pytest.raises(ModelNotFound, match=r"no revision 'v3'.*after the @"):
        fetch(HubName("acme/tiny", revision="v3"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(HubName("acme/tiny", revision="v2")) == folder
    with pytest.raises(ModelError, match="not in the cache and HF_HUB_OFFLINE is set"):
        fetch(HubName("acme/tiny", revision="main"))


GGUF_REPOSITORY = {
    "README.md": b"x",
    "Tiny-Q4_K_M.gguf": WEIGHTS,
    "Tiny-Q8_0.gguf": WEIGHTS[:7000],
    "mmproj-Tiny-f16.gguf": b"x",
    "BF16/Tiny-BF16-00001-of-00002.gguf": WEIGHTS[:6000],
    "BF16/Tiny-BF16-00002-of-00002.gguf": WEIGHTS[:5000],
}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("acme/tiny-gguf:q4_k_m", ["Tiny-Q4_K_M.gguf"]),
        ("acme/tiny-gguf@main:Q8_0", ["Tiny-Q8_0.gguf"]),
        ("acme/tiny-gguf:Tiny-Q8_0.gguf", ["Tiny-Q8_0.gguf"]),
        ("acme/tiny-gguf/Tiny-Q8_0.gguf", ["Tiny-Q8_0.gguf"]),
        ("acme/tiny-gguf:bf16", ["BF16/Tiny-BF16-00001-of-00002.gguf", "BF16/Tiny-BF16-00002-of-00002.gguf"]),
        ("acme/tiny-gguf/BF16/Tiny-BF16-00002-of-00002.gguf", ["BF16/Tiny-BF16-00001-of-00002.gguf"]),
    ],
)
def test_gguf_by_tag_and_file(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, files: list[str]) -> None:
    hub.repositories["acme/tiny-gguf"] = Repository(dict(GGUF_REPOSITORY))
    path = fetch(parse_hub_name(name))
    assert path.as_posix().endswith(files[0])
    root = Path(str(path).removesuffix(files[0]))
    assert all((root / file).read_bytes() == GGUF_REPOSITORY[file] for file in files)
    assert not {file for file, _ in hub.downloads()} - set(GGUF_REPOSITORY) - {"README.md"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(parse_hub_name(name)) == path


@pytest.mark.parametrize("choice", [None, "Q5_K_M", "nothing.gguf"])
def test_no_gguf_chosen_lists_the_choices(hub: FakeHub, choice: str | None) -> None:
    hub.repositories["acme/tiny-gguf"] = Repository(dict(GGUF_REPOSITORY))
    with pytest.raises(ModelNotFound) as error:
        fetch(HubName("acme/tiny-gguf", choice=choice))
    assert all(tag in str(error.value) for tag in ("Q4_K_M", "Q8_0", "BF16"))
    assert "mmproj" not in str(error.value)
    assert hub.downloads() == []


def test_several_gguf_with_one_tag_are_listed_by_file(hub: FakeHub) -> None:
    hub.repositories["acme/two"] = Repository({"a-Q4_0.gguf": b"x", "b-Q4_0.gguf": b"x"})
    with pytest.raises(ModelNotFound, match=r"2 GGUF models that match 'Q4_0'.*a-Q4_0\.gguf, b-Q4_0\.gguf"):
        fetch(HubName("acme/two", choice="Q4_0"))


def test_broken_connections_are_resumed_within_a_process(hub: FakeHub) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    hub.cut_after = 30_000
    folder = fetch(HubName("acme/tiny"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [start for file, start in hub.downloads() if file == "model.safetensors"]
    assert ranges == ["bytes=0-", "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_server_without_ranges_still_resumes_right(hub: FakeHub) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    blobs = remote._storage_folder("acme/tiny") / "blobs"
    blobs.mkdir(parents=True)
    import hashlib

    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.headrace.incomplete").write_bytes(WEIGHTS[:40_000])
    hub.ignore_ranges = True
    assert (fetch(HubName("acme/tiny")) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_partial_file_that_is_not_a_prefix_is_thrown_away(hub: FakeHub) -> None:
    import hashlib

    hub.repositories["acme/tiny"] = folder_model()
    blobs = remote._storage_folder("acme/tiny") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.headrace.incomplete").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match=r"model\.safetensors came damaged"):
        fetch(HubName("acme/tiny"))
    assert (fetch(HubName("acme/tiny")) / "model.safetensors").read_bytes() == WEIGHTS


def test_damaged_bytes_never_reach_the_cache(hub: FakeHub) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    hub.corrupt = True
    with pytest.raises(ModelError, match="came damaged"):
        fetch(HubName("acme/tiny"))
    hub.corrupt = False
    assert (fetch(HubName("acme/tiny")) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_hub_that_sends_nothing_is_given_up(hub: FakeHub) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    hub.cut_after = 0
    with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1|try again"):
        fetch(HubName("acme/tiny"))


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_the_next(hub: FakeHub, tmp_path: Path) -> None:
    weights = os.urandom(9 << 20)
    hub.repositories["acme/tiny"] = Repository({"config.json": b"{}", "model.safetensors": weights})
    hub.hang_after = 5 << 20
    program = "from headrace.hub.remote import fetch, HubName; print(fetch(HubName('acme/tiny')))"
    cache = tmp_path / "cache"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    wait_until(lambda: any(file.stat().st_size >= 4 << 20 for file in cache.rglob("*.incomplete")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.hang_after = None
    again = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (Path(again.stdout.strip()) / "model.safetensors").read_bytes() == weights
    starts = [start for file, start in hub.downloads() if file == "model.safetensors"]
    assert starts[0] == "bytes=0-"
    assert int(starts[1].removeprefix("bytes=").rstrip("-")) >= 4 << 20
    assert not list(cache.rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((401, "GatedRepo"), "acme/tiny is gated; accept its terms on its page, then set HF_TOKEN"),
        (
            (401, "RepoNotFound"),
            "no repository acme/tiny on 127.0.0.1, or it is private; check the name, or set HF_TOKEN",
        ),
        ((401, ""), "127.0.0.1 refuses access to acme/tiny"),
        ((403, ""), "127.0.0.1 refuses access to acme/tiny"),
        ((429, ""), "127.0.0.1 asks to slow down"),
        ((503, ""), "127.0.0.1 answered HTTP 503 for acme/tiny; try again later"),
    ],
)
def test_refusals_are_one_line_with_what_to_do(hub: FakeHub, error: tuple[int, str], message: str) -> None:
    hub.repositories["acme/tiny"] = folder_model()
    hub.repositories["acme/tiny"].error = error
    with pytest.raises(ModelError) as raised:
        fetch(HubName("acme/tiny"))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_no_such_repository(hub: FakeHub) -> None:
    with pytest.raises(ModelNotFound, match="no repository acme/nothing on"):
        fetch(HubName("acme/nothing"))


def test_unreachable_hub_takes_the_cached_copy_and_says_so(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    hub.repositories["acme/tiny"] = folder_model()
    folder = fetch(HubName("acme/tiny"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(HubName("acme/tiny")) == folder
    assert "cannot reach 127.0.0.1" in caplog.text
    assert "using the cached copy" in caplog.text
    with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1 .*check the network"):
        fetch(HubName("acme/other"))


def test_offline_and_partly_cached(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index, **dict.fromkeys(shards, WEIGHTS)}
    hub.repositories["acme/tiny"] = Repository(files)
    folder = fetch(HubName("acme/tiny"))
    (folder / shards[1]).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=rf"only partly in the cache \({shards[1]} is missing\)"):
        fetch(HubName("acme/tiny"))


def test_only_old_weights(hub: FakeHub) -> None:
    hub.repositories["acme/old"] = Repository({"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(UnsupportedModel, match=r"acme/old holds pytorch_model\.bin, expected \.safetensors"):
        fetch(HubName("acme/old"))


def test_full_disk_is_known_before_the_download(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    hub.repositories["acme/tiny"] = folder_model()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (0, 0, 0) and type("U", (), {"free": 50_000})())
    with pytest.raises(ModelError, match=r"needs 0\.0 GB and the disk of .* has 0\.0 GB free; make room"):
        fetch(HubName("acme/tiny"))
    assert hub.downloads() == []


def test_disk_that_fills_up_on_the_way(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.repositories["acme/tiny"] = folder_model()
    monkeypatch.setattr("headrace.hub.download._Transfer._append", full)
    with pytest.raises(ModelError, match=r"the disk of .*cache is full; make room"):
        fetch(HubName("acme/tiny"))


def test_token_goes_to_the_hub_and_into_no_message(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    hub.repositories["acme/tiny"] = folder_model()
    hub.repositories["acme/tiny"].error = (403, "")
    with pytest.raises(ModelError) as error:
        fetch(HubName("acme/tiny"))
    assert "Bearer hf_verysecret" in hub.authorizations
    assert "verysecret" not in str(error.value)


def test_two_processes_at_once_download_once(hub: FakeHub) -> None:
    import threading

    hub.repositories["acme/tiny"] = folder_model()
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(HubName("acme/tiny")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert [file for file, _ in hub.downloads()].count("model.safetensors") == 1
