"""A queue that tenants share fairly: weighted deficit round robin on tokens (Shreedhar and Varghese, SIGCOMM 1995).

Tenants take turns. A turn is worth QUANTUM tokens times the tenant's weight; what is not used up is kept for the next
one as long as the tenant has something waiting. What a request costs is an estimate, and `correct` settles it later.
Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

QUANTUM = 512
"""Tokens of one turn of a tenant of weight 1"""


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """A request's place in the queue."""

    id: str
    tenant: str
    weight: float = 1.0
    cost: int = 1
    """Tokens, at least 1"""
    level: int = 0
    """All of a lower level go first, whoever's they are"""
    priority: int = 0
    """Of a tenant's own on the same level the lower go first, equal ones as they came"""


T = TypeVar("T", bound=Ticket)


@dataclass(slots=True)
class _Share(Generic[T]):
    """What a tenant has waiting on a level, and what it may still have of its turns."""

    weight: float
    credit: float = 0.0
    """Tokens; below 0 it has had more than was thought"""
    has_turn: bool = False
    lines: dict[int, OrderedDict[str, T]] = field(default_factory=dict)
    """By priority, then as they came"""

    def head(self) -> T:
        return next(iter(self.lines[min(self.lines)].values()))


class _Level(Generic[T]):
    """Deficit round robin among the tenants that have something on one level."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share[T]] = {}
        """Also of tenants that have nothing waiting any more, for their debts"""
        self._turns: OrderedDict[str, _Share[T]] = OrderedDict()
        """Who has something waiting, the one whose turn it is first"""

    def __bool__(self) -> bool:
        return bool(self._turns)

    def push(self, ticket: T) -> None:
        share = self._shares.setdefault(ticket.tenant, _Share(ticket.weight))
        share.weight = ticket.weight  # it may have been changed
        share.lines.setdefault(ticket.priority, OrderedDict())[ticket.id] = ticket
        self._turns.setdefault(ticket.tenant, share)

    def remove(self, ticket: T) -> None:
        share = self._shares[ticket.tenant]
        line = share.lines[ticket.priority]
        del line[ticket.id]
        if line:
            return
        del share.lines[ticket.priority]
        if not share.lines:  # nobody saves up while he waits for nothing
            share.credit, share.has_turn = min(share.credit, 0.0), False
            del self._turns[ticket.tenant]

    def next(self) -> T:
        """Whose turn it is; asking again gives the same one, as long as nothing changes."""
        while True:
            for _ in range(len(self._turns)):
                name, share = next(iter(self._turns.items()))
                if not share.has_turn:
                    share.credit += QUANTUM * share.weight
                    share.has_turn = True
                head = share.head()
                if head.cost <= share.credit:
                    return head
                share.has_turn = False
                self._turns.move_to_end(name)
            self._skip_rounds()

    def pay(self, ticket: T) -> None:
        self._shares[ticket.tenant].credit -= ticket.cost

    def correct(self, tenant: str, overcharged: int) -> None:
        share = self._shares.get(tenant)
        if share is not None:
            credit = share.credit + overcharged
            share.credit = credit if tenant in self._turns else min(credit, 0.0)

    def _skip_rounds(self) -> None:
        """Rounds in which nobody could have afforded anything, all at once."""
        rounds = min(
            math.ceil((share.head().cost - share.credit) / (QUANTUM * share.weight)) for share in self._turns.values()
        )
        for share in self._turns.values():
            share.credit += max(rounds - 1, 0) * QUANTUM * share.weight


class FairQueue(Generic[T]):
    """Tickets that wait. `next` says whose turn it is; `take` takes that one out, and it is charged for."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level[T]] = {}
        self._tickets: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, ticket: T) -> None:
        """A ticket comes in."""
        assert ticket.id not in self._tickets, f"ticket {ticket.id} waits already"
        self._tickets[ticket.id] = ticket
        self._levels.setdefault(ticket.level, _Level()).push(ticket)

    def next(self) -> T | None:
        """Whose turn it is; None when nobody waits."""
        levels = [number for number, level in self._levels.items() if level]
        return self._levels[min(levels)].next() if levels else None

    def take(self, ticket: T) -> None:
        """The turn of `ticket`, which is the next, has come."""
        self._levels[ticket.level].pay(ticket)
        self._remove(ticket)

    def drop(self, ticket_id: str) -> T | None:
        """Take a ticket out that waits no longer; None if there is none of that id."""
        ticket = self._tickets.get(ticket_id)
        if ticket is not None:
            self._remove(ticket)
        return ticket

    def correct(self, ticket: T, used: int) -> None:
        """What a ticket that has been taken really cost."""
        level = self._levels.get(ticket.level)
        if level is not None:
            level.correct(ticket.tenant, ticket.cost - used)

    def _remove(self, ticket: T) -> None:
        del self._tickets[ticket.id]
        self._levels[ticket.level].remove(ticket)
        if not self._tickets:  # nobody competes: nobody owes anybody anything
            self._levels.clear()
