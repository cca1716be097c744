"""A batch on the real engine, whose whole server is killed: no line twice, none missing, the same texts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from server.openai_state.live_server import LiveServer
from waiting import asked_until

from headrace.server.stored.batch_record import BatchRecord

NUM_LINES = 60
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def body(number: int) -> dict[str, Any]:
    """Different lengths, temperatures; every third one structured, every fourth with a seed of its own."""
    fields: dict[str, Any] = {
        "model": "stories",
        "prompt": f"Once upon a time, {number} cats",
        "max_tokens": 20 + number % 7 * 10,
        "temperature": number % 2,
    }
    if number % 3 == 0:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    if number % 4 == 0:
        fields["seed"] = number
    return fields


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    moments = random.Random(5)
    store = tmp_path / "store"
    arguments = ["serve", "stories", "--port", "0", "--threads", "1", "--kv-memory", "64MiB", "--store", str(store)]

    def start() -> tuple[LiveServer, openai.OpenAI]:
        server = LiveServer(arguments, tmp_path)
        return server, openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)

    server, client = start()
    lines = [
        {"custom_id": f"n{n}", "method": "POST", "url": "/v1/completions", "body": body(n)} for n in range(NUM_LINES)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    uploaded = client.files.create(file=("in.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/completions", completion_window="24h")
    folder = store / "batches" / made.id
    num_cut = 0
    for _ in range(3):
        wait_for_lines(client, made.id, folder, num_done(folder) + moments.randrange(1, 12))
        num_cut += client.batches.retrieve(made.id).status == "in_progress"
        server.kill()
        server, client = start()
    assert num_cut, "it was killed in the midst of its work, whatever the machine did beside"
    batch = asked_until(
        lambda: client.batches.retrieve(made.id),
        lambda batch: batch.status not in ("in_progress", "finalizing"),
        seconds=300,
    )
    assert batch.status == "completed", batch
    found = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [each["custom_id"] for each in found] == [f"n{number}" for number in range(NUM_LINES)]
    assert (batch.request_counts.completed, batch.request_counts.failed, batch.error_file_id) == (NUM_LINES, 0, None)
    record = msgspec.json.decode((folder / "batch.json").read_bytes(), type=BatchRecord)
    for number, each in enumerate(found):
        live = client.post("/completions", body={"seed": record.line_seed(number), **body(number)}, cast_to=object)
        assert each["response"]["body"]["choices"] == live["choices"], number
    server.stop()


def wait_for_lines(client: openai.OpenAI, batch_id: str, folder: Path, number: int) -> None:
    """Until so many are done, or the batch has ended."""
    asked_until(
        lambda: client.batches.retrieve(batch_id).status,
        lambda status: num_done(folder) >= number or status not in ("validating", "in_progress"),
        seconds=300,
    )


def num_done(folder: Path) -> int:
    path = folder / "output.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
