"""The waiting queue, in front of the engine: the engine gets what it can run, the rest waits here, within limits.

    AsyncLLM → Admission ─ room → the engine's port
                   └─ no room: FairQueue ─ somebody ends → the next in turn

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
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.engine.stats import EngineStats
from headrace.engine_port import EngineListener, EnginePort
from headrace.errors import DoesNotFit, EngineError, HeadraceError, QueueFull
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.server.access import EVERYBODY, Tenant
from headrace.server.drain_rate import DrainRate
from headrace.server.fair_queue import FairQueue, Ticket
from headrace.types import AdapterRef, Request, StepOutput

_SILENT_REQUESTS = 8
_SILENT_STEPS = 4
"""Requests that the engine has and that have not given anything yet: at most so many, or so many steps' prompt tokens,
whichever is more. Enough that it never waits for the next, and few enough that who comes now need not wait for them."""
_FIRST_GUESS = 256
"""Tokens of an answer whose request does not limit it, before there have been any"""
_FORGETS = 0.05
"""How much the latest answer's length counts in the mean"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How much may wait, and for whom."""

    requests: int
    """HTTP requests of which something waits"""
    tokens: int
    """Of their prompts and expected outputs"""
    is_shared: bool = False
    """There are several tenants: one alone cannot fill the queue. It may hold as much as it leaves free."""
    priority_across_tenants: bool = False
    """Priorities count against all others' requests, not only against one's own"""


@dataclass(slots=True, eq=False)
class Caller:
    """An HTTP request, whatever number of prompts it brings."""

    tenant: Tenant = EVERYBODY
    tokens: int = 0
    """Of what of it waits or runs"""
    num_waiting: int = 0
    """Of its prompts"""
    tokens_used: int = 0
    """Of prompts and outputs that have ended"""
    seconds_waited: float = 0.0
    """Until the engine got the last of its prompts"""


CALLER: ContextVar[Caller] = ContextVar("headrace_caller")
"""Whose call the running task works for. A context's variable, as between the server and the engine's port lie the
calls of AsyncLLM, to which tenants mean nothing; without one a request is a caller of its own."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Entry(Ticket):
    """A request that waits or runs."""

    request: Request | PoolingRequest
    caller: Caller
    width: int
    """Sequences"""
    num_open: int
    """Completions that have not ended"""
    prompt_tokens: int
    came: float
    seconds_waited: float = 0.0
    is_silent: bool = True
    """Nothing has come of it yet"""
    output_tokens: int = 0
    ended: set[int] = field(default_factory=set)

    @property
    def adapter(self) -> AdapterRef | None:
        return self.request.adapter if isinstance(self.request, Request) else None


@dataclass(slots=True)
class AdmissionCounts:
    """What has happened, for metrics."""

    refused: int = 0
    """Requests that found the queue full"""
    tenant_tokens: Counter[str] = field(default_factory=Counter)
    """Tokens of prompts and outputs, of requests that have ended"""


class Admission:
    """An `EnginePort` in front of another one, and the listener behind it.

    Args:
        port: The engine.
        limits: How much may wait.
        max_sequences: How many the engine runs at once.
        step_tokens: How many tokens a step has at most.
        clock: Seconds, from anywhere.
    """

    def __init__(
        self,
        port: EnginePort,
        limits: AdmissionLimits,
        *,
        max_sequences: int,
        step_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._limits = limits
        self._most_sequences = max_sequences + _SILENT_REQUESTS
        self._silent_tokens_limit = _SILENT_STEPS * step_tokens
        self._clock = clock
        self._listener: EngineListener | None = None
        self._queue: FairQueue[_Entry] = FairQueue()
        self._waiting: dict[str, _Entry] = {}
        self._inside: dict[str, _Entry] = {}
        self._num_sequences = 0
        self._num_silent = self._silent_tokens = 0
        self._callers: Counter[str] = Counter()
        """Callers that wait, by tenant"""
        self._tokens: Counter[str] = Counter()
        """Tokens that wait, by tenant"""
        self._leaving: set[AdapterRef] = set()
        """Adapters that are unloaded once nobody waits for them"""
        self._mean_output = float(_FIRST_GUESS)
        self._rate = DrainRate()
        self.counts = AdmissionCounts()

    @property
    def waiting_tokens(self) -> int:
        """Tokens of what waits here."""
        return self._tokens.total()

    @property
    def waiting_callers(self) -> dict[str, int]:
        """How many requests of each tenant wait."""
        return {tenant: count for tenant, count in self._callers.items() if count}

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
            DoesNotFit: the caller brings more than ever fits into the queue.
            EngineError: the engine is gone for good.
        """
        self._take_in(request)

    def pool(self, request: PoolingRequest) -> None:
        """Queue a pooling request that has been checked. Raises as `submit`."""
        self._take_in(request)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Drop a request or one of its sequences before the next step; unknown ids are ignored."""
        entry = self._inside.get(request_id)
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
        entry = self._inside.get(request_id)
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
        names = {entry.adapter.name for entry in self._waiting.values() if entry.adapter is not None}
        return replace(
            stats,
            num_waiting=stats.num_waiting + sum(entry.width for entry in self._waiting.values()),
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
        inside = self._inside
        for output in outputs:
            entry = inside.get(output.request_id)
            if entry is None:
                continue
            if entry.is_silent:
                self._has_spoken(entry)
                output.seconds_waited += entry.seconds_waited
            entry.output_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self._end_completion(entry, output.index)
        self._listener.take(outputs)
        self._admit()

    def take_pooled(self, outputs: Sequence[PoolingOutput]) -> None:
        """Pooling requests that are done."""
        assert self._listener is not None
        for output in outputs:
            self._end(self._inside.get(output.request_id))
        self._listener.take_pooled(outputs)
        self._admit()

    def drop(self, request_id: str, error: HeadraceError) -> None:
        """A request that the engine gives up."""
        assert self._listener is not None
        self._end(self._inside.get(request_id))
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
        self._check_size(entry)
        if self._waiting or not self._has_room(entry):
            self._check_limits(entry)
        if not self._waiting:
            self._rate.begins(entry.came)
        entry.caller.tokens += entry.cost
        entry.caller.num_waiting += 1
        self._callers[entry.tenant] += entry.caller.num_waiting == 1
        self._tokens[entry.tenant] += entry.cost
        self._waiting[entry.id] = entry
        self._queue.push(entry)
        self._admit(raises_for=entry.id)

    def _entry(self, request: Request | PoolingRequest) -> _Entry:
        caller = CALLER.get(None) or Caller()
        width, num_open, priority = 1, 1, 0
        if isinstance(request, PoolingRequest):
            prompt, output = len(request.token_ids), 0
        else:
            prompt, num_open, priority = len(request.prompt_token_ids), request.params.n, request.priority
            width = max(num_open, request.params.beam_width or 1, len(request.continuations))
            output = width * self._expected_output(request)
        return _Entry(
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

    def _check_size(self, entry: _Entry) -> None:
        limit = self._limits.tokens // (2 if self._limits.is_shared else 1)
        brought = entry.caller.tokens + entry.cost
        if brought > limit:
            raise DoesNotFit(
                f"the request has {brought:,} tokens of prompts and outputs, and this server queues at most {limit:,}"
                " for one; divide it, or lower max_tokens",
                param="max_tokens" if entry.cost > entry.prompt_tokens else None,
            )

    def _check_limits(self, entry: _Entry) -> None:
        """Whether it may wait. Shared, a tenant's part is at most what is left free: there is room for the next one."""
        limits, counts = self._limits, (self._callers, self._tokens)
        news = (int(entry.caller.num_waiting == 0), entry.cost)
        for limit, count, new, unit in zip(
            (limits.requests, limits.tokens), counts, news, ("requests", "tokens"), strict=True
        ):
            total, mine = count.total(), count[entry.tenant]
            is_full = total + new > limit
            is_greedy = limits.is_shared and new > 0 and mine + new > limit - total
            if not (is_full or is_greedy):
                continue
            self.counts.refused += 1
            retry_after = self._rate.seconds_until(
                entry.came, self._callers.total() / 2, max(self._tokens.total() / 2, entry.cost)
            )
            whose = f"{total:,} {unit} wait" if is_full else f"{mine:,} {unit} of this key wait, {total:,} in all"
            raise QueueFull(
                f"The queue is full: {whose}, and at most {limit:,} may; try again in {retry_after} s",
                retry_after=retry_after,
            )

    def _has_room(self, entry: _Entry) -> bool:
        if not self._inside:
            return True
        if self._num_sequences + entry.width > self._most_sequences:
            return False
        is_few = self._num_silent < _SILENT_REQUESTS
        return is_few or self._silent_tokens + entry.prompt_tokens <= self._silent_tokens_limit

    def _admit(self, raises_for: str | None = None) -> None:
        """Give the engine what it has room for."""
        while (entry := self._queue.next()) is not None and self._has_room(entry):
            self._queue.take(entry)
            now = self._clock()
            if entry.id != raises_for:  # else it never waited
                self._rate.left(now, entry.cost)
            entry.seconds_waited = now - entry.came
            entry.caller.seconds_waited = max(entry.caller.seconds_waited, entry.seconds_waited)
            self._waits_no_longer(entry)
            self._goes_in(entry)
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

    def _goes_in(self, entry: _Entry) -> None:
        self._inside[entry.id] = entry
        self._num_sequences += entry.width
        self._num_silent += 1
        self._silent_tokens += entry.prompt_tokens

    def _has_spoken(self, entry: _Entry) -> None:
        if entry.is_silent:
            entry.is_silent = False
            self._num_silent -= 1
            self._silent_tokens -= entry.prompt_tokens

    def _end_completion(self, entry: _Entry, index: int) -> None:
        entry.ended.add(index)
        if len(entry.ended) >= entry.num_open:
            self._end(entry)

    def _end(self, entry: _Entry | None) -> None:
        """What the engine had is over."""
        if entry is None or self._inside.pop(entry.id, None) is None:
            return
        self._has_spoken(entry)
        self._num_sequences -= entry.width
        entry.caller.tokens -= entry.cost
        used = entry.prompt_tokens + entry.output_tokens
        self.counts.tenant_tokens[entry.tenant] += used
        entry.caller.tokens_used += used
        self._queue.correct(entry, used)
        if isinstance(entry.request, Request) and not entry.request.continuations:
            self._mean_output += _FORGETS * (entry.output_tokens / entry.width - self._mean_output)

    def _drop(self, request_id: str) -> None:
        """What waited is wanted no longer."""
        entry = self._waiting.get(request_id)
        if entry is not None:
            self._queue.drop(request_id)
            self._waits_no_longer(entry)
            entry.caller.tokens -= entry.cost
            if entry.adapter is not None:
                self._unload_unused(entry.adapter)

    def _waits_no_longer(self, entry: _Entry) -> None:
        del self._waiting[entry.id]
        entry.caller.num_waiting -= 1
        self._callers[entry.tenant] -= entry.caller.num_waiting == 0
        self._tokens[entry.tenant] -= entry.cost
        for count in (self._callers, self._tokens):
            if not count[entry.tenant]:
                del count[entry.tenant]

    def _unload_unused(self, adapter: AdapterRef) -> None:
        if adapter in self._leaving and all(entry.adapter != adapter for entry in self._waiting.values()):
            self._leaving.discard(adapter)
            self._port.unload_adapter(adapter)

    def _clear(self) -> None:
        self._queue = FairQueue()
        for entry in list(self._waiting.values()):
            self._waits_no_longer(entry)
        for entry in list(self._inside.values()):
            self._end(entry)
