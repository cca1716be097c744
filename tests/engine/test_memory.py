"""The KV cache plan: what it promises fits, and what cannot fit is refused with both numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import CacheType, EngineConfig
from headrace.engine.memory import KVPlan, format_bytes, free_memory, plan_kv_cache
from headrace.errors import ConfigError


def plan(config: EngineConfig, block_bytes: int = 1000, model_context: int = 4096, free: int = 10_000_000) -> KVPlan:
    return plan_kv_cache(
        config, dtype=CacheType.F16, block_bytes=block_bytes, model_context=model_context, free_memory=free
    )


@given(
    st.integers(1, 10_000), st.integers(1, 100_000), st.integers(0, 10**9), st.none() | st.integers(1, 10**9),
    st.integers(1, 64),
)  # fmt: skip
def test_a_plan_fits(block_bytes: int, context: int, free: int, kv_memory: int | None, sequences: int) -> None:
    config = EngineConfig(kv_memory=kv_memory, max_sequences=sequences)
    budget = free // 2 if kv_memory is None else kv_memory
    if budget < block_bytes:
        with pytest.raises(ConfigError, match="of KV cache and"):
            plan(config, block_bytes, context, free)
        return
    found = plan(config, block_bytes, context, free)
    assert found.num_blocks * block_bytes <= budget
    assert found.max_context <= min(context, found.num_blocks * 16)
    assert found.num_blocks <= sequences * -(-context // 16)
    whole = found.num_blocks * 16 >= context
    assert (found.max_context == context) == whole  # never less than what there is room for


def test_the_context_asked_for_is_met_or_refused() -> None:
    assert plan(EngineConfig(max_context=1000)).max_context == 1000
    with pytest.raises(ConfigError, match=r"max_context is 5,000, but the model was made for 4,096"):
        plan(EngineConfig(max_context=5000))
    with pytest.raises(ConfigError, match=r"4,096 tokens needs 250.0 KiB of KV cache and 9.8 KiB is planned"):
        plan(EngineConfig(max_context=4096, kv_memory=10_000))
    assert plan(EngineConfig(kv_memory=10_000)).max_context == 160  # not asked for: what fits


def test_the_plan_is_said_in_one_line() -> None:
    line = str(plan(EngineConfig(max_sequences=2)))
    assert (
        line
        == "KV cache (f16): 8,192 tokens in 512 blocks, up to 500.0 KiB of 9.5 MiB free memory; context 4,096 tokens"
    )


def test_sizes_for_people() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30, 5000 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 GiB", "5000.0 GiB",
    ]  # fmt: skip


def test_this_machine_has_memory() -> None:
    assert free_memory() > 1 << 20
