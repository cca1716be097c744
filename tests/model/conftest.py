"""Backends and tiny models for the tests of headrace.model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_tiny

from headrace.config import CacheType
from headrace.ops.base import HeadLayout
from headrace.ops.reference import ReferenceCache, ReferenceOps


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a variant, made once."""
    pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_tiny(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


class ExactOps(ReferenceOps):
    """The oracle with float32 keys and values, so that nothing but the order of summation differs from transformers."""

    def new_kv_cache(
        self, num_layers: int, num_blocks: int, block_size: int, layout: HeadLayout, dtype: CacheType = CacheType.F32
    ) -> ReferenceCache:
        return super().new_kv_cache(num_layers, num_blocks, block_size, layout, CacheType.F32)


@pytest.fixture(scope="session")
def exact_ops() -> ExactOps:
    return ExactOps()


@pytest.fixture(scope="session", params=["reference", "cpu"])
def ops(request: pytest.FixtureRequest) -> Any:
    """Both backends."""
    if request.param == "reference":
        return ReferenceOps()
    cpu = pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    if not hasattr(cpu, "CpuOps"):
        pytest.skip("the kernels are not built")
    return cpu.CpuOps()
