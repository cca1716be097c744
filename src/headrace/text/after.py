"""A constraint that begins behind the end of a model's thought, and that closes the thought in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Inner(Protocol):
    """What holds for the answer; a `Constraint` of the engine."""

    def fill(self, mask: NDArray[np.uint32]) -> bool:
        """Allow what can follow."""

    def push(self, token_id: int) -> bool:
        """Go on with a draft for now."""

    def pop(self, count: int) -> None:
        """Take back pushes."""

    def take(self, token_id: int, remaining: int) -> int:
        """Go on with a token, for good."""

    def forced(self, most: int) -> list[int]:
        """Tokens without a choice."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end."""

    @property
    def is_closed(self) -> bool:
        """Whether it has to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtMarks:
    """How one model's thoughts are told from its answers."""

    close: bytes
    """The mark behind the thought, as its tokens read"""
    open_ids: tuple[int, ...]
    """The mark before it as tokens, for a model that opens its thought itself; empty if it does not"""
    behind_ids: tuple[int, ...]
    """What the template writes between the mark and the answer: white space"""
    closing_ids: tuple[int, ...]
    """The mark and what is behind it"""
    written: Callable[[int], bytes]
    """A token as it reads, special ones by their names"""
    end_ids: frozenset[int]
    """Tokens that would end the output"""


class _Place(Enum):
    START = auto()
    """Nothing said: a thought or the answer begins"""
    THOUGHT = auto()
    QUEUE = auto()
    """Tokens without a choice: of a mark, or behind it"""
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class _State:
    place: _Place
    num_thought: int = 0
    tail: bytes = b""
    """The end of the thought, shorter than its closing mark"""
    queue: tuple[int, ...] = ()
    then: _Place = _Place.ANSWER
    """Where the queue leads"""


class AfterThought:
    """Lets a thought through, and holds the answer to `inner`. It is a `Constraint` of the engine.

    Args:
        inner: What holds for the answer; None if anything does.
        marks: The model's.
        is_open: The prompt ends inside a thought.
        num_needed: Tokens that the shortest answer needs: the thought is closed while there is room for them. None
            where the answer may be cut off anyway.
        most: The thought is closed after this many tokens; None is no limit.
    """

    def __init__(
        self,
        inner: Inner | None,
        marks: ThoughtMarks,
        *,
        is_open: bool,
        num_needed: int | None = 0,
        most: int | None = None,
    ) -> None:
        self._inner = inner
        self._marks = marks
        self._num_needed = num_needed
        self._most = most
        if is_open:
            self._state = self._close_if_long(_State(_Place.THOUGHT))
        else:
            self._state = _State(_Place.START if marks.open_ids else _Place.ANSWER)
        self._pushed: list[tuple[_State, bool]] = []
        """States before the pushes, and whether `inner` was pushed too"""

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end."""
        return self._inner is not None and self._state.place is _Place.ANSWER and self._inner.is_complete

    @property
    def is_closed(self) -> bool:
        """Whether it has to."""
        return self._inner is not None and self._state.place is _Place.ANSWER and self._inner.is_closed

    def fill(self, mask: NDArray[np.uint32]) -> bool:
        """Allow what can follow."""
        place = self._state.place
        if place is _Place.QUEUE:
            mask[:] = 0
            _allow(mask, self._state.queue[0])
            return True
        if place is _Place.THOUGHT:
            if self._inner is not None:
                for token_id in self._marks.end_ids:
                    mask[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
            return self._inner is not None
        if self._inner is None:
            return False
        is_restricted = self._inner.fill(mask)
        if place is _Place.START and is_restricted:
            _allow(mask, self._marks.open_ids[0])
        return is_restricted

    def push(self, token_id: int) -> bool:
        """Go on with a draft for now."""
        before, after = self._state, self._after(token_id)
        if after is None:
            return False
        is_inner = self._inner is not None and after.place is _Place.ANSWER and before.place in _OF_ANSWER
        if is_inner and self._inner is not None and not self._inner.push(token_id):
            return False
        self._pushed.append((before, is_inner))
        self._state = after
        return True

    def pop(self, count: int) -> None:
        """Take back pushes."""
        num_inner = 0
        for _ in range(count):
            self._state, is_inner = self._pushed.pop()
            num_inner += is_inner
        if self._inner is not None and num_inner:
            self._inner.pop(num_inner)

    def take(self, token_id: int, remaining: int) -> int:
        """Go on with a token, or with the end of the thought where it would leave no room for the answer."""
        before, after = self._state, self._after(token_id)
        if before.place is _Place.QUEUE:
            token_id, after = before.queue[0], self._after(before.queue[0])
        is_thought = after is not None and after.place is not _Place.ANSWER
        if before.place in _OF_ANSWER and not (is_thought and after is not None and self._has_room(after, remaining)):
            self._state = _State(_Place.ANSWER)
            return token_id if self._inner is None else self._inner.take(token_id, remaining)
        if after is None or (before.place is _Place.THOUGHT and not self._has_room(after, remaining)):
            token_id = self._marks.closing_ids[0]
            after = self._queued(self._marks.closing_ids[1:], _Place.ANSWER)
        self._state = self._close_if_long(after)
        return token_id

    def forced(self, most: int) -> list[int]:
        """Tokens without a choice; what the answer forces is known behind them only."""
        if self._state.place is _Place.QUEUE:
            return list(self._state.queue[:most])
        is_answer = self._state.place is _Place.ANSWER
        return self._inner.forced(most) if is_answer and self._inner is not None else []

    def _after(self, token_id: int) -> _State | None:
        """The state behind a token; None if it cannot stand here."""
        state = self._state
        if state.place is _Place.QUEUE:
            return self._queued(state.queue[1:], state.then) if token_id == state.queue[0] else None
        if state.place is _Place.START and token_id == self._marks.open_ids[0]:
            return self._queued(self._marks.open_ids[1:], _Place.THOUGHT)
        if state.place is not _Place.THOUGHT:
            return _State(_Place.ANSWER)
        return self._after_thought(token_id)

    def _after_thought(self, token_id: int) -> _State | None:
        if self._inner is not None and token_id in self._marks.end_ids:
            return None
        state, close = self._state, self._marks.close
        before, mark, behind = (state.tail + self._marks.written(token_id)).partition(close)
        if not mark:
            return _State(_Place.THOUGHT, state.num_thought + 1, before[max(len(before) - len(close) + 1, 0) :])
        if self._inner is not None and behind.strip():
            return None  # the answer has begun within a token, and nothing has looked at it
        return self._queued(() if behind or self._inner is None else self._marks.behind_ids, _Place.ANSWER)

    def _queued(self, queue: Sequence[int], then: _Place) -> _State:
        return _State(_Place.QUEUE, queue=tuple(queue), then=then) if queue else _State(then)

    def _has_room(self, after: _State, remaining: int) -> bool:
        """Whether the thought can be closed and the answer given behind a token that leads to `after`."""
        if self._inner is None or self._num_needed is None:
            return True
        room = remaining - 1 - self._num_needed - len(after.queue)
        return room >= (0 if after.place is _Place.QUEUE and after.then is _Place.ANSWER else self._num_closing(after))

    def _num_closing(self, after: _State) -> int:
        return 0 if after.place is _Place.ANSWER else len(self._marks.closing_ids)

    def _close_if_long(self, state: _State) -> _State:
        if state.place is _Place.THOUGHT and self._most is not None and state.num_thought >= self._most:
            return self._queued(self._marks.closing_ids, _Place.ANSWER)
        return replace(state)


_OF_ANSWER = (_Place.START, _Place.ANSWER)


def _allow(mask: NDArray[np.uint32], token_id: int) -> None:
    mask[token_id // 32] |= np.uint32(1 << token_id % 32)
