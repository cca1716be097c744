"""From an exception to what a client is told. The shape is the dialect's; status, code and words are decided here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from headrace.errors import (
    ContextTooLong,
    DeadlineExceeded,
    DeadlyRequest,
    DoesNotFit,
    EngineError,
    HeadraceError,
    MissingChatTemplate,
    Overloaded,
    QueueFull,
    ReaderTooSlow,
    RequestError,
    UnknownModel,
    UnsupportedParameter,
)

logger = logging.getLogger("headrace.server")

RETRY_AFTER_SECONDS = 1
_LONGEST_MESSAGE = 1000  # a message may quote what the client sent
_LONGEST_PARAM = 200


class BodyTooLarge(RequestError):
    """The request's body is above the limit."""

    status = 413


class BodiesTooLarge(Overloaded):
    """There is no room for the request's body among those of others."""


class RequestTooSlow(RequestError):
    """The request's body did not come in time."""

    status = 408


class WrongContentType(RequestError):
    """The request's body is not declared as JSON."""

    status = 415


class Unauthorized(RequestError):
    """There is no key, or a wrong one."""

    status = 401


class Forbidden(RequestError):
    """The key does not open this."""

    status = 403


class ForeignOrigin(RequestError):
    """A page of another site sends what a browser sends without asking first."""

    status = 403


class ForeignHost(RequestError):
    """A name that is none of this server's."""

    status = 403


class PathNotFound(RequestError):
    """No route has this path."""

    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method; `allowed` are those that it has."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


_CODES: tuple[tuple[type[HeadraceError], str], ...] = (
    (ContextTooLong, "context_length_exceeded"),
    (UnknownModel, "model_not_found"),
    (UnsupportedParameter, "unsupported_parameter"),
    (MissingChatTemplate, "missing_chat_template"),
    (DoesNotFit, "does_not_fit"),
    (BodyTooLarge, "body_too_large"),
    (WrongContentType, "unsupported_media_type"),
    (Unauthorized, "invalid_api_key"),
    (Forbidden, "forbidden"),
    (ForeignOrigin, "foreign_origin"),
    (ForeignHost, "foreign_host"),
    (PathNotFound, "not_found"),
    (MethodNotAllowed, "method_not_allowed"),
    (QueueFull, "queue_full"),
    (BodiesTooLarge, "bodies_too_large"),
    (Overloaded, "overloaded"),
    (DeadlineExceeded, "deadline_exceeded"),
    (RequestTooSlow, "request_too_slow"),
    (ReaderTooSlow, "reader_too_slow"),
    (DeadlyRequest, "deadly_request"),
    (EngineError, "engine_error"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told: an HTTP status, one line, the field at fault and a word for programs."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    request_id: str | None = None
    """Of the request that failed, where the answer has not begun"""
    retry_after: int | None = None
    """Seconds after which it is worth another try, where that is known"""
    is_final: bool = False
    """Another try costs the same and ends the same, though the status looks as if it helped"""

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the failure."""
        if self.is_final:  # OpenAI's and Anthropic's clients send again what was answered 408, 409, 429 or 5xx
            return {"x-should-retry": "false"}
        if self.status in (429, 503):
            return {"retry-after": str(self.retry_after or RETRY_AFTER_SECONDS)}
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        # The rest of a body that is too large or slow is not read: the connection cannot be used again.
        return {"connection": "close"} if self.status in (408, 413) else {}


def describe(error: Exception) -> Failure:
    """Say `error` to a client. Anything that was not raised on purpose is logged and becomes a bare 500."""
    if not isinstance(error, HeadraceError):
        logger.error("a request failed with an unexpected error", exc_info=error)
        return Failure(500, "The server failed on this request; its log says why.", code="internal_error")
    if error.status >= 500 and not isinstance(error, Overloaded | DeadlineExceeded):
        logger.error("a request failed: %s", error)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    param = getattr(error, "param", None)
    return Failure(
        error.status,
        _clip(str(error), _LONGEST_MESSAGE),
        param and _clip(param, _LONGEST_PARAM),
        code,
        retry_after=getattr(error, "retry_after", None),
        is_final=isinstance(error, DeadlyRequest | DeadlineExceeded),
    )


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} …"
