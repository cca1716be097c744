"""Fixtures for the tests of operations."""

from __future__ import annotations

import pytest
from ops_cases import INSTRUCTION_SETS

from headrace.ops.cpu import CpuOps
from headrace.ops.reference import ReferenceOps


@pytest.fixture(params=INSTRUCTION_SETS)
def ops(request: pytest.FixtureRequest) -> CpuOps:
    """The CPU backend, once for each instruction set of this machine."""
    return CpuOps(2, request.param)


@pytest.fixture(params=INSTRUCTION_SETS)
def exact_ops(request: pytest.FixtureRequest) -> CpuOps:
    """The CPU backend with float32 activations, once for each instruction set of this machine."""
    return CpuOps(2, request.param, exact_activations=True)


@pytest.fixture
def reference() -> ReferenceOps:
    return ReferenceOps()
