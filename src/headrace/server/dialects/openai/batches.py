"""/v1/batches: make, list, show, cancel."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from msgspec import Struct, to_builtins
from msgspec.json import encode

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import Answer, Incoming, Inquiry, JsonObject, Route, Served
from headrace.server.dialects.openai.decode import decode
from headrace.server.dialects.openai.files import check_lifetime, inquiry
from headrace.server.dialects.openai.paging import check_query, page
from headrace.server.dialects.openai.responses.parse import check_metadata
from headrace.server.stored.batch_record import ENDED, ENDPOINTS, BatchRecord
from headrace.server.stored.kept import Kept

_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class Lifetime(Struct, kw_only=True, forbid_unknown_fields=True):
    """After how long the batch's files expire."""

    anchor: Literal["created_at"]
    seconds: int


class BatchFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: Lifetime | None = None


def batch_routes(kept: Kept) -> tuple[Route, ...]:
    """Routes on what is kept; each tenant sees its own."""
    one = "/v1/batches/{batch_id}"
    return (
        Route(path="/v1/batches", parse=partial(_create, kept)),
        Route(method="GET", path="/v1/batches", parse=partial(_list, kept)),
        Route(method="GET", path=one, parse=partial(_show, kept)),
        Route(path=f"{one}/cancel", parse=partial(_cancel, kept), media_types=None),
    )


def _create(kept: Kept, incoming: Incoming, _: Served) -> Inquiry:
    batches = kept.batches
    fields = decode(incoming.body, BatchFields, {})
    if fields.endpoint not in ENDPOINTS:
        message = f"endpoint is {fields.endpoint[:100]!r}, expected {', '.join(ENDPOINTS)}"
        raise UnsupportedParameter(message, param="endpoint")
    if fields.completion_window != "24h":
        message = f"completion_window is {fields.completion_window[:100]!r}, expected 24h"
        raise RequestError(message, param="completion_window")
    check_metadata(fields.metadata)
    lifetime = fields.output_expires_after
    seconds = None if lifetime is None else check_lifetime(lifetime.seconds, "output_expires_after.seconds")

    async def create() -> bytes:
        record = await batches.create(
            incoming.tenant, fields.endpoint, fields.input_file_id, fields.metadata, output_seconds=seconds
        )
        return encode(_shown(record))

    return inquiry(create)


def _list(kept: Kept, incoming: Incoming, _: Served) -> Answer:
    found = [_shown(record) for record in kept.batches.owned_by(incoming.tenant)]
    return Answer(body=encode(page(incoming, found, has_order=False)))


def _show(kept: Kept, incoming: Incoming, _: Served) -> Answer:
    check_query(incoming)
    return Answer(body=encode(_shown(kept.batches.get(incoming.path_params["batch_id"], incoming.tenant))))


def _cancel(kept: Kept, incoming: Incoming, _: Served) -> Inquiry:
    check_query(incoming)
    batches = kept.batches

    async def cancel() -> bytes:
        return encode(_shown(await batches.cancel(incoming.path_params["batch_id"], incoming.tenant)))

    return inquiry(cancel)


def _shown(record: BatchRecord) -> JsonObject:
    has_files = record.status in ENDED
    times: dict[str, Any] = {f"{name}_at": int(record.times[name]) if name in record.times else None for name in _TIMES}
    errors = {"object": "list", "data": to_builtins(record.errors)} if record.errors else None
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": record.model,
        "errors": errors,
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": record.status,
        "output_file_id": record.output_file_id if has_files and record.num_completed else None,
        "error_file_id": record.error_file_id if has_files and record.num_failed else None,
        "created_at": int(record.created_at),
        "expires_at": int(record.expires_at),
        **times,
        "request_counts": {
            "total": record.num_lines,
            "completed": record.num_completed,
            "failed": record.num_failed,
        },
        "metadata": record.metadata,
    }
