"""A model asked for embeddings, classes, scores and rankings: texts in, one call's requests and what becomes of them.

`Pooler` turns a call into a `PoolingJob`: requests for the pooling engine, checked, and the function that turns their
outputs into the call's answer. `LLM` and `AsyncLLM` run jobs, each in its way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from headrace.errors import ContextTooLong, RequestError
from headrace.model.embedding import EmbeddingRecipe
from headrace.model.spec import ModelSpec, ScoreFunction
from headrace.pooled import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingRequest,
    RankedDocument,
    Ranking,
    ScoringOutput,
    ScoringRequestOutput,
)
from headrace.prompts import Prompt, as_prompts, cache_salt, predicted_part, prompt_parts
from headrace.text.tokenizer import EncodedText, Tokenizer
from headrace.types import FloatArray

T = TypeVar("T")

_Input: TypeAlias = str | tuple[int, ...]
"""A text, or the token ids that are taken for it"""


@dataclass(frozen=True, slots=True)
class PoolingJob(Generic[T]):
    """A call: what to compute, and what the answer is once each request has its values, in order."""

    requests: Sequence[PoolingRequest]
    finish: Callable[[Sequence[FloatArray]], T]


class Pooler:
    """What a model knows of pooling besides its weights. `max_tokens` is the longest input that it takes."""

    def __init__(
        self, name: str, spec: ModelSpec, recipe: EmbeddingRecipe, tokenizer: Tokenizer | None, max_tokens: int
    ) -> None:
        self._name = name
        self._spec = spec
        self._tokenizer = tokenizer
        self.recipe = recipe
        self.max_tokens = max_tokens
        self._numbers = itertools.count()

    @property
    def description(self) -> str:
        """What the model gives, for a person."""
        classifier = self._spec.classifier
        if classifier is None:
            return f"{self.recipe}; up to {self.max_tokens:,} tokens"
        kind = "a score for pairs of texts" if len(classifier.labels) == 1 else f"{len(classifier.labels)} classes"
        return f"{kind}; up to {self.max_tokens:,} tokens"

    def embed(
        self,
        inputs: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> PoolingJob[list[EmbeddingRequestOutput]]:
        """See `LLM.embed`."""
        self._check_embeds()
        if dimensions is not None and not 1 <= dimensions <= self.recipe.size:
            raise RequestError(
                f"dimensions is {dimensions}, expected from 1 to {self.recipe.size:,}, the embedding's size",
                param="dimensions",
            )
        prompt = self._prompt(prompt_name)
        encoded = self._encode(_as_inputs(inputs), truncate_prompt_tokens, prompt)
        requests = [self._request(each, dimensions=dimensions) for each in encoded]
        return PoolingJob(
            requests,
            lambda values: [
                EmbeddingRequestOutput(request.id, EmbeddingOutput(vector), list(request.token_ids))
                for request, vector in zip(requests, values, strict=True)
            ],
        )

    def classify(
        self, inputs: Prompt | Sequence[Prompt], *, truncate_prompt_tokens: int | None = None
    ) -> PoolingJob[list[ClassificationRequestOutput]]:
        """See `LLM.classify`."""
        classifier = self._spec.classifier
        if classifier is None:
            raise RequestError(f"{self._name} has no classifier: {self._kind()}", param="model")
        requests = [
            self._request(each, classify=True) for each in self._encode(_as_inputs(inputs), truncate_prompt_tokens)
        ]

        def output(request: PoolingRequest, logits: FloatArray) -> ClassificationRequestOutput:
            probs = _probabilities(logits, classifier.function)
            best = ClassificationOutput(probs, classifier.labels[int(np.argmax(logits))])
            return ClassificationRequestOutput(request.id, best, list(request.token_ids))

        return PoolingJob(requests, lambda values: [output(*each) for each in zip(requests, values, strict=True)])

    def score(
        self,
        first: Prompt | Sequence[Prompt],
        second: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
    ) -> PoolingJob[list[ScoringRequestOutput]]:
        """See `LLM.score`."""
        lefts, rights = _as_inputs(first), _as_inputs(second)
        if len(lefts) == 1:
            lefts = lefts * len(rights)
        if len(lefts) != len(rights):
            raise RequestError(
                f"{len(lefts)} first texts and {len(rights)} second ones; give one first text, or one for each second",
                param="text_1",
            )
        if self._spec.classifier is not None:
            return self._score_together(lefts, rights, truncate_prompt_tokens)
        return self._score_apart(lefts, rights, truncate_prompt_tokens)

    def rerank(
        self,
        query: Prompt,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> PoolingJob[Ranking]:
        """See `LLM.rerank`."""
        if isinstance(documents, str) or not all(isinstance(document, str) for document in documents):
            raise RequestError("documents must be a list of strings", param="documents")
        if top_n is not None and top_n < 0:
            raise RequestError(f"top_n is {top_n}, expected 0 (all) or more", param="top_n")
        job = self.score(query, list(documents), truncate_prompt_tokens=truncate_prompt_tokens)

        def finish(values: Sequence[FloatArray]) -> Ranking:
            scores = [output.outputs.score for output in job.finish(values)]
            order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
            best = [RankedDocument(index, documents[index], scores[index]) for index in order[: top_n or None]]
            return Ranking(best, sum(len(request.token_ids) for request in job.requests))

        return PoolingJob(job.requests, finish)

    # Scores

    def _score_together(
        self, lefts: Sequence[_Input], rights: Sequence[_Input], truncate: int | None
    ) -> PoolingJob[list[ScoringRequestOutput]]:
        """By a cross-encoder, which reads both texts at once."""
        classifier = self._spec.classifier
        assert classifier is not None
        if len(classifier.labels) != 1:
            raise RequestError(
                f"{self._name} has {len(classifier.labels)} classes; a score needs a model with one or one that embeds",
                param="model",
            )
        pairs = [(_text(left), _text(right)) for left, right in zip(lefts, rights, strict=True)]
        requests = [self._request(each, classify=True) for each in self._encode_texts(pairs, truncate)]

        def finish(values: Sequence[FloatArray]) -> list[ScoringRequestOutput]:
            return [
                _scored(request, _probabilities(logits, classifier.function)[0])
                for request, logits in zip(requests, values, strict=True)
            ]

        return PoolingJob(requests, finish)

    def _score_apart(
        self, lefts: Sequence[_Input], rights: Sequence[_Input], truncate: int | None
    ) -> PoolingJob[list[ScoringRequestOutput]]:
        """By the cosine of two embeddings; a text that comes again is embedded once."""
        self._check_embeds()
        unique = list(dict.fromkeys((*lefts, *rights)))
        encoded = zip(unique, self._encode(unique, truncate), strict=True)
        requests = {given: self._request(each) for given, each in encoded}

        def finish(values: Sequence[FloatArray]) -> list[ScoringRequestOutput]:
            vectors = dict(zip(requests, values, strict=True))
            outputs = []
            for left, right in zip(lefts, rights, strict=True):
                both = requests[left].token_ids + requests[right].token_ids
                joined = replace(requests[right], token_ids=both)
                outputs.append(_scored(joined, _cosine(vectors[left], vectors[right])))
            return outputs

        return PoolingJob(list(requests.values()), finish)

    # Inputs

    def _check_embeds(self) -> None:
        if self._spec.classifier is not None:
            raise RequestError(f"{self._name} does not embed: {self._kind()}", param="model")

    def _kind(self) -> str:
        classifier = self._spec.classifier
        if classifier is not None:
            return "it is a cross-encoder, which scores pairs" if len(classifier.labels) == 1 else "it is a classifier"
        return "it generates text, and embeds" if self._spec.language_head else "it is a model that embeds"

    def _prompt(self, name: str | None) -> str:
        name = self.recipe.default_prompt if name is None else name
        if name is None:
            return ""
        if name not in self.recipe.prompts:
            known = ", ".join(self.recipe.prompts) or "none"
            raise RequestError(f"prompt_name is {name!r}, expected one of the model's: {known}", param="prompt_name")
        return self.recipe.prompts[name]

    def _encode(self, inputs: Sequence[_Input], truncate: int | None, prompt: str = "") -> Iterator[EncodedText]:
        """Every input as token ids: texts together, on several threads."""
        texts = [prompt + each for each in inputs if isinstance(each, str)]
        of_texts = iter(self._encode_texts(texts, truncate))
        limit = self._limit(truncate)
        for each in inputs:
            if isinstance(each, str):
                yield next(of_texts)
            else:
                yield self._checked(EncodedText(list(each if truncate is None else each[:limit]), []))

    def _encode_texts(self, texts: Sequence[str | tuple[str, str]], truncate: int | None) -> list[EncodedText]:
        limit = self._limit(truncate)
        if texts and self._tokenizer is None:
            raise RequestError(f"{self._name} has no tokenizer; give token ids", param="input")
        if self._tokenizer is None:
            return []
        encoded = self._tokenizer.encode_parts(texts, None if truncate is None else limit)
        return [self._checked(each) for each in encoded]

    def _limit(self, truncate: int | None) -> int:
        """Tokens that an input may have: -1 truncates to what the model takes."""
        if truncate is not None and truncate != -1 and not 1 <= truncate <= self.max_tokens:
            raise RequestError(
                f"truncate_prompt_tokens is {truncate}, expected -1 or from 1 to {self.max_tokens:,}",
                param="truncate_prompt_tokens",
            )
        return self.max_tokens if truncate is None or truncate == -1 else truncate

    def _checked(self, encoded: EncodedText) -> EncodedText:
        count, size = len(encoded.ids), self._spec.vocab_size
        if not count:
            raise RequestError("an input is empty; it needs at least one token", param="input")
        if count > self.max_tokens:
            raise ContextTooLong(
                f"an input has {count:,} tokens and the model takes {self.max_tokens:,}; shorten it, or ask for"
                " truncate_prompt_tokens=-1",
                param="input",
            )
        if min(encoded.ids) < 0 or max(encoded.ids) >= size:
            raise RequestError(f"an input has a token id outside of 0 to {size - 1}", param="input")
        return encoded

    def _request(
        self, encoded: EncodedText, *, classify: bool = False, dimensions: int | None = None
    ) -> PoolingRequest:
        types = tuple(encoded.type_ids) if self._spec.token_types > 1 and any(encoded.type_ids) else ()
        return PoolingRequest(
            id=f"pooling-{next(self._numbers)}",
            token_ids=tuple(encoded.ids),
            token_types=types,
            classify=classify,
            dimensions=dimensions,
        )


def _as_inputs(inputs: Prompt | Sequence[Prompt]) -> list[_Input]:
    """One input or several, in their parts."""
    several = [_part_of(each) for each in as_prompts(inputs, "input")]
    if not several:
        raise RequestError("the input is empty, expected at least one text", param="input")
    return several


def _part_of(given: Prompt) -> _Input:
    """The token ids where there are any, else the text."""
    cache_salt(given)  # checked and met: nothing is cached
    if predicted_part(given) is not None:
        raise RequestError("the input has a prediction, and nothing is generated; leave it out", param="input")
    text, ids = prompt_parts(given, "input")
    if ids is not None:
        return tuple(ids)
    assert text is not None
    return text


def _text(given: _Input) -> str:
    if not isinstance(given, str):
        raise RequestError("a cross-encoder joins texts itself; give strings, not token ids", param="input")
    return given


def _scored(request: PoolingRequest, score: float) -> ScoringRequestOutput:
    return ScoringRequestOutput(request.id, ScoringOutput(score), list(request.token_ids))


def _probabilities(logits: FloatArray, function: ScoreFunction) -> list[float]:
    values = logits.astype(np.float64)
    if function is ScoreFunction.SOFTMAX:
        values = np.exp(values - values.max())
        values /= values.sum()
    elif function is ScoreFunction.SIGMOID:
        values = 1 / (1 + np.exp(-values))
    found: list[float] = values.tolist()
    return found


def _cosine(left: FloatArray, right: FloatArray) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = float(np.sqrt(np.add.reduce(a * a)) * np.sqrt(np.add.reduce(b * b)))
    return float(np.add.reduce(a * b)) / max(lengths, 1e-12)
