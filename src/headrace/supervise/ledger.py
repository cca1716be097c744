"""The open requests of a supervised engine: what each has given, who may have killed the engine, who may go in.

After a death the requests go back into the new engine in single file: the next one when the one before has moved. It
has when it has given something, or, as what gives nothing for long (a beam search, a long prompt), has come farther
than where it was when the engine died. So if the engine dies again, the one that is to blame is the one that had not
moved yet. A request that the engine has died of often enough is condemned, and the others go on without it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from headrace.pooled import PoolingRequest
from headrace.types import AdapterRef, Emitted, Request, StepOutput

_SAME_PLACE = 0.8
"""What is not seen of a request between two beats is less than the rest of it"""


@dataclass(slots=True)
class Work:
    """A request, and how far it is."""

    request: Request | PoolingRequest
    given: list[_Given] = field(default_factory=list)
    """Of each completion"""
    is_inside: bool = False
    """The engine has it"""
    has_given: bool = False
    """It has given something since the engine got it"""
    has_moved: bool = False
    """So it has, or it has been computed beyond `died_at`"""
    num_computed: int = 0
    """Tokens, since the engine got it, as long as it has given nothing"""
    died_at: int = 0
    """The most of these when the engine died, and it may have been the cause"""
    strikes: int = 0
    """Deaths of which it, and only it, can be the cause, since it last moved"""

    @property
    def turn(self) -> tuple[int, bool, int]:
        """Place among those that go into a new engine, what takes long last; equal ones as they came."""
        priority = self.request.priority if isinstance(self.request, Request) else 0
        return self.strikes, self.died_at > 0, priority

    @property
    def is_elsewhere(self) -> bool:
        """It is not about where it was when the engine died before; nor, where it never did, at its beginning."""
        return self.num_computed > self.died_at or self.num_computed < _SAME_PLACE * self.died_at

    @property
    def adapter(self) -> AdapterRef | None:
        """What its model is adapted with."""
        return self.request.adapter if isinstance(self.request, Request) else None

    def again(self) -> Request | PoolingRequest:
        """The request, to go on where it was."""
        request = self.request
        if isinstance(request, PoolingRequest) or request.params.beam_width is not None or request.continuations:
            return request  # these give everything at once
        if not any(given.token_ids or given.has_ended for given in self.given):
            return request
        return replace(request, resume=tuple(given.emitted() for given in self.given))


@dataclass(slots=True)
class _Given:
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    """int32: a ninth of a list's memory"""
    mirostat_mu: float | None = None
    has_ended: bool = False

    def emitted(self) -> Emitted:
        return Emitted(tuple(self.token_ids), self.mirostat_mu, self.has_ended)


class Ledger:
    """Open requests by id, in the order in which they go in."""

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self._file: deque[str] = deque()
        """Who goes in next"""
        self._is_single_file = False
        """One at a time: the engine has died, and not all who were there have shown that it was not for them"""

    def open(self, request: Request | PoolingRequest) -> None:
        """Take a request in; `admit` says when the engine gets it."""
        assert request.id not in self.works, f"request id {request.id} is in use"
        num_completions = request.params.n if isinstance(request, Request) else 0
        if not self._file and not self._someone_is_on_trial():
            self._is_single_file = False
        self.works[request.id] = Work(request, [_Given() for _ in range(num_completions)])
        self._file.append(request.id)

    def close(self, request_id: str) -> Work | None:
        """A request has ended, however."""
        return self.works.pop(request_id, None)

    def take(self, outputs: Iterable[StepOutput]) -> Iterator[Work]:
        """Note what a step has given; yields the works that have ended with it, still open."""
        for output in outputs:
            work = self.works.get(output.request_id)
            if work is None:
                continue
            given = work.given[output.index]
            given.token_ids.extend(output.token_ids)
            given.mirostat_mu = output.mirostat_mu
            work.has_given = work.has_moved = True
            work.strikes = work.died_at = 0
            if output.finish_reason is not None and self.end_completion(output.request_id, output.index):
                yield work

    def computed(self, num_tokens: Mapping[str, int]) -> bool:
        """Note how far requests are that have given nothing yet; whether one of them has moved."""
        has_one_moved = False
        for request_id, count in num_tokens.items():
            work = self.works.get(request_id)
            if work is None or not work.is_inside or work.has_given:
                continue
            work.num_computed = count
            if count > work.died_at and not work.has_moved:
                work.has_moved, work.strikes = True, 0
                has_one_moved = True
        return has_one_moved

    def end_completion(self, request_id: str, index: int) -> bool:
        """A completion has ended; whether it was its request's last."""
        work = self.works.get(request_id)
        if work is None:
            return False
        work.given[index].has_ended = True
        return all(given.has_ended for given in work.given)

    def admit(self) -> Iterator[Request | PoolingRequest]:
        """Requests that the engine gets now."""
        while self._file and not self._someone_is_on_trial():
            work = self.works.get(self._file.popleft())
            if work is not None:
                work.is_inside = True
                yield work.again()

    def died(self, most_strikes: int, *, of_requests: bool = True, by_kill: bool = False) -> list[str]:
        """The engine is gone with all that it had. Returns the requests that are condemned; they are still open.

        `of_requests` is false where something else may have been the cause. `by_kill` is true for a signal that mostly
        comes from outside: then a request that was not where it was at an earlier death is not to blame.
        """
        inside = [work for work in self.works.values() if work.is_inside]
        suspects = (
            [work for work in inside if not work.has_moved] or [work for work in inside if not work.has_given] or inside
        )
        if len(suspects) == 1 and of_requests and not (by_kill and suspects[0].is_elsewhere):
            suspects[0].strikes += 1
        condemned = [work.request.id for work in suspects if work.strikes >= most_strikes]
        for work in suspects:
            work.died_at = max(work.died_at, work.num_computed)
        for work in inside:
            work.is_inside = work.has_given = work.has_moved = False
            work.num_computed = 0
        self._is_single_file = True
        self._file = deque(sorted(self.works, key=lambda request_id: self.works[request_id].turn))
        return condemned

    def _someone_is_on_trial(self) -> bool:
        return self._is_single_file and any(work.is_inside and not work.has_moved for work in self.works.values())
