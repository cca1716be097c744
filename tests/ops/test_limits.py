"""The loops that measure the machine: they run on every instruction set and refuse what they cannot measure."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.cpu import CpuOps


@pytest.mark.parametrize("threads", [1, 3])
def test_rates_are_positive(ops: CpuOps, threads: int) -> None:
    ops = CpuOps(threads, ops.instruction_set)
    assert 1e6 < ops.read_rate(np.ones((1 << 18) + 5, np.float32)) < 1e15
    assert 1e6 < ops.multiply_add_rate() < 1e15
    assert 1e6 < ops.dot_rate() < 1e15


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 262,144 values"):
        CpuOps(1).read_rate(np.ones((1 << 18) - 1, np.float32))
