"""Files and batches through the official client, over a stand-in engine."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_llm import FakeLLM, serving
from waiting import asked_until, wait_until

from headrace import AsyncLLM, EngineConfig
from headrace.errors import ConfigError, DeadlyRequest, EngineError, Overloaded
from headrace.server.settings import ServerSettings
from headrace.server.stored.folder import write_file
from headrace.server.stored.kept import Kept

ENDED = ("completed", "failed", "cancelled", "expired")
CHAT = "/v1/chat/completions"


def client_of(base: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[openai.OpenAI]:
    with serving(FakeLLM(), store_folder=tmp_path / "store") as base:
        yield client_of(base)


def line(number: int, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    body = {"model": "fake", "messages": [{"role": "user", "content": f"Hi {number}."}], "max_tokens": 4, **fields}
    body = {name: value for name, value in body.items() if value is not None}
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def jsonl(lines: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def upload(client: openai.OpenAI, lines: Sequence[Any] | bytes) -> str:
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    return client.files.create(file=("input.jsonl", content), purpose="batch").id


def create(client: openai.OpenAI, lines: Sequence[Any] | bytes, endpoint: Any = CHAT) -> str:
    file_id = upload(client, lines)
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h").id


def wait(client: openai.OpenAI, batch_id: str, statuses: Sequence[str] = ENDED) -> Any:
    return asked_until(lambda: client.batches.retrieve(batch_id), lambda batch: batch.status in statuses)


def results(client: openai.OpenAI, file_id: str) -> list[Any]:
    return [json.loads(each) for each in client.files.content(file_id).text.splitlines()]


def test_files(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 50 + b"\r\n--not the boundary\r\n"
    made = client.files.create(
        file=("../../a \"b\".jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )  # fmt: skip
    assert (made.object, made.bytes, made.purpose, made.status) == ("file", len(content), "batch", "processed")
    assert made.filename == '../../a "b".jsonl'
    assert made.expires_at - made.created_at == 3600
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == content
    other = client.files.create(file=("b.jsonl", b""), purpose="batch")
    assert [file.id for file in client.files.list()] == [other.id, made.id]
    assert [file.id for file in client.files.list(order="asc", limit=1)] == [made.id, other.id]
    assert client.files.list(purpose="batch_output").data == []
    assert client.files.delete(made.id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


@pytest.mark.parametrize("name", ["../lock", "file-" + "0" * 32, "%2e%2e%2flock", "lock"])
def test_ids_of_requests_reach_no_file(client: openai.OpenAI, name: str) -> None:
    for path in ("files/{}", "files/{}/content", "batches/{}", "responses/{}"):
        reply = httpx.get(str(client.base_url) + path.format(name))
        assert reply.status_code in (404, 405)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": "batch", "more": "1"}, "more"),
        ({}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, None),
    ],
)
def test_uploads_refused_by_name(client: openai.OpenAI, fields: Any, param: str | None) -> None:
    reply = httpx.post(f"{client.base_url}files", data=fields, files={"file": ("a", b"a")})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param or param is None
    reply = httpx.post(f"{client.base_url}files", data={"purpose": "batch"}, files={"other": ("a", b"a")})
    assert reply.status_code == 400


@pytest.mark.parametrize(
    "body",
    [b"", b"--x", b"--x\r\n", b"--x\r\n\r\n--x--", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na'],
)
def test_malformed_forms(client: openai.OpenAI, body: bytes) -> None:
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data"):
        reply = httpx.post(f"{client.base_url}files", content=body, headers={"content-type": kind})
        assert reply.status_code == 400


def test_the_store_is_bounded(tmp_path: Path) -> None:
    limits = {"max_stored_files": 3, "max_stored_file_bytes": 1000, "max_file_bytes": 700}
    with serving(FakeLLM(), store_folder=tmp_path, **limits) as base:
        client = client_of(base)
        first = upload(client, b"a" * 600)
        with pytest.raises(openai.APIStatusError) as full:
            upload(client, b"a" * 600)
        assert full.value.status_code == 413
        with pytest.raises(openai.APIStatusError) as large:
            upload(client, b"a" * 70_000)
        assert large.value.status_code == 413
        upload(client, b"a")
        upload(client, b"a")
        with pytest.raises(openai.APIStatusError, match="3 files"):
            upload(client, b"a")
        client.files.delete(first)
        upload(client, b"a" * 600)


def test_a_batch(client: openai.OpenAI) -> None:
    lines = [line(number) for number in range(20)]
    lines[7]["body"]["temperature"] = "hot"
    lines[8]["body"]["stream"] = True
    lines[9]["body"]["model"] = "other"
    batch = wait(client, create(client, lines))
    assert batch.status == "completed"
    assert batch.model == "fake"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (20, 17, 3)
    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert times == sorted(times)
    found = results(client, batch.output_file_id)
    assert [each["custom_id"] for each in found] == [f"line-{n}" for n in range(20) if n not in (7, 8, 9)]
    for each in found:
        number = int(each["custom_id"].removeprefix("line-"))
        assert each["error"] is None
        response = each["response"]
        assert response["status_code"] == 200
        live = client.chat.completions.create(**lines[number]["body"])
        assert response["body"]["choices"] == json.loads(live.model_dump_json(exclude_unset=True))["choices"]
    failed = results(client, batch.error_file_id)
    assert [(each["custom_id"], each["response"]["status_code"]) for each in failed] == [
        *(("line-7", 400), ("line-8", 400), ("line-9", 404)),
    ]
    assert [each["response"]["body"]["error"]["param"] for each in failed] == ["temperature", "stream", "model"]
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert [each.id for each in client.batches.list(limit=1)] == [batch.id]


def test_other_endpoints(client: openai.OpenAI) -> None:
    prompts = [line(n, "/v1/completions", messages=None, prompt=f"Hi {n}.") for n in range(3)]
    assert wait(client, create(client, prompts, "/v1/completions")).request_counts.completed == 3
    inputs = [line(n, "/v1/responses", messages=None, max_tokens=None, input="Hi.", max_output_tokens=3) for n in "ab"]
    batch = wait(client, create(client, inputs, "/v1/responses"))
    [one, _] = results(client, batch.output_file_id)
    assert client.responses.retrieve(one["response"]["body"]["id"]).status == "incomplete"
    inputs[0]["body"]["background"] = True
    assert wait(client, create(client, inputs, "/v1/responses")).request_counts.failed == 1


def test_embeddings(tmp_path: Path) -> None:
    llm = AsyncLLM("stories", EngineConfig(kv_memory=2**24, threads=1))
    with serving(llm, "stories", store_folder=tmp_path) as base:
        client = client_of(base)
        lines = [
            line(n, "/v1/embeddings", messages=None, max_tokens=None, model="stories", input=n) for n in ("a", "b")
        ]
        batch = wait(client, create(client, lines, "/v1/embeddings"))
        found = results(client, batch.output_file_id)
        live = client.embeddings.create(model="stories", input="b", encoding_format="float")
        assert found[1]["response"]["body"]["data"][0]["embedding"] == live.data[0].embedding


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (b"nonsense\n", "invalid_json_line"),
        (b"\xff\xfe\n", "invalid_json_line"),
        (b"[" * 100_000 + b"\n", "invalid_json_line"),
        (jsonl([{**line(0), "body": []}]), "invalid_json_line"),
        (jsonl([{**line(0), "method": "GET"}]), "invalid_method"),
        (jsonl([line(0, "/v1/load_lora_adapter")]), "mismatched_endpoint"),
        (jsonl([line(0), line(0)]), "duplicate_custom_id"),
        (jsonl([{**line(0), "custom_id": ""}]), "invalid_custom_id"),
    ],
)
def test_what_is_wrong_with_the_input(client: openai.OpenAI, content: bytes, code: str) -> None:
    batch = wait(client, create(client, content))
    assert batch.status == "failed"
    assert [error.code for error in batch.errors.data] == [code]
    assert batch.output_file_id is None
    assert batch.failed_at


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/videos"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-1"}, "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"priority": 1}, "priority"),
    ],
)
def test_batches_refused_by_name(client: openai.OpenAI, fields: Any, param: str) -> None:
    body = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": upload(client, [line(0)]), **fields}
    reply = httpx.post(f"{client.base_url}batches", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_cancel(tmp_path: Path) -> None:
    llm = FakeLLM(step_seconds=30)
    with serving(llm, store_folder=tmp_path, batch_lines_at_once=3) as base:
        client = client_of(base)
        batch_id = create(client, [line(number) for number in range(10)])
        wait_until(lambda: len(llm.streams) >= 3)
        assert client.batches.cancel(batch_id).status in ("cancelling", "finalizing", "cancelled")
        batch = wait(client, batch_id)
        assert batch.status == "cancelled"
        assert all(stream.is_cancelled for stream in llm.streams)
        assert len(llm.streams) == 3, "no more than so many at once"
        assert batch.output_file_id is None
        assert {each["error"]["code"] for each in results(client, batch.error_file_id)} == {"batch_cancelled"}
        assert batch.request_counts.failed == 10
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch_id)
        llm.step_seconds = 0
        assert wait(client, create(client, [line(1)])).status == "completed", "the places are free again"


def full_disk(monkeypatch: pytest.MonkeyPatch, mark: bytes) -> list[bytes]:
    """The first record with the mark finds no space; what was refused."""
    refused: list[bytes] = []

    def write(path: Path, content: bytes) -> None:
        if mark in content and not refused:
            refused.append(content)
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(path, content)

    monkeypatch.setattr("headrace.server.stored.batches.write_file", write)
    return refused


def test_a_disk_that_is_full_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = full_disk(monkeypatch, b'"status":"cancelled"')
    monkeypatch.setattr("headrace.server.stored.batch_runner._TRY_AGAIN_SECONDS", 0.01)
    with serving(FakeLLM(step_seconds=30), store_folder=tmp_path) as base:
        client = client_of(base)
        batch_id = create(client, [line(number) for number in range(10)])
        client.batches.cancel(batch_id)
        record = tmp_path / "batches" / batch_id / "batch.json"
        status = asked_until(lambda: json.loads(record.read_bytes())["status"], lambda status: status in ENDED)
    assert refused
    assert status == "cancelled"


def test_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.server.stored.batches.WINDOW_SECONDS", 0.2)
    with serving(FakeLLM(step_seconds=30), store_folder=tmp_path) as base:
        client = client_of(base)
        batch = wait(client, create(client, [line(number) for number in range(10)]))
        assert batch.status == "expired"
        assert {each["error"]["code"] for each in results(client, batch.error_file_id)} == {"batch_expired"}


def test_what_is_done_in_time_is_completed_whenever_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = full_disk(monkeypatch, b'"status":"finalizing"')
    monkeypatch.setattr("headrace.server.stored.batches.WINDOW_SECONDS", 2)
    monkeypatch.setattr("headrace.server.stored.batch_runner._TRY_AGAIN_SECONDS", 2.1)
    with serving(FakeLLM(), store_folder=tmp_path) as base:
        client = client_of(base)
        batch = wait(client, create(client, [line(number) for number in range(3)]))
    assert refused
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)


def test_a_restart_goes_on(tmp_path: Path) -> None:
    """The server stops between results: what is done stays done, and nothing comes twice."""

    class Stuck(FakeLLM):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            if len(self.streams) == 11:
                self.step_seconds = 30
            return super().submit(*args, **kwargs)

    llm = Stuck()
    lines = [line(number, temperature=1) for number in range(60)]
    with serving(llm, store_folder=tmp_path, batch_lines_at_once=4, shutdown_seconds=0) as base:
        client = client_of(base)
        batch_id = create(client, lines)
        wait_until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= 8)
    seeds = {bytes(stream.prompt_token_ids): stream.params.seed for stream in llm.streams}
    output = tmp_path / "batches" / batch_id / "output.jsonl"
    before = output.read_bytes()
    assert 8 <= before.count(b"\n") < 12
    output.write_bytes(before + b'{"id": "batch_req_')  # half a line, as a crash may leave it
    later = FakeLLM()
    with serving(later, store_folder=tmp_path) as base:
        client = client_of(base)
        batch = wait(client, batch_id)
        assert batch.status == "completed"
        found = results(client, batch.output_file_id)
    assert [each["custom_id"] for each in found] == [f"line-{number}" for number in range(60)]
    assert all(any(json.loads(done) == each for each in found) for done in before.splitlines())
    again = {bytes(stream.prompt_token_ids): stream.params.seed for stream in later.streams}
    assert len(again) == 60 - before.count(b"\n")
    both = seeds.keys() & again.keys()
    assert both, "some were cut off, and run again"
    assert all(seeds[each] == again[each] for each in both)
    assert len({*seeds.values(), *again.values()}) == 60


def test_lines_wait_for_a_server_without_room(tmp_path: Path) -> None:
    llm = FakeLLM(fail_after=0, fail_with=Overloaded("no room"))
    with serving(llm, store_folder=tmp_path) as base:
        client = client_of(base)
        batch_id = create(client, [line(0)])
        wait_until(lambda: len(llm.streams) >= 2)
        llm.fail_after = None
        assert wait(client, batch_id).request_counts.completed == 1
        llm.fail_after, llm.fail_with = 0, EngineError("it died of this request")
        assert wait(client, create(client, [line(0)])).request_counts.failed == 1


def test_a_line_that_the_engine_died_of_is_not_sent_again(tmp_path: Path) -> None:
    llm = DyingLLM()
    with serving(llm, store_folder=tmp_path / "store") as base:
        client = client_of(base)
        batch = wait(client, create(client, [line(0)]))
        (result,) = results(client, batch.error_file_id)
    assert result["response"]["body"]["error"]["code"] == "deadly_request"
    assert llm.num_deaths == 1


class DyingLLM(FakeLLM):
    """Dies of each request, and is being started again ever after; as the supervised engine, it still takes more."""

    num_deaths = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.trouble = None
        stream = super().submit(*arguments, **options)
        self.num_deaths += 1
        self.trouble, self.fail_after = "the engine is being started again", 0
        self.fail_with = DeadlyRequest("the engine died of this request more than once; do not send it again")
        return stream


def test_batches_come_after_live_requests(tmp_path: Path) -> None:
    priorities: list[tuple[int, int | None]] = []

    class Noting(FakeLLM):
        def submit(self, prompt: Any, params: Any, *, priority: int = 0, **options: Any) -> Any:
            priorities.append((priority, params.seed))
            return super().submit(prompt, params, priority=priority, **options)

    with serving(Noting(), store_folder=tmp_path) as base:
        client = client_of(base)
        wait(client, create(client, [line(0), line(1, priority=5, seed=3), line(2, priority=-5)]))
        client.chat.completions.create(**line(0)["body"])
    assert sorted(priority for priority, _ in priorities) == [0, 1000, 1000, 1005]
    assert dict(priorities)[1005] == 3
    assert dict(priorities)[1000] is not None


def test_tenants_see_their_own(tmp_path: Path) -> None:
    with serving(FakeLLM(), store_folder=tmp_path, api_keys=("one", "two")) as base:
        mine, other = client_of(base, "one"), client_of(base, "two")
        batch = wait(mine, create(mine, [line(0)]))
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(batch.output_file_id)
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(batch.id)
        assert other.files.list().data == []
        assert other.batches.list().data == []
        with pytest.raises(openai.BadRequestError):
            other.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")


def test_without_a_folder(quick: str) -> None:
    client = client_of(quick)
    for ask in (lambda: upload(client, [line(0)]), client.files.list, client.batches.list):
        with pytest.raises(openai.APIStatusError, match="--store") as refused:
            ask()
        assert refused.value.status_code == 501


def test_a_folder_is_one_servers(tmp_path: Path) -> None:
    first = Kept(ServerSettings(store_folder=tmp_path))
    with pytest.raises(ConfigError, match="another server's"):
        Kept(ServerSettings(store_folder=tmp_path))
    assert not Kept(ServerSettings(store_folder=tmp_path, store_is_optional=True)).has_batches
    first.close()
    Kept(ServerSettings(store_folder=tmp_path)).close()


def test_kept_responses_outlive_the_server(tmp_path: Path) -> None:
    options: Any = {"store_folder": tmp_path, "keep_responses": True, "shutdown_seconds": 0}
    llm = FakeLLM()
    with serving(llm, **options) as base:
        client = client_of(base)
        made = client.responses.create(model="fake", input="Hi.", max_output_tokens=3)
        llm.step_seconds = 30
        running = client.responses.create(model="fake", input="Hi.", background=True)
        gone = client.responses.create(model="fake", input="Hi.", background=True)
        client.responses.delete(gone.id)
    with serving(FakeLLM(), **options) as base:
        client = client_of(base)
        assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
        assert client.responses.retrieve(running.id).status == "failed"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone.id)
        client.responses.create(model="fake", input="On.", previous_response_id=made.id, max_output_tokens=2)


def test_two_batches_take_turns(tmp_path: Path) -> None:
    with serving(FakeLLM(), store_folder=tmp_path, batch_lines_at_once=1) as base:
        client = client_of(base)
        ids = [create(client, [line(number) for number in range(15)]) for _ in range(2)]
        assert [wait(client, each).request_counts.completed for each in ids] == [15, 15]
    assert threading.active_count() < 50
