"""How much of the machine's memory the KV cache gets, and what that means in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.config import CacheType, EngineConfig
from headrace.errors import ConfigError, DoesNotFit

SHARE_OF_FREE_MEMORY = 0.5
"""At most this much of the memory that is free after loading the weights; it is touched only as it is used."""


@dataclass(frozen=True, slots=True)
class KVPlan:
    """`num_blocks` blocks in all layers together, and the longest sequence that the engine accepts."""

    num_blocks: int
    block_size: int
    block_bytes: int
    max_context: int
    free_memory: int
    dtype: CacheType = CacheType.F16

    @property
    def token_bytes(self) -> int:
        """Size of a token in all layers together."""
        return self.block_bytes // self.block_size

    def check_fits(
        self, max_sequences: int, prompt_tokens: int, max_tokens: int, beam_width: int | None = None
    ) -> None:
        """Raise DoesNotFit if a sequence of that length, or a search of that width, could never run, even alone."""
        width, size = beam_width or 1, self.block_size
        if width > max_sequences:
            raise DoesNotFit(
                f"beam_width is {width} and {max_sequences} sequences run at once; lower it, or start with more"
                " --max-sequences",
                param="beam_width",
            )
        shared = prompt_tokens // size
        needed = shared + width * (-(-(prompt_tokens + max_tokens) // size) - shared)
        if needed > self.num_blocks:
            raise DoesNotFit(
                f"the request needs {needed * size:,} tokens of KV cache and there are"
                f" {self.num_blocks * size:,}; shorten it, lower max_tokens, or start with more --kv-memory",
                param="max_tokens",
            )

    def __str__(self) -> str:
        tokens = self.num_blocks * self.block_size
        size = format_bytes(self.num_blocks * self.block_bytes)
        return (
            f"KV cache ({self.dtype}): {tokens:,} tokens in {self.num_blocks:,} blocks, up to {size} of"
            f" {format_bytes(self.free_memory)} free memory; context {self.max_context:,} tokens"
        )


def plan_kv_cache(
    config: EngineConfig, *, dtype: CacheType, block_bytes: int, model_context: int, free_memory: int
) -> KVPlan:
    """Choose the number of blocks and the context.

    `block_bytes` is a block's size in all layers together, `model_context` the longest sequence that the model
    supports, `free_memory` what the machine has left, in bytes.

    Raises:
        ConfigError: the context asked for exceeds the model's, or does not fit into the memory.
    """
    size = config.block_size
    if config.max_context is not None and config.max_context > model_context:
        raise ConfigError(
            f"max_context is {config.max_context:,}, but the model was made for {model_context:,} tokens;"
            " ask for at most that"
        )
    context = config.max_context or model_context
    budget = config.kv_memory if config.kv_memory is not None else int(free_memory * SHARE_OF_FREE_MEMORY)
    most_useful = config.max_sequences * -(-context // size)
    num_blocks = min(budget // block_bytes, most_useful)
    if num_blocks < 1 or (config.max_context is not None and num_blocks * size < context):
        raise ConfigError(
            f"a context of {context:,} tokens needs {format_bytes(-(-context // size) * block_bytes)} of KV cache and"
            f" {format_bytes(budget)} is planned for it (memory left beside the weights:"
            f" {format_bytes(free_memory)}); lower --max-context or raise --kv-memory"
        )
    return KVPlan(num_blocks, size, block_bytes, min(context, num_blocks * size), free_memory, dtype)


def free_memory() -> int:
    """Bytes that this process can still take: the machine's available memory, or its cgroup's if that is less."""
    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = Path(limit_file).read_text().strip(), int(Path(usage_file).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            available = min(available, max(int(limit) - used, 0))
    return available


def format_bytes(size: int) -> str:
    """A size for people: `1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
