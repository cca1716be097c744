"""The short form of bench/fuzz.py."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
import fuzz


def test_a_request_of_a_seed_is_always_the_same() -> None:
    first, second, other = (fuzz.Cases(seed) for seed in (1, 1, 2))
    assert [first.case(number) for number in range(200)] == [second.case(number) for number in range(200)]
    assert [first.case(number) for number in range(9)] != [other.case(number) for number in range(9)]


def test_malformed_requests_get_no_500() -> None:
    with fuzz.serving() as server:
        figures = asyncio.run(asyncio.wait_for(fuzz.measure(server, fuzz.Cases(1), 300, num_clients=8), 600))
    assert figures["findings"] == []
    assert figures["statuses"]["400"] > 100
