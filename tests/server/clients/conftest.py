"""Servers that frameworks ask: the bundled model, with a template that knows tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_llm import FakeLLM, serving

from headrace import AsyncLLM, EngineConfig

TEMPLATE = Path(__file__).parents[2] / "features/template.jinja"


@pytest.fixture(scope="module")
def stories() -> Iterator[str]:
    """Base URL of the bundled model."""
    llm = AsyncLLM("stories", EngineConfig(kv_memory=8 * 2**20, threads=1), chat_template=TEMPLATE)
    with serving(llm, "stories") as base:
        yield base


@pytest.fixture
def slow() -> Iterator[tuple[str, FakeLLM]]:
    """A model that takes more than a minute for its answer, and its base URL."""
    llm = FakeLLM(step_seconds=0.05)
    with serving(llm) as base:
        yield base, llm
