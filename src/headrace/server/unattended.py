"""A request answered without HTTP, by the same parse and on the same engine: lines of batches come in by this door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from headrace.errors import UnsupportedParameter
from headrace.server.answer import Service, found, running, unattended, whole
from headrace.server.caller import CALLER, Caller
from headrace.server.deadline import Deadline
from headrace.server.dialects.base import Answer, Call, Incoming, Inquiry, Later
from headrace.server.errors import describe
from headrace.server.record import RequestRecord

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0
"""Seconds"""
_TRY_AGAIN = (429, 503)


async def answer_unattended(service: Service, incoming: Incoming, change: Callable[[Call], Call]) -> Answer:
    """The answer to `incoming`, whatever its status; a server that has no room, or is restarting, is waited for.

    Args:
        service: What answering takes.
        incoming: The request, as if it had been read; its tenant has been let in.
        change: Sets what the client cannot: the priority, the seed.
    """
    wait = _FIRST_WAIT
    while True:
        async with unattended(service, RequestRecord.of(incoming)) as record:
            said = await _attempt(service, incoming, change, record)
            record.status = said.status
        is_down = said.status >= 500 and service.llm.trouble is not None
        is_final = record.failure is not None and record.failure.is_final  # the engine is down because of it
        if is_final or not (is_down or said.status in _TRY_AGAIN):
            return said
        await asyncio.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


async def _attempt(
    service: Service, incoming: Incoming, change: Callable[[Call], Call], record: RequestRecord
) -> Answer:
    dialect = service.routes.dialect_of(incoming.path)
    CALLER.set(Caller(service.access.named(incoming.tenant)))
    record.dialect = dialect.name
    try:
        match = await service.reading.choose(service.routes.find(incoming.method, incoming.path), incoming)
        dialect = match.dialect
        record.dialect, record.route = dialect.name, match.route.path
        meant = await service.reading.parse(match, incoming)
        if isinstance(meant, Answer):
            return meant
        if isinstance(meant, Inquiry):
            return await found(service, meant, record)
        if isinstance(meant, Later):
            raise UnsupportedParameter("background is not supported in a batch; leave it out", param="background")
        if meant.stream:
            raise UnsupportedParameter("stream is not supported in a batch; leave it out", param="stream")
        call = change(meant)
        async with running(service, call, record, Deadline(None)) as (opened, renderer):
            return await whole(call, opened, renderer)
    except Exception as error:  # noqa: BLE001  the outermost handler
        record.failure = failure = replace(describe(error), request_id=incoming.request_id)
        return Answer(body=dialect.render_failure(failure), status=dialect.statuses.get(failure.status, failure.status))
