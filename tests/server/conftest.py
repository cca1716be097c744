"""A live server on a free port, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_llm import FakeLLM, serving

from headrace import AsyncLLM, EngineConfig


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


@pytest.fixture(scope="session")
def llm() -> AsyncLLM:
    """The bundled model behind `base`."""
    return AsyncLLM("stories", EngineConfig(kv_memory=8 * 2**20, threads=1))


@pytest.fixture(scope="session")
def base(llm: AsyncLLM) -> Iterator[str]:
    """Base URL of a server of the bundled model, shared by all tests."""
    with serving(llm, "stories") as base:
        yield base
