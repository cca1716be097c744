"""Decisions: which of given labels follows a prompt, with a probability for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headrace.errors import RequestError
from headrace.types import Decision, LabelScore, Usage

MAX_LABELS = 1024


def check_labels(labels: object) -> tuple[str, ...]:
    """The labels, if they can be told apart.

    Raises:
        RequestError: there are none, too many, equal or empty ones, or others than strings.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not 1 <= len(labels) <= MAX_LABELS:
        raise RequestError(f"labels must be a list of 1 to {MAX_LABELS:,} texts", param="labels")
    seen: set[str] = set()
    for label in labels:
        if not isinstance(label, str) or not label:
            raise RequestError(f"labels has {label!r}, expected texts that are not empty", param="labels")
        if label in seen:
            raise RequestError(f"labels has {label!r} twice; a label can be given once", param="labels")
        seen.add(label)
    return tuple(labels)


def decide(labels: Sequence[str], scores: Sequence[Sequence[float]], usage: Usage, *, per_token: bool) -> Decision:
    """The decision from the log-probabilities of each label's tokens.

    A label's probability is its share among the labels: a softmax over the sums of their tokens' log-probabilities, or
    over the means when `per_token` is set. The earlier one of equally likely labels wins.
    """
    sums = [math.fsum(each) for each in scores]
    weighed = [total / len(each) if per_token else total for total, each in zip(sums, scores, strict=True)]
    largest = max(weighed)
    shares = [math.exp(each - largest) for each in weighed] if largest > -math.inf else [1.0] * len(weighed)
    total = math.fsum(shares)
    found = {
        label: LabelScore(share / total, logprob, len(each))
        for label, share, logprob, each in zip(labels, shares, sums, scores, strict=True)
    }
    best = max(range(len(labels)), key=lambda at: weighed[at])
    return Decision(labels[best], found, math.fsum(math.exp(each) for each in sums), usage)
