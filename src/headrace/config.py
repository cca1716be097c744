"""Frozen settings, each documented where it is declared. The only module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from headrace.errors import ConfigError

QUANTIZE_CODECS: Mapping[str, str] = {"q8": "q8_0", "q4": "q4_0"}
"""What `quantize` does to float matrices. Embeddings and the output head are q8_0 in both; norms, biases, learned
positions and routers stay as they are, and so does a matrix whose columns are not whole blocks of 32."""
ACTIVATION_CHOICES = ("int8", "f32")
SPECULATION_CHOICES = ("auto", "off")
BACKENDS = ("cpu", "reference")
MOST_THREADS = 1024


class CacheType(StrEnum):
    """Elements of the key-value cache. Q8: whole numbers from -127 to 127, times a float32 for each token and head."""

    F16 = "f16"
    F32 = "f32"
    Q8 = "q8"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine runs. Everything not here is derived from the model and the machine.

    Raises:
        ConfigError: a value cannot be used.
    """

    backend: str = "cpu"
    """"cpu" (native kernels) or "reference" (numpy, slow)."""
    threads: int | None = None
    """Compute threads; None is one for each core that this process may use. Never changes a result."""
    max_context: int | None = None
    """Longest prompt + output in tokens; None is the model's own limit, or what the KV cache holds if that is less."""
    max_batch_tokens: int = 256
    """Token budget of one step: decodes first, prompt chunks with what is left; an encoder takes twice as many. Never
    changes a result."""
    max_sequences: int = 128
    """Sequences that run at once; more wait. Never changes a result."""
    block_size: int = 16
    """Tokens in a KV cache block."""
    kv_memory: int | None = None
    """Bytes for the KV cache; None plans it from the machine's free memory."""
    kv_dtype: str | None = None
    """Elements of the KV cache: "f16", "f32" or "q8" (8 bits, half of f16's memory); None is f32 for a model in
    float32, else f16."""
    prefix_cache: bool = True
    """Share computed prefixes between requests. Never changes a result."""
    activations: str = "int8"
    """What a quantised weight is multiplied with: "int8" (rounded to 8 bits for each 32 values of a row) or "f32"
    (exact, several times slower). Weights in f32, f16 and bf16 are always multiplied in float32."""
    speculation: str = "auto"
    """"auto" guesses tokens from the text so far and computes several in a step, where measurements say that it pays;
    "off" never does. Never changes a result."""
    draft: str | None = None
    """A smaller model of the same vocabulary that guesses too: a folder, a .gguf file or a hub id, as for the model."""
    quantize: str | None = None
    """Quantise float weights when loading: "q8" or "q4"."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.quantize is not None and self.quantize not in QUANTIZE_CODECS:
            raise ConfigError(f"quantize is {self.quantize!r}, expected one of {', '.join(QUANTIZE_CODECS)}")
        if self.speculation not in SPECULATION_CHOICES:
            choices = ", ".join(SPECULATION_CHOICES)
            raise ConfigError(f"speculation is {self.speculation!r}, expected one of {choices}")
        if self.draft is not None and self.speculation == "off":
            raise ConfigError(f"draft is {self.draft!r} and speculation is off; leave one of them out")
        if self.activations not in ACTIVATION_CHOICES:
            choices = ", ".join(ACTIVATION_CHOICES)
            raise ConfigError(f"activations is {self.activations!r}, expected one of {choices}")
        if self.kv_dtype is not None and self.kv_dtype not in list(CacheType):
            raise ConfigError(f"kv_dtype is {self.kv_dtype!r}, expected one of {', '.join(CacheType)}")
        for name in ("threads", "max_context", "max_batch_tokens", "max_sequences", "block_size", "kv_memory"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise ConfigError(f"threads is {self.threads:,}, expected at most {MOST_THREADS:,}")
        if self.block_size % 16:
            raise ConfigError(f"block_size is {self.block_size}, expected a multiple of 16")


def available_threads() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


def forced_instruction_set() -> str | None:
    """HEADRACE_CPU: the kernels' instruction set by name, for tests and bug reports; None picks the best."""
    return os.environ.get("HEADRACE_CPU") or None


def api_key() -> str | None:
    """HEADRACE_API_KEY: a key that clients of the server need; on a command line others could read it."""
    return os.environ.get("HEADRACE_API_KEY") or None


def state_folder() -> Path:
    """Where a server keeps its files unless told otherwise: headrace's part of XDG_STATE_HOME."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".local/state") / "headrace/store"


def hub_is_offline() -> bool:
    """HF_HUB_OFFLINE, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
