"""Anthropic's dialect: POST /v1/messages and /v1/messages/count_tokens; GET /v1/models by its clients' header.

What is taken, refused and ignored: requests.py (fields), unsupported.py (known, refused). docs/anthropic.md has the
differences that a client can meet.
"""

from headrace.server.dialects.anthropic.errors import STATUSES, render_failure
from headrace.server.dialects.anthropic.headers import is_meant
from headrace.server.dialects.anthropic.models import list_models, show_model
from headrace.server.dialects.anthropic.parse import parse_count, parse_messages
from headrace.server.dialects.anthropic.unsupported import PATHS
from headrace.server.dialects.base import Answer, Dialect, Incoming, Route, Served
from headrace.server.errors import PathNotFound


def dialect() -> Dialect:
    """The dialect of a server."""
    return Dialect(
        name="anthropic",
        routes=(
            Route(path="/v1/messages", parse=parse_messages),
            Route(path="/v1/messages/count_tokens", parse=parse_count),
            Route(method="GET", path="/v1/models", parse=list_models, claims=is_meant),
            Route(method="GET", path="/v1/models/{model:path}", parse=show_model, claims=is_meant),
            *(
                Route(method=method, path=path, parse=_refuse, media_types=None)
                for path in PATHS
                for method in ("GET", "POST")
            ),
        ),
        render_failure=render_failure,
        statuses=STATUSES,
        request_id_header="request-id",
    )


def _refuse(incoming: Incoming, _: Served) -> Answer:
    instead = next(said for path, said in PATHS.items() if incoming.path.startswith(path.partition("/{")[0]))
    raise PathNotFound(f"{incoming.method} {incoming.path} of Anthropic's API is not implemented here; {instead}")


__all__ = ["dialect"]
