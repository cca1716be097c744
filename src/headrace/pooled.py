"""The nouns of pooling: what the pooling engine takes and gives, and what its callers get, shaped like vLLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.types import FloatArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingRequest:
    """What the pooling engine gets: a whole prompt, of which one embedding or one row of class logits is wanted."""

    id: str
    token_ids: tuple[int, ...]
    token_types: tuple[int, ...] = ()
    """Which text of a pair each token belongs to; empty is 0 for all"""
    classify: bool = False
    """The classifier's logits instead of an embedding"""
    dimensions: int | None = None
    """The embedding's first numbers only"""


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """A finished pooling request: its embedding or its logits."""

    request_id: str
    values: FloatArray


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput(Generic[T]):
    """What became of one input."""

    request_id: str
    outputs: T
    prompt_token_ids: list[int]
    finished: bool = True


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """An embedding: `embedding` as a list, `vector` as float32 [size]."""

    vector: FloatArray

    @property
    def embedding(self) -> list[float]:
        """The numbers."""
        values: list[float] = self.vector.tolist()
        return values

    @property
    def hidden_size(self) -> int:
        """How many numbers."""
        return len(self.vector)


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """A text's embedding."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """A text's classes: what the classifier's logits became, in the order of the labels, and the most likely label."""

    probs: list[float]
    label: str

    @property
    def num_classes(self) -> int:
        """How many classes."""
        return len(self.probs)


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """A classified text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """How well two texts go together: a cross-encoder's score, or the cosine of their embeddings."""

    score: float


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """A scored pair; `prompt_token_ids` are those of the pair, or of both texts one after the other."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document of a ranking."""

    index: int
    """Its place among the documents that were given"""
    document: str
    relevance_score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents by relevance to a query, best first; equal ones in the order given."""

    results: list[RankedDocument]
    num_tokens: int
    """Tokens that were computed for it"""
