"""Lines of batches, answered by the server's own routes: later than live requests, each with a seed that is its own."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from headrace.server.answer import Service
from headrace.server.dialects.base import Call, Incoming
from headrace.server.stored.batch_record import BatchLine, BatchRecord
from headrace.server.stored.batch_runner import Ask, BatchRunner
from headrace.server.unattended import answer_unattended

BATCH_PRIORITY = 1000
"""Added to a line's own: whatever is asked live comes first"""


def start_batches(service: Service) -> None:
    """Go on with the batches of a server, and run those that come."""
    if service.kept.has_batches:
        settings = service.settings
        runner = BatchRunner(
            service.kept.batches, batch_door(service), settings.batch_lines_at_once, settings.max_batch_lines
        )
        runner.start(service.jobs.start)


def batch_door(service: Service) -> Ask:
    """What answers lines by the server's own routes."""

    async def ask(record: BatchRecord, number: int, line: BatchLine) -> tuple[int, bytes]:
        def change(call: Call) -> Call:
            params = call.params
            if params.seed is None:
                params = replace(params, seed=record.line_seed(number))
            return replace(call, params=params, priority=max(call.priority, 0) + BATCH_PRIORITY)

        incoming = Incoming(
            method=line.method,
            path=record.endpoint,
            headers={"content-type": "application/json"},
            body=msgspec.json.encode(line.body),
            tenant=record.tenant,
            request_id=record.result_id(number),
        )
        answer = await answer_unattended(service, incoming, change)
        return answer.status, answer.body

    return ask
