"""Parameters of batches, which are worked off from a file between live requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import openai
from features.asking import Asking
from features.catalogue import BATCHES, Parameter, works
from waiting import asked_until

ENDPOINT = "/v1/completions"


def batch_of_one(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """The body that asks for a batch of one line, whose file is uploaded."""
    body = {"model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 12}
    line = {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": body}
    file = client.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
    return {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}


def finished(client: openai.OpenAI, batch_id: str) -> Any:
    """The batch when it has ended."""
    ended = ("completed", "failed")
    return asked_until(lambda: client.batches.retrieve(batch_id), lambda batch: batch.status in ended, seconds=300)


def results(client: openai.OpenAI, batch: Any) -> list[Any]:
    """What a finished batch gave, line by line."""
    assert batch.status == "completed", batch.errors
    return [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]


def _input_file_id(ask: Asking) -> None:
    [line] = results(ask.client, finished(ask.client, ask.answer()["id"]))
    live = ask.client.completions.create(
        model=line["response"]["body"]["model"], prompt="Once upon a time", temperature=0, max_tokens=12
    )
    assert line["custom_id"] == "a"
    assert line["response"]["body"]["choices"][0]["text"] == live.choices[0].text


def _endpoint(ask: Asking) -> None:
    ask.refusal("endpoint", endpoint="/v1/moderations")
    assert finished(ask.client, ask.answer(endpoint="/v1/embeddings")["id"]).status == "failed"


def _metadata(ask: Asking) -> None:
    assert ask.answer(metadata={"a": "b"})["metadata"] == {"a": "b"}
    ask.refusal("metadata", metadata={str(number): "" for number in range(17)})


def _output_expires_after(ask: Asking) -> None:
    batch = finished(ask.client, ask.answer(output_expires_after={"anchor": "created_at", "seconds": 3600})["id"])
    file = ask.client.files.retrieve(batch.output_file_id)
    assert file.expires_at - file.created_at == 3600
    ask.refusal("output_expires_after", output_expires_after={"anchor": "created_at", "seconds": 1})


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, endpoints=(BATCHES,), source="OpenAI")
    for one in (
        works("input_file_id", _input_file_id, "each line of the file is answered as it is live"),
        works("endpoint", _endpoint, "of all lines: chat, completions, embeddings or responses"),
        works(
            "completion_window",
            lambda ask: bool(ask.refusal("completion_window", completion_window="1h")),
            "24h; others are a 400",
        ),
        works("metadata", _metadata, "shown again; up to 16 pairs"),
        works("output_expires_after", _output_expires_after, "the file of results is gone by then"),
    )
)
