"""Lists in pages, and the parameters of a path's query."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import Incoming, JsonObject

_DEFAULT_LIMIT = 20


def check_query(incoming: Incoming, known: Collection[str] = ()) -> None:
    """Raise UnsupportedParameter for a parameter of the query that is not known."""
    for name in incoming.query:
        if name not in known:
            shown = f"{', '.join(known)}" if known else "none"
            raise UnsupportedParameter(
                f"{name[:100]} is not a known parameter of this path; known: {shown}", param=name
            )


def page(
    incoming: Incoming,
    items: Sequence[JsonObject],
    *,
    most: int = 100,
    default: int = _DEFAULT_LIMIT,
    extra: Collection[str] = (),
    has_order: bool = True,
) -> JsonObject:
    """One page of a list, as `limit`, `order` and `after` ask for it.

    Args:
        incoming: The request.
        items: All of them, the oldest first; each has an id.
        most: The largest `limit`.
        default: The `limit` of who names none.
        extra: Parameters of the query that somebody else has looked at.
        has_order: `order` may be asked for; without it the latest item is first.

    Raises:
        RequestError: a parameter of the query is unknown or out of range, or `after` is no item's id.
    """
    query = incoming.query
    check_query(incoming, ["limit", "after", *(["order"] if has_order else []), *extra])
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 9 and 1 <= int(limit) <= most):
        raise RequestError(f"limit is {limit[:20]!r}, expected from 1 to {most:,}", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError(f"order is {order[:20]!r}, expected asc or desc", param="order")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if (after := query.get("after")) is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise RequestError(f"after is {after[:100]!r}, which is not in this list", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    shown = ordered[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > len(shown),
    }
