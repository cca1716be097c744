"""A live server on a free port, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_llm import FakeLLM, serving


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
