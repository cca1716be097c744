"""The paths of /v1/responses: to make one, and what can be done with those that are stored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.json import encode

from headrace.errors import UnsupportedParameter
from headrace.server.dialects.base import Answer, Call, Incoming, Inquiry, Later, Route, Served
from headrace.server.dialects.openai.paging import check_query, page
from headrace.server.dialects.openai.responses.parse import parse_response
from headrace.server.stored.responses import ResponseStore

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_SMALL = 2**14
"""Bytes of a body that says nothing. Parsing it acts, which only the event loop may."""
_OF_STREAMS = ("starting_after", "include_obfuscation")
_INCLUDE = ("include", "include[]")


def response_routes(store: ResponseStore) -> tuple[Route, ...]:
    """Routes on what `store` keeps; each tenant sees its own."""

    def create(incoming: Incoming, served: Served) -> Call | Later:
        return parse_response(incoming, served, store)

    one = "/v1/responses/{response_id}"
    return (
        Route(path="/v1/responses", parse=create),
        Route(method="GET", path=one, parse=partial(_show, store)),
        Route(method="DELETE", path=one, parse=partial(_delete, store), media_types=None, max_body_bytes=_SMALL),
        Route(path=f"{one}/cancel", parse=partial(_cancel, store), media_types=None, max_body_bytes=_SMALL),
        Route(method="GET", path=f"{one}/input_items", parse=partial(_input_items, store)),
    )


def _show(store: ResponseStore, incoming: Incoming, _: Served) -> Answer:
    check_query(incoming, ("stream", *_OF_STREAMS, *_INCLUDE))
    _refuse_include(incoming)
    if incoming.query.get("stream", "false") != "false":
        message = "stream is not supported here; ask for the response without it until it is completed"
        raise UnsupportedParameter(message, param="stream")
    for name in _OF_STREAMS:
        if name in incoming.query:
            raise UnsupportedParameter(f"{name} is about streams, which this path has not; leave it out", param=name)
    return Answer(body=encode(store.get(incoming.path_params["response_id"], incoming.tenant).response))


def _delete(store: ResponseStore, incoming: Incoming, _: Served) -> Answer:
    check_query(incoming)
    response_id = incoming.path_params["response_id"]
    store.delete(response_id, incoming.tenant)
    return Answer(body=encode({"id": response_id, "object": "response", "deleted": True}))


def _cancel(store: ResponseStore, incoming: Incoming, _: Served) -> Inquiry:
    check_query(incoming)

    async def cancel(_: AsyncLLM) -> bytes:
        stored = store.cancel(incoming.path_params["response_id"], incoming.tenant)
        await store.settle(stored.id)
        return encode(stored.response)

    return Inquiry(model=None, ask=cancel, render=lambda body, _: bytes(body))


def _input_items(store: ResponseStore, incoming: Incoming, _: Served) -> Answer:
    _refuse_include(incoming)
    stored = store.get(incoming.path_params["response_id"], incoming.tenant)
    return Answer(body=encode(page(incoming, stored.input, extra=_INCLUDE)))


def _refuse_include(incoming: Incoming) -> None:
    for name in _INCLUDE:
        if name in incoming.query:
            message = "include is for POST /v1/responses: a response is shown as it was made; leave it out"
            raise UnsupportedParameter(message, param="include")
