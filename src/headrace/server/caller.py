"""Whose call a request of the engine belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from headrace.server.access import EVERYBODY, Tenant


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
    is_streamed: bool = False
    """Its answer goes out as it comes; else it is in memory until all of it is there"""
    answer_bytes: int = 0
    """That its answer takes of memory, estimated (see `answer_room`)"""


CALLER: ContextVar[Caller] = ContextVar("headrace_caller")
"""Whose call the running task works for. A context's variable, as between the server and the engine's port lie the
calls of AsyncLLM, to which tenants mean nothing; without one a request is a caller of its own."""
