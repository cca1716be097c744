"""A live server on a free port, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_llm import FakeLLM

from headrace.server.run import listen, make_server, url


@contextmanager
def serving(llm: Any, name: str = "fake", **options: Any) -> Iterator[str]:
    """Serve `llm` and give the base URL."""
    listener = listen("127.0.0.1", 0)
    server = make_server(llm, name, **options)
    started = threading.Event()
    server.on_started = started.set
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    base = url(listener)
    thread.start()
    assert started.wait(20), "the server did not start"
    try:
        yield base
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """serve(llm, name) → base URL; stopped at the end of the test."""
    open_servers = []

    def start(llm: Any, name: str = "fake", **options: Any) -> str:
        context = serving(llm, name, **options)
        open_servers.append(context)
        return context.__enter__()

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def quick_llm() -> FakeLLM:
    """The fake behind `quick`."""
    return FakeLLM()


@pytest.fixture(scope="session")
def quick(quick_llm: FakeLLM) -> Iterator[str]:
    """Base URL of a server that answers at once, shared by all tests."""
    with serving(quick_llm) as base:
        yield base
