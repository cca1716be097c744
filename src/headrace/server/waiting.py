"""What waits for the engine: in fair turn, counted by tenant, and no more of it than may."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.errors import DoesNotFit, QueueFull
from headrace.pooled import PoolingRequest
from headrace.server.caller import Caller
from headrace.server.drain_rate import DrainRate
from headrace.server.fair_queue import FairQueue, Ticket
from headrace.types import AdapterRef, Request


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


@dataclass(slots=True, eq=False, kw_only=True)
class Entry(Ticket):
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
        """What its model is adapted with."""
        return self.request.adapter if isinstance(self.request, Request) else None


class Waiting:
    """Entries that wait. Times are seconds, from anywhere.

    Attributes:
        entries: By id, in the order in which they came.
        num_refused: Requests that found the queue full.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self.entries: dict[str, Entry] = {}
        self.num_refused = 0
        self._limits = limits
        self._queue: FairQueue[Entry] = FairQueue()
        self._callers: Counter[str] = Counter()
        """Callers that wait, by tenant"""
        self._tokens: Counter[str] = Counter()
        """Tokens that wait, by tenant"""
        self._rate = DrainRate()

    @property
    def tokens(self) -> int:
        """Of all that waits."""
        return self._tokens.total()

    @property
    def callers(self) -> dict[str, int]:
        """How many HTTP requests of each tenant wait."""
        return {tenant: count for tenant, count in self._callers.items() if count}

    def check_size(self, entry: Entry) -> None:
        """Whether it could ever wait.

        Raises:
            DoesNotFit: its caller brings more than that.
        """
        limit = self._limits.tokens // (2 if self._limits.is_shared else 1)
        brought = entry.caller.tokens + entry.cost
        if brought > limit:
            raise DoesNotFit(
                f"the request has {brought:,} tokens of prompts and outputs, and this server queues at most {limit:,}"
                " for one; divide it, or lower max_tokens",
                param="max_tokens" if entry.cost > entry.prompt_tokens else None,
            )

    def check_room(self, entry: Entry) -> None:
        """Whether it may wait now. Shared, a tenant's part is at most what is left free: there is room for the next.

        Raises:
            QueueFull: it may not.
        """
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
            self.num_refused += 1
            retry_after = self._rate.seconds_until(
                entry.came, self._callers.total() / 2, max(self._tokens.total() / 2, entry.cost)
            )
            whose = f"{total:,} {unit} wait" if is_full else f"{mine:,} {unit} of this key wait, {total:,} in all"
            raise QueueFull(
                f"The queue is full: {whose}, and at most {limit:,} may; try again in {retry_after} s",
                retry_after=retry_after,
            )

    def push(self, entry: Entry) -> None:
        """It waits from now on."""
        if not self.entries:
            self._rate.begins(entry.came)
        entry.caller.tokens += entry.cost
        entry.caller.num_waiting += 1
        self._callers[entry.tenant] += entry.caller.num_waiting == 1
        self._tokens[entry.tenant] += entry.cost
        self.entries[entry.id] = entry
        self._queue.push(entry)

    def next(self) -> Entry | None:
        """Whose turn it is."""
        return self._queue.next()

    def take(self, entry: Entry, now: float, *, has_waited: bool) -> None:
        """The next one goes to the engine."""
        self._queue.take(entry)
        if has_waited:
            self._rate.left(now, entry.cost)
        entry.seconds_waited = now - entry.came
        entry.caller.seconds_waited = max(entry.caller.seconds_waited, entry.seconds_waited)
        self._waits_no_longer(entry)

    def drop(self, request_id: str) -> Entry | None:
        """One is wanted no longer; None if it does not wait."""
        entry = self.entries.get(request_id)
        if entry is not None:
            self._queue.drop(request_id)
            self._waits_no_longer(entry)
            entry.caller.tokens -= entry.cost
        return entry

    def correct(self, entry: Entry, used: int) -> None:
        """What the engine had is over, and has really used so many tokens."""
        entry.caller.tokens -= entry.cost
        entry.caller.tokens_used += used
        self._queue.correct(entry, used)

    def clear(self) -> None:
        """Forget all."""
        self._queue = FairQueue()
        for entry in list(self.entries.values()):
            self._waits_no_longer(entry)

    def _waits_no_longer(self, entry: Entry) -> None:
        del self.entries[entry.id]
        entry.caller.num_waiting -= 1
        self._callers[entry.tenant] -= entry.caller.num_waiting == 0
        self._tokens[entry.tenant] -= entry.cost
        for count in (self._callers, self._tokens):
            if not count[entry.tenant]:
                del count[entry.tenant]
