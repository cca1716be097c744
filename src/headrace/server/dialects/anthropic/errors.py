"""Anthropic's error object, and its kinds."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.json import encode

from headrace.server.errors import Failure

STATUSES: Mapping[int, int] = {503: 529}
"""Statuses that are others in Anthropic's API"""

_KINDS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By our own status; below 500 the others are invalid_request_error, and api_error from there on"""


def render_failure(failure: Failure) -> bytes:
    """The error object. The field at fault stands in the message: there is no place of its own for it."""
    kind = _KINDS.get(failure.status) or ("invalid_request_error" if failure.status < 500 else "api_error")
    message, param = failure.message, failure.param
    if param and param not in message:
        message = f"{param}: {message}"
    error = {"type": kind, "message": message}
    return encode({"type": "error", "error": error, "request_id": failure.request_id})
