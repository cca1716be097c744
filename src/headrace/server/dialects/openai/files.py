"""/v1/files: upload, list, show, read, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec.json import encode

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import Answer, Incoming, Inquiry, JsonObject, Route, Served
from headrace.server.dialects.openai.paging import check_query, page
from headrace.server.multipart import Part, parse_form
from headrace.server.stored.files import FileRecord
from headrace.server.stored.kept import Kept

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
_LONGEST_NAME = 255
_MOST_FILES = 10_000
LIFETIME = (3600, 2_592_000)
"""Seconds that expires_after may say"""


def file_routes(kept: Kept, max_bytes: int) -> tuple[Route, ...]:
    """Routes on what is kept; each tenant sees its own."""
    one = "/v1/files/{file_id}"
    return (
        Route(
            path="/v1/files",
            parse=partial(_upload, kept),
            media_types=("multipart/form-data",),
            max_body_bytes=max_bytes + 2**16,
        ),
        Route(method="GET", path="/v1/files", parse=partial(_list, kept)),
        Route(method="GET", path=one, parse=partial(_show, kept)),
        Route(method="GET", path=f"{one}/content", parse=partial(_content, kept)),
        Route(method="DELETE", path=one, parse=partial(_delete, kept), media_types=None),
    )


def inquiry(work: Callable[[], Awaitable[bytes]], media_type: str = "application/json") -> Inquiry:
    """What takes a while, and has nothing to do with the model. Once begun it is finished, if the client leaves too."""

    async def ask(_: AsyncLLM) -> bytes:
        return await asyncio.shield(work())

    return Inquiry(model=None, ask=ask, render=lambda body, _: body, media_type=media_type)


def _upload(kept: Kept, incoming: Incoming, _: Served) -> Inquiry:
    files = kept.files
    form = parse_form(incoming.headers.get("content-type", ""), incoming.body)
    for name in form:
        if name not in _FIELDS:
            raise UnsupportedParameter(f"{name} is not a known field; known: {', '.join(_FIELDS)}", param=name)
    for name in ("file", "purpose"):
        if name not in form:
            raise RequestError(f"{name} is required", param=name)
    purpose = form["purpose"].text("purpose")
    if purpose != "batch":
        raise UnsupportedParameter(f"purpose is {purpose[:100]!r}; only batch is supported", param="purpose")
    filename = form["file"].filename
    if not filename or len(filename) > _LONGEST_NAME:
        raise RequestError(f"file has no name, or one of more than {_LONGEST_NAME} characters", param="file")
    seconds = _lifetime(form)

    async def add() -> bytes:
        record = await files.add(incoming.tenant, filename, purpose, form["file"].content, seconds)
        return encode(_shown(record))

    return inquiry(add)


def _lifetime(form: Mapping[str, Part]) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor is None or anchor.text("expires_after[anchor]") != "created_at":
        raise RequestError("expires_after[anchor]: expected created_at", param="expires_after[anchor]")
    text = "" if seconds is None else seconds.text("expires_after[seconds]")
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    return check_lifetime(number, "expires_after[seconds]")


def check_lifetime(seconds: int, name: str) -> int:
    """The seconds, if the API allows so many.

    Raises:
        RequestError: it does not.
    """
    least, most = LIFETIME
    if not least <= seconds <= most:
        raise RequestError(f"{name}: expected from {least:,} to {most:,}", param=name)
    return seconds


def _list(kept: Kept, incoming: Incoming, _: Served) -> Answer:
    purpose = incoming.query.get("purpose")
    found = [record for record in kept.files.owned_by(incoming.tenant) if purpose in (None, record.purpose)]
    shown = page(
        incoming, [_shown(record) for record in found], most=_MOST_FILES, default=_MOST_FILES, extra=("purpose",)
    )
    return Answer(body=encode(shown))


def _show(kept: Kept, incoming: Incoming, _: Served) -> Answer:
    check_query(incoming)
    return Answer(body=encode(_shown(kept.files.get(incoming.path_params["file_id"], incoming.tenant))))


def _content(kept: Kept, incoming: Incoming, _: Served) -> Inquiry:
    check_query(incoming)
    files = kept.files
    return inquiry(
        lambda: files.read(incoming.path_params["file_id"], incoming.tenant), media_type="application/octet-stream"
    )


def _delete(kept: Kept, incoming: Incoming, _: Served) -> Inquiry:
    check_query(incoming)
    files, file_id = kept.files, incoming.path_params["file_id"]

    async def delete() -> bytes:
        await files.delete(file_id, incoming.tenant)
        return encode({"id": file_id, "object": "file", "deleted": True})

    return inquiry(delete)


def _shown(record: FileRecord) -> JsonObject:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": int(record.created_at),
        "expires_at": int(record.expires_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }
