"""The kinds that operations come in. A model spec names them, a backend implements them, nothing else knows them."""

from __future__ import annotations

from enum import StrEnum


class NormKind(StrEnum):
    """RMS: x / rms(x) * weight (arXiv:1910.07467). LAYER: (x - mean) / std * weight + bias (arXiv:1607.06450)."""

    RMS = "rms"
    LAYER = "layer"


class Activation(StrEnum):
    """GELU is the exact form with erf, GELU_TANH its tanh approximation (arXiv:1606.08415)."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class QkNorm(StrEnum):
    """RMS norm of queries and keys before rope: of each head alone, or of all heads as one row."""

    HEAD = "head"
    FULL = "full"
