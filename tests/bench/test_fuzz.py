"""The short form of bench/fuzz.py."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.pop(0)


def test_a_request_of_a_seed_is_always_the_same(fuzz: ModuleType) -> None:
    first, second, other = (fuzz.Cases(seed) for seed in (1, 1, 2))
    assert [first.case(number) for number in range(200)] == [second.case(number) for number in range(200)]
    assert [first.case(number) for number in range(9)] != [other.case(number) for number in range(9)]


def test_malformed_requests_get_no_500(fuzz: ModuleType) -> None:
    with fuzz.serving() as server:
        figures = asyncio.run(fuzz.measure(server, fuzz.Cases(1), 300, num_clients=8))
    assert not [finding for finding in figures["findings"] if not finding.startswith("log:")]
    assert figures["statuses"]["400"] > 100
