"""Responses in the background when the server stops: they are finished, or say that they were not; never left open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_llm import FakeLLM, HeldLLM, answer, running
from waiting import wait_until

from headrace.server.run import Server

IDS = list(b"user: Hi.\n")


@contextmanager
def keeping(llm: FakeLLM, store: Path, **settings: Any) -> Iterator[tuple[Server, openai.OpenAI, threading.Thread]]:
    """A server that keeps its responses, and a client of it."""
    with running(llm, store_folder=store, keep_responses=True, **settings) as (server, base, thread):
        yield server, openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0), thread


def is_refused(client: openai.OpenAI) -> bool:
    try:
        client.responses.create(model="fake", input="Hi.", max_output_tokens=1)
    except openai.InternalServerError as error:
        return error.status_code == 503
    return False


def test_a_stop_waits_for_them_as_it_does_for_streams(tmp_path: Path) -> None:
    llm = HeldLLM()
    with keeping(llm, tmp_path, shutdown_seconds=300) as (server, client, thread):
        made = client.responses.create(model="fake", input="Hi.", background=True, max_output_tokens=8)
        server.should_exit = True
        wait_until(lambda: is_refused(client))
        assert client.responses.retrieve(made.id).status == "in_progress"
        llm.go.set()
        thread.join(60)
        assert not thread.is_alive()
    with keeping(FakeLLM(), tmp_path) as (_, client, _):
        found = client.responses.retrieve(made.id)
    assert (found.status, found.output_text) == ("incomplete", answer(IDS, 0, 8))


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_what_does_not_end_in_time_has_failed_and_says_why(tmp_path: Path, seconds: float) -> None:
    llm = HeldLLM()
    with keeping(llm, tmp_path, shutdown_seconds=seconds) as (server, client, thread):
        made = client.responses.create(model="fake", input="Hi.", background=True)
        assert made.status == "in_progress"
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
    assert llm.streams[0].is_cancelled
    with keeping(FakeLLM(), tmp_path) as (_, client, _):
        found = client.responses.retrieve(made.id)
        assert found.status == "failed"
        assert found.error is not None
        assert "shutting down" in found.error.message
        assert client.responses.create(model="fake", input="Hi.", max_output_tokens=2).status == "incomplete"


def test_one_that_was_cancelled_holds_nothing_up(tmp_path: Path) -> None:
    with keeping(HeldLLM(), tmp_path, shutdown_seconds=300) as (server, client, thread):
        made = client.responses.create(model="fake", input="Hi.", background=True)
        client.responses.cancel(made.id)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
    with keeping(FakeLLM(), tmp_path) as (_, client, _):
        assert client.responses.retrieve(made.id).status == "cancelled"


def test_readiness_falls_while_they_end(tmp_path: Path) -> None:
    llm = HeldLLM()
    with keeping(llm, tmp_path) as (server, client, _):
        client.responses.create(model="fake", input="Hi.", background=True, max_output_tokens=8)
        server.should_exit = True
        root = str(client.base_url).removesuffix("/v1/")
        wait_until(lambda: httpx.get(f"{root}/health/ready").status_code == 503)
        assert httpx.get(f"{root}/health/live").status_code == 200
        llm.go.set()
