"""Beam search: the likeliest continuations of a prompt that a search of limited width finds.

The W likeliest continuations so far, the live beams, are sequences like any other, which share their common blocks.
When each of them has its candidates for the next token, the search chooses among all of them: what has ended becomes a
hypothesis, the W best of the rest are the next live beams. The rules, and with them the result, are those of
`generate(num_beams=W)` in transformers 5.

Scores are sums of log-probabilities, in double precision; of equal ones the earlier beam's, then the lower id's, wins.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from headrace.engine.sequence import Sequence
from headrace.types import FinishReason, Logprob, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most likely tokens to follow a beam, best first, of equal ones the lower id."""

    token_ids: list[int]
    logprobs: list[float]


@dataclass(slots=True)
class Beam:
    """What a sequence has besides, while it is a beam of a search."""

    search: BeamSearch
    score: float = 0.0
    """Sum of its tokens' log-probabilities"""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of each of its tokens, when the request asked"""
    candidates: Candidates | None = None
    """What may follow; None until it has been computed"""


@dataclass(frozen=True, slots=True)
class Extension:
    """A beam and one of its candidates: a continuation one token longer."""

    parent: Sequence
    token_id: int
    score: float
    at: int
    """The token's place among the candidates"""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A continuation that has ended."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    """Of each token; empty when the request did not ask"""
    score: float
    rating: float
    """score / length ** length_penalty: what hypotheses are compared by"""
    finish_reason: FinishReason


class BeamSearch:
    """The search of one request, from a sequence with its prompt. `advance` and `grow` mutate."""

    def __init__(self, sequence: Sequence) -> None:
        request = sequence.request
        assert request.params.beam_width is not None
        self._request = request
        self._width = request.params.beam_width
        self._stop_ids = sequence.stop_ids
        self.members = [sequence]
        """The live beams, best first"""
        self._num_sequences = 1
        self.hypotheses: list[Hypothesis] = []
        """The best W that have ended, best first"""
        sequence.beam = Beam(self)

    @property
    def num_candidates(self) -> int:
        """Candidates of each beam that the search needs: the best W of all among which none is a stop token."""
        return max(self._width + len(self._stop_ids), self._request.params.logprobs or 0)

    @property
    def is_ready(self) -> bool:
        """Whether all live beams have their candidates."""
        return all(_beam(member).candidates is not None for member in self.members)

    def advance(self) -> list[Extension]:
        """Take the next token: the beams to go on with, best first; none when the search has ended."""
        length = self.members[0].num_output + 1
        ranked = self._ranked(may_stop=length > self._request.params.min_tokens)
        is_last = length >= self._request.max_tokens
        for each in ranked[: self._width]:
            if is_last or each.token_id in self._stop_ids:
                self.hypotheses.append(self._ended(each, length))
        self.hypotheses.sort(key=lambda hypothesis: -hypothesis.rating)
        del self.hypotheses[self._width :]
        live = [each for each in ranked if each.token_id not in self._stop_ids][: self._width]
        return [] if is_last or not live or self._is_decided(live[0].score, length) else live

    def grow(self, extensions: SequenceOf[Extension]) -> list[tuple[Sequence, Sequence]]:
        """Make extensions the live beams: a beam's best one goes on in place, the others are new sequences.

        Returns the new ones as (parent, child). A child has its tokens and no blocks; the parent's are its own but for
        the last token.
        """
        members: list[Sequence] = []
        forks: list[tuple[Sequence, Sequence]] = []
        parents: set[int] = set()
        for parent in (each.parent for each in extensions):
            if parent.index not in parents:
                parents.add(parent.index)
                members.append(parent)
                continue
            members.append(parent.copy(self._num_sequences))
            self._num_sequences += 1
            forks.append((parent, members[-1]))
        for member, each in zip(members, extensions, strict=True):
            member.token_ids.append(each.token_id)
            member.beam = Beam(self, each.score, self._logprobs(_beam(member), each.at))
        self.members = members
        return forks

    def _ranked(self, *, may_stop: bool) -> list[Extension]:
        """All beams' candidates, best first."""
        found: list[tuple[float, int, int, int]] = []
        for order, member in enumerate(self.members):
            beam = _beam(member)
            assert beam.candidates is not None
            pairs = zip(beam.candidates.token_ids, beam.candidates.logprobs, strict=True)
            for at, (token_id, logprob) in enumerate(pairs):
                if may_stop or token_id not in self._stop_ids:
                    found.append((-(beam.score + logprob), order, token_id, at))
        found.sort()
        most = self._width * (1 + len(self._stop_ids))
        return [Extension(self.members[order], token_id, -worse, at) for worse, order, token_id, at in found[:most]]

    def _logprobs(self, beam: Beam, at: int) -> list[TokenLogprobs]:
        """Of a beam's tokens and its candidate number `at`; empty when the request did not ask."""
        count, candidates = self._request.params.logprobs, beam.candidates
        if count is None or candidates is None:
            return []
        shown = (at, *range(min(count, len(candidates.token_ids))))
        last = {candidates.token_ids[i]: Logprob(candidates.logprobs[i], i + 1) for i in shown}
        return [*beam.logprobs, last]

    def _ended(self, extension: Extension, length: int) -> Hypothesis:
        parent = extension.parent
        return Hypothesis(
            token_ids=[*parent.token_ids[parent.num_prompt :], extension.token_id],
            logprobs=self._logprobs(_beam(parent), extension.at),
            score=extension.score,
            rating=self._rating(extension.score, length),
            finish_reason=FinishReason.STOP if extension.token_id in self._stop_ids else FinishReason.LENGTH,
        )

    def _is_decided(self, best: float, length: int) -> bool:
        """Whether the hypotheses are final, although the best live beam of that length has the score `best`."""
        params = self._request.params
        if len(self.hypotheses) < self._width:
            return False
        if params.early_stopping is True:
            return True
        if params.early_stopping == "never" and params.length_penalty > 0:
            length = self._request.max_tokens  # as if it came to its full length at no cost
        return self._rating(best, length) <= self.hypotheses[-1].rating

    def _rating(self, score: float, length: int) -> float:
        divisor: float = length**self._request.params.length_penalty
        return score / divisor


def _beam(sequence: Sequence) -> Beam:
    assert sequence.beam is not None
    return sequence.beam
