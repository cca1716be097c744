"""Settings that cannot be used are refused by name."""

from __future__ import annotations

import pytest

from headrace.config import EngineConfig
from headrace.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tpu"}, "backend is 'tpu', expected one of cpu, reference"),
        ({"quantize": "q3"}, "quantize is 'q3', expected one of q8, q4"),
        ({"kv_dtype": "q4"}, "kv_dtype is 'q4', expected one of f16, f32, q8"),
        ({"threads": 0}, "threads is 0, expected a whole number of at least 1"),
        ({"threads": 5000}, "threads is 5,000, expected at most 1,024"),
        ({"max_context": True}, "max_context is True, expected a whole number"),
        ({"kv_memory": 1.5}, "kv_memory is 1.5, expected a whole number"),
        ({"block_size": 24}, "block_size is 24, expected a multiple of 16"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**settings)  # type: ignore[arg-type]
