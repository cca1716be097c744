"""What is measured, what it must reach, and what it costs at the least: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

KV_BYTES = 2
"""Of a cached element: float16"""
MIB = 1 << 20


class Kind(StrEnum):
    """How a workload is measured."""

    DECODE = "decode"
    PREFILL = "prefill"
    START = "start"
    MEMORY = "memory"
    STREAMS = "streams"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Workload:
    """One row: `batch` sequences of `context` prompt tokens that generate `tokens` each."""

    name: str
    kind: Kind
    context: int = 0
    tokens: int = 0
    batch: int = 1
    models: tuple[str, ...] = ("qwen3-0.6b", "llama3.2-1b")
    bits: tuple[int, ...] = (4, 8)
    """Weights that it is measured with: the engine's own 4-bit, 8-bit and 16-bit forms"""
    unit: str = "tokens/s"
    smaller_is_better: bool = False


WORKLOADS = (
    Workload("decode 128", Kind.DECODE, 128, 64, models=("qwen3-0.6b", "llama3.2-1b", "llama3-8b"), bits=(4, 8, 16)),
    Workload("decode 2048", Kind.DECODE, 2048, 32),
    Workload("decode 8192", Kind.DECODE, 8192, 16),
    Workload("prefill 128", Kind.PREFILL, 128, models=("llama3-8b",)),
    Workload("prefill 512", Kind.PREFILL, 512, bits=(4, 8, 16)),
    Workload("prefill 2048", Kind.PREFILL, 2048),
    Workload("8 sequences", Kind.DECODE, 64, 32, batch=8),
    Workload("32 sequences", Kind.DECODE, 64, 32, batch=32),
    Workload("first token", Kind.START, 16, 1, models=("llama3.2-1b",), unit="s", smaller_is_better=True),
    Workload("peak memory", Kind.MEMORY, 128, 64, unit="MiB", smaller_is_better=True),
    *(Workload(f"HTTP {clients}", Kind.STREAMS, 16, 128, clients, ("llama-15m",), (8,)) for clients in (1, 8, 32)),
    Workload("HTTP mixed load", Kind.MIXED, models=("qwen3-0.6b",), bits=(4,), unit="requests/s"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """At least (or, for a smaller-is-better row, at most) `ratio` × the best peer; percent of the limit that binds."""

    ratio: float
    percent: float | None = None


_TARGETS = {
    "decode 2048": Target(2.0, 70),
    "decode 8192": Target(2.0, 70),
    "prefill 128": Target(3.0),
    "prefill 512": Target(3.0, 55),
    "prefill 2048": Target(2.5),
    "8 sequences": Target(2.5),
    "32 sequences": Target(2.5, 50),
    "first token": Target(0.5),
    "peak memory": Target(1.0),
    "HTTP mixed load": Target(2.5),
}
_DECODE_TARGETS = {"qwen3-0.6b": Target(1.8, 80), "llama3.2-1b": Target(1.5, 80), "llama3-8b": Target(1.3, 80)}
_FLOAT_TARGETS = {Kind.DECODE: Target(1.1, 80), Kind.PREFILL: Target(1.5, 75)}


def target_of(workload: Workload, model: str, bits: int) -> Target:
    """What that row must reach."""
    if bits == 16 and workload.kind in _FLOAT_TARGETS:
        return _FLOAT_TARGETS[workload.kind]
    if workload.name == "decode 128":
        return _DECODE_TARGETS.get(model, _DECODE_TARGETS["qwen3-0.6b"])
    return Target(4.0) if workload.kind is Kind.STREAMS else _TARGETS[workload.name]


def quick(workload: Workload) -> Workload:
    """The same path in little time: what comes out means nothing."""
    return replace(workload, context=max(workload.context // 16, 8), tokens=min(workload.tokens, 4))


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's shape its cost depends on."""

    layer_parameters: int
    head_parameters: int
    num_layers: int
    heads_size: int
    kv_size: int

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        """From a Hugging Face configuration of a Llama-like model."""
        hidden, layers, size = config["hidden_size"], config["num_hidden_layers"], config["head_dim"]
        heads, kv = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
        layer = hidden * (heads + 2 * kv) + heads * hidden + 3 * hidden * config["intermediate_size"]
        return Shape(layers * layer, hidden * config["vocab_size"], layers, heads, kv)


@dataclass(frozen=True, slots=True)
class Cost:
    """The least that one second of a result must have read and computed."""

    nbytes: float
    operations: float

    def percent(self, bandwidth: float, peak: float) -> float:
        """Of the limit that binds."""
        return 100 * max(self.nbytes / bandwidth, self.operations / peak)

    def bound(self, bandwidth: float, peak: float) -> str:
        """`bandwidth` or `arithmetic`."""
        return "bandwidth" if self.nbytes / bandwidth >= self.operations / peak else "arithmetic"


def cost_of(workload: Workload, shape: Shape, weight_bytes: int, tokens_per_second: float) -> Cost | None:
    """None where tokens per second is not what the workload measures."""
    if workload.kind is Kind.DECODE:
        context = workload.context + workload.tokens / 2
        nbytes = weight_bytes + workload.batch * context * shape.num_layers * 2 * shape.kv_size * KV_BYTES
        operations = 2 * (shape.layer_parameters + shape.head_parameters) + _attention(shape, context)
        return Cost(nbytes * tokens_per_second / workload.batch, operations * tokens_per_second)
    if workload.kind is Kind.PREFILL:
        attended = workload.context * (workload.context + 1) / 2
        operations = 2 * (workload.context * shape.layer_parameters + shape.head_parameters)
        operations += _attention(shape, attended)
        runs = tokens_per_second / workload.context
        return Cost(weight_bytes * runs, operations * runs)
    return None


def least_memory(workload: Workload, shape: Shape, weight_bytes: int) -> float:
    """Weights, KV cache and 150 MB, in MiB: what `peak memory` is held against."""
    cached = (workload.context + workload.tokens) * shape.num_layers * 2 * shape.kv_size * KV_BYTES
    return (weight_bytes + cached + 150e6) / MIB


def _attention(shape: Shape, positions: float) -> float:
    return 4 * shape.num_layers * shape.heads_size * positions
