"""GET /v1/models and /v1/models/{model} for clients of Anthropic's API, known by their header."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.json import encode

from headrace.errors import RequestError
from headrace.server.allowed import adapter_of
from headrace.server.dialects.anthropic.headers import check_head
from headrace.server.dialects.base import Answer, Incoming, JsonObject, Served

_DEFAULT_LIMIT, _LARGEST_LIMIT = 20, 1000
_QUERY = ("limit", "after_id", "before_id")


def list_models(incoming: Incoming, served: Served) -> Answer:
    """A page of the models: the one that is served, then its adapters.

    Raises:
        RequestError: an unknown query parameter, a wrong limit, or a cursor that is no model.
    """
    check_head(incoming, _QUERY)
    names = [served.name, *served.adapters()]
    limit = _limit(incoming.query.get("limit"))
    after, before = (_position(incoming, cursor, names) for cursor in ("after_id", "before_id"))
    if after is not None and before is not None:
        raise RequestError("after_id and before_id exclude each other; send one of them", param="before_id")
    start, end = 0 if after is None else after + 1, len(names) if before is None else before
    page = names[max(start, end - limit) : end] if before is not None else names[start : start + limit]
    has_more = len(page) < end - start
    body = {
        "data": [_model(name, served) for name in page],
        "has_more": has_more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
    return Answer(body=encode(body))


def show_model(incoming: Incoming, served: Served) -> Answer:
    """One model or adapter.

    Raises:
        UnknownModel: it is not served.
    """
    check_head(incoming)
    name = incoming.path_params["model"]
    adapter_of(name, served)
    return Answer(body=encode(_model(name, served)))


def _limit(asked: str | None) -> int:
    if asked is None:
        return _DEFAULT_LIMIT
    if not (asked.isascii() and asked.isdecimal() and len(asked) <= 4 and 1 <= int(asked) <= _LARGEST_LIMIT):
        raise RequestError(f"limit is {asked[:20]!r}, expected from 1 to {_LARGEST_LIMIT}", param="limit")
    return int(asked)


def _position(incoming: Incoming, cursor: str, names: list[str]) -> int | None:
    name = incoming.query.get(cursor)
    if name is None:
        return None
    if name not in names:
        raise RequestError(f"{cursor} is {name[:80]!r}, which is no model that is served here", param=cursor)
    return names.index(name)


def _model(name: str, served: Served) -> JsonObject:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(served.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": served.max_context,
        "max_tokens": served.max_context,
    }
