"""The waiting queue, in front of the engine: the engine gets what it can run, the rest waits here, within limits.

    AsyncLLM → Admission ─ Room → the engine's port
                   └─ no room: Waiting ─ somebody ends → the next in turn

Everything that a model computes for somebody comes by here, whichever way it came to AsyncLLM: completions, decisions,
embeddings, scores. Whose it is says CALLER. Tenants share by weight, on tokens (`fair_queue`).

A priority below 0 (sooner) counts among a tenant's own requests; one above 0 (later) lets everybody else go first, as
one may always stand back. `AdmissionLimits.priority_across_tenants` makes every priority count against everybody.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.engine.stats import EngineStats
from headrace.engine_port import EngineListener, EnginePort
from headrace.errors import DoesNotFit, EngineError, HeadraceError
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.server.answer_room import AnswerRoom
from headrace.server.caller import CALLER, Caller
from headrace.server.room import Room
from headrace.server.waiting import AdmissionLimits, Entry, Waiting
from headrace.types import AdapterRef, Request, StepOutput

_FIRST_GUESS = 256
"""Tokens of an answer whose request does not limit it, before there have been any"""
_FORGETS = 0.05
"""How much the latest answer's length counts in the mean"""


class Admission:
    """An `EnginePort` in front of another one, and the listener behind it.

    Args:
        port: The engine.
        limits: How much may wait.
        max_sequences: How many the engine runs at once.
        step_tokens: How many tokens a step has at most.
        answers: How much memory an HTTP request's answer may take.
        clock: Seconds, from anywhere.

    Attributes:
        waiting: What waits here.
        tenant_tokens: Tokens of prompts and outputs of requests that have ended, by tenant.
    """

    def __init__(
        self,
        port: EnginePort,
        limits: AdmissionLimits,
        *,
        max_sequences: int,
        step_tokens: int,
        answers: AnswerRoom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._limits = limits
        self._clock = clock
        self._listener: EngineListener | None = None
        self.waiting = Waiting(limits)
        self._room = Room(max_sequences, step_tokens)
        self._answers = answers
        self._leaving: set[AdapterRef] = set()
        """Adapters that are unloaded once nobody waits for them"""
        self._mean_output = float(_FIRST_GUESS)
        self.tenant_tokens: Counter[str] = Counter()

    # The engine's port

    def attach(self, listener: EngineListener, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this listener in this loop."""
        self._listener = listener
        self._port.attach(self, loop)

    @property
    def trouble(self) -> str | None:
        """Why the engine cannot run requests now; None when it can."""
        return self._port.trouble

    def submit(self, request: Request) -> None:
        """Queue a request that has been checked.

        Raises:
            QueueFull: too much waits already.
            DoesNotFit: the caller brings more than ever fits into the queue, or its answer takes too much memory.
            EngineError: the engine is gone for good.
        """
        self._take_in(request)

    def pool(self, request: PoolingRequest) -> None:
        """Queue a pooling request that has been checked. Raises as `submit`."""
        self._take_in(request)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step; unknown ids are ignored."""
        entry = self._room.entries.get(request_id)
        if entry is not None:
            self._port.cancel(request_id, index)
            if index is None:
                self._end(entry)
            else:
                self._end_completion(entry, index)
        elif index is None:
            self._drop(request_id)
        self._admit()

    def cancel_pooled(self, request_id: str) -> None:
        """Drop a pooling request; unknown ids are ignored."""
        entry = self._room.entries.get(request_id)
        if entry is not None:
            self._port.cancel_pooled(request_id)
            self._end(entry)
        else:
            self._drop(request_id)
        self._admit()

    async def load_adapter(self, adapter: AdapterRef, path: str | Path) -> int:
        """As the engine's port."""
        return await self._port.load_adapter(adapter, path)

    def unload_adapter(self, adapter: AdapterRef) -> None:
        """Take no more requests for an adapter; what runs or waits with it goes on to its end."""
        self._leaving.add(adapter)
        self._unload_unused(adapter)

    def stats(self) -> EngineStats:
        """The engine's, with what waits here."""
        stats = self._port.stats()
        names = {entry.adapter.name for entry in self.waiting.entries.values() if entry.adapter is not None}
        return replace(
            stats,
            num_waiting=stats.num_waiting + sum(entry.width for entry in self.waiting.entries.values()),
            waiting_adapters=tuple(sorted(names.union(stats.waiting_adapters))),
        )

    async def close(self) -> None:
        """Stop the engine; who waits is told by AsyncLLM."""
        self._clear()
        await self._port.close()

    # The engine's listener

    def take(self, outputs: Sequence[StepOutput]) -> None:
        """A step's outputs."""
        assert self._listener is not None
        inside = self._room.entries
        for output in outputs:
            entry = inside.get(output.request_id)
            if entry is None:
                continue
            if entry.is_silent:
                self._room.has_spoken(entry)
                output.seconds_waited += entry.seconds_waited
            entry.output_tokens += len(output.token_ids)
            if self._is_too_large(entry, output):
                continue
            if output.finish_reason is not None:
                self._end_completion(entry, output.index)
        self._listener.take(outputs)
        self._admit()

    def _is_too_large(self, entry: Entry, output: StepOutput) -> bool:
        """Whether the answer takes too much memory; then it is given up."""
        assert isinstance(entry.request, Request)
        try:
            self._answers.take(output, entry.request, entry.caller)
        except DoesNotFit as error:
            self._port.cancel(entry.id)
            self.drop(entry.id, error)
            return True
        return False

    def take_pooled(self, outputs: Sequence[PoolingOutput]) -> None:
        """Pooling requests that are done."""
        assert self._listener is not None
        for output in outputs:
            self._end(self._room.entries.get(output.request_id))
        self._listener.take_pooled(outputs)
        self._admit()

    def drop(self, request_id: str, error: HeadraceError) -> None:
        """A request that the engine gives up."""
        assert self._listener is not None
        self._end(self._room.entries.get(request_id))
        self._listener.drop(request_id, error)
        self._admit()

    def fail(self, error: HeadraceError) -> None:
        """The engine is gone, and all requests with it."""
        assert self._listener is not None
        self._clear()
        self._listener.fail(error)

    # In, on, and out

    def _take_in(self, request: Request | PoolingRequest) -> None:
        entry = self._entry(request)
        if isinstance(request, Request):
            self._answers.reserve(request, entry.caller)
        self.waiting.check_size(entry)
        if self.waiting.entries or not self._room.is_there_for(entry):
            self.waiting.check_room(entry)
        self.waiting.push(entry)
        self._admit(raises_for=entry.id)

    def _entry(self, request: Request | PoolingRequest) -> Entry:
        caller = CALLER.get(None) or Caller()
        width, num_open, priority = 1, 1, 0
        if isinstance(request, PoolingRequest):
            prompt, output = len(request.token_ids), 0
        else:
            prompt, num_open, priority = len(request.prompt_token_ids), request.params.n, request.priority
            width = max(num_open, request.params.beam_width or 1, len(request.continuations))
            output = width * self._expected_output(request)
        return Entry(
            id=request.id,
            tenant=caller.tenant.name,
            weight=caller.tenant.weight,
            cost=prompt + output,
            level=priority if self._limits.priority_across_tenants else max(priority, 0),
            priority=priority,
            request=request,
            caller=caller,
            width=width,
            num_open=num_open,
            prompt_tokens=prompt,
            came=self._clock(),
        )

    def _expected_output(self, request: Request) -> int:
        if request.params.max_tokens is not None:
            return request.max_tokens
        return min(request.max_tokens, round(self._mean_output))

    def _admit(self, raises_for: str | None = None) -> None:
        """Give the engine what it has room for."""
        while (entry := self.waiting.next()) is not None and self._room.is_there_for(entry):
            self.waiting.take(entry, self._clock(), has_waited=entry.id != raises_for)
            self._room.put(entry)
            try:
                self._hand_over(entry.request)
            except EngineError as error:
                self._end(entry)
                if entry.id == raises_for:
                    raise
                assert self._listener is not None
                self._listener.drop(entry.id, error)
            if entry.adapter is not None:
                self._unload_unused(entry.adapter)

    def _hand_over(self, request: Request | PoolingRequest) -> None:
        if isinstance(request, PoolingRequest):
            self._port.pool(request)
            return
        level = request.priority
        if self._limits.is_shared and not self._limits.priority_across_tenants:
            level = max(level, 0)  # in the engine it would count against others'
        self._port.submit(request if level == request.priority else replace(request, priority=level))

    def _end_completion(self, entry: Entry, index: int) -> None:
        entry.ended.add(index)
        if len(entry.ended) >= entry.num_open:
            self._end(entry)

    def _end(self, entry: Entry | None) -> None:
        """What the engine had is over."""
        if entry is None or not self._room.remove(entry):
            return
        used = entry.prompt_tokens + entry.output_tokens
        self.tenant_tokens[entry.tenant] += used
        self.waiting.correct(entry, used)
        if isinstance(entry.request, Request) and not entry.request.continuations:
            self._mean_output += _FORGETS * (entry.output_tokens / entry.width - self._mean_output)

    def _drop(self, request_id: str) -> None:
        """What waited is wanted no longer."""
        entry = self.waiting.drop(request_id)
        if entry is not None and entry.adapter is not None:
            self._unload_unused(entry.adapter)

    def _unload_unused(self, adapter: AdapterRef) -> None:
        if adapter in self._leaving and all(entry.adapter != adapter for entry in self.waiting.entries.values()):
            self._leaving.discard(adapter)
            self._port.unload_adapter(adapter)

    def _clear(self) -> None:
        self.waiting.clear()
        for entry in list(self._room.entries.values()):
            self._end(entry)
