"""What is kept: bounds, ages, broken files on the disk, forms; without a server."""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.server.multipart import parse_form
from headrace.server.settings import ServerSettings
from headrace.server.stored.batch_files import BatchFiles, result_line
from headrace.server.stored.batch_record import BatchRecord, BatchStatus
from headrace.server.stored.errors import NotStored
from headrace.server.stored.folder import Folder, encoded
from headrace.server.stored.kept import Kept
from headrace.server.stored.responses import ResponseStore, StoredResponse, response_id

DAY = 86_400


def response(tenant: str = "a", size: int = 10, previous: str | None = None, age: float = 0) -> StoredResponse:
    body = {"status": "completed", "output": [{"text": "x" * size}]}
    return StoredResponse(
        id=response_id(), tenant=tenant, created_at=time.time() - age, previous=previous, input=[{}], response=body
    )  # fmt: skip


def is_kept(store: ResponseStore, one: StoredResponse) -> bool:
    try:
        return store.get(one.id, one.tenant).id == one.id
    except NotStored:
        return False


def test_the_least_recently_used_are_forgotten() -> None:
    store = ResponseStore(3, 10**6, DAY)
    first, second, third, fourth = [response() for _ in range(4)]
    for one in (first, second, third):
        store.put(one)
    assert is_kept(store, first)  # and used
    store.put(fourth)
    assert [is_kept(store, one) for one in (first, second, third, fourth)] == [True, False, True, True]


def test_the_tenant_with_the_most_loses_first() -> None:
    store = ResponseStore(100, 5000, DAY)
    mine = response("small")
    store.put(mine)
    for _ in range(50):
        store.put(response("large", 400))
    assert is_kept(store, mine)
    huge = response("other", 6000)
    store.put(huge)
    assert not is_kept(store, huge)
    assert is_kept(store, mine)


def test_the_old_are_forgotten() -> None:
    store = ResponseStore(10, 10**6, DAY)
    old, new = response(age=DAY + 1), response(age=DAY - 60)
    store.put(old)
    store.put(new)
    assert [is_kept(store, one) for one in (old, new)] == [False, True]


def test_the_old_leave_the_folder_without_being_asked_for(tmp_path: Path) -> None:
    stored = {name: response(age=DAY - 60 if name == "new" else DAY + 1) for name in ("old", "new")}
    (tmp_path / "responses").mkdir()
    for one in stored.values():
        (tmp_path / "responses" / f"{one.id}.json").write_bytes(encoded(one))
    folder = Folder(tmp_path)
    ResponseStore(10, 10**6, DAY, folder)
    folder.close()
    assert [path.stem for path in (tmp_path / "responses").iterdir()] == [stored["new"].id]


@pytest.mark.parametrize("num_written", [0, 1])
def test_a_full_disk_keeps_nothing_of_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_written: int
) -> None:
    kept = Kept(ServerSettings(store_folder=tmp_path))
    replaced: list[Path] = []
    replace = Path.replace

    def full(source: Path, target: Path) -> Path:
        if len(replaced) == num_written:
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced.append(target)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(kept.files.add("a", "in.jsonl", "batch", b"content"))
    kept.close()
    assert len(replaced) == num_written
    assert list((tmp_path / "files").iterdir()) == []


def test_a_conversation_needs_all_its_turns() -> None:
    store = ResponseStore(10, 10**6, DAY)
    first = response()
    second = response(previous=first.id)
    store.put(first)
    store.put(second)
    assert store.history(second.id, "a") == [*first.input, *first.response["output"]] * 2
    store.delete(first.id, "a")
    with pytest.raises(RequestError, match=first.id) as missing:
        store.history(second.id, "a")
    assert missing.value.param == "previous_response_id"


def test_what_others_left_in_the_folder_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "responses").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "batches" / f"batch_{'0' * 32}").mkdir(parents=True)
    odd = {
        f"responses/resp_{'0' * 32}.json": b"{",
        "responses/notes.json": b"{}",
        f"files/file-{'0' * 32}.json": b"[]",
        f"files/file-{'0' * 32}.data": b"x",
        f"batches/batch_{'0' * 32}/batch.json": b"",
    }
    for name, content in odd.items():
        (tmp_path / name).write_bytes(content)
    kept = Kept(ServerSettings(store_folder=tmp_path, keep_responses=True))
    assert kept.files.owned_by("everybody") == []
    assert kept.batches.unfinished() == []
    kept.close()
    assert all((tmp_path / name).read_bytes() == content for name, content in odd.items())


def record() -> BatchRecord:
    return BatchRecord(
        id=f"batch_{secrets.token_hex(16)}", tenant="a", endpoint="/v1/completions", input_file_id="file-1",
        completion_window="24h", metadata=None, output_seconds=None, created_at=0, expires_at=1, seed=5,
        output_file_id="file-2", error_file_id="file-3", status=BatchStatus.IN_PROGRESS,
    )  # fmt: skip


@given(cut=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_wherever_a_crash_cuts_the_results(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder, batch = tmp_path_factory.mktemp("batch"), record()
    files = BatchFiles(folder)
    lines = [result_line(batch, number, f"line {number}", response={"n": number}) for number in (2, 0, 1)]
    files.append("output.jsonl", lines)
    files.close()
    path = folder / "output.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    done, completed, failed = files.recover()
    num_whole = whole[:cut].count(b"\n")
    assert (done, completed, failed) == ({2, 0, 1} if num_whole == 3 else set([2, 0, 1][:num_whole]), num_whole, 0)
    files.append("output.jsonl", lines[num_whole:])
    files.close()
    assert path.read_bytes() == whole
    arranged = files.arrange("output.jsonl")
    assert arranged is not None
    assert arranged.read_bytes().splitlines() == [lines[1], lines[2], lines[0]]


def test_seeds_of_lines_differ_and_stay() -> None:
    batch = record()
    seeds = [batch.line_seed(number) for number in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert record().line_seed(3) == seeds[3]


@given(st.dictionaries(st.text("abc[]", min_size=1, max_size=5), st.binary(max_size=300), max_size=5), st.booleans())
def test_forms(fields: dict[str, bytes], has_preamble: bool) -> None:
    boundary = secrets.token_hex(8)
    body = b"preamble\r\n" * has_preamble
    for name, content in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\nX: y\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    parts = parse_form(f"multipart/form-data; boundary={boundary}", body)
    assert {name: bytes(part.content) for name, part in parts.items()} == fields


@given(st.binary(max_size=200))
def test_any_body_is_a_form_or_refused(body: bytes) -> None:
    for start in (b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n'):
        try:
            parse_form('multipart/form-data; boundary="x"', start + body)
        except RequestError:
            continue
