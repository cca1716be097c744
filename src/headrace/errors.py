"""The error tree. A message says what happened, what was expected, and what to do next.

    HeadraceError                    500
    ├── ConfigError                  400   a setting that cannot be used
    ├── ModelError                   500   a model that cannot be loaded
    │   ├── ModelNotFound            404   no such name, folder, file or repository
    │   ├── UnsupportedModel         501   a family, config key or format that is not implemented
    │   ├── DamagedFile              500   truncated, malformed or inconsistent file
    │   ├── WeightsMismatch          500   weights missing, left over or of the wrong shape
    │   └── TemplateOutOfTime        500   a chat template took longer than it may
    ├── RequestError                 400   the client's mistake; `param` names the field
    │   ├── UnsupportedParameter     400   a known parameter that is not implemented
    │   ├── ContextTooLong           400   prompt + max_tokens exceed the context
    │   ├── MissingChatTemplate      400   chat asked of a model without a template
    │   ├── UnknownModel             404   the request names a model that is not served
    │   └── DoesNotFit               400   needs more KV cache, or more of the queue, than there is
    ├── Overloaded                   503   no room now; try again later
    │   └── QueueFull                429   too much waits already; it knows when to try again
    ├── DeadlineExceeded             504   the answer was not there in the time that was given for it
    ├── ReaderTooSlow                408   the client reads more slowly than the answer comes, for too long
    └── EngineError                  500   the engine failed; a bug of ours
        └── DeadlyRequest            500   the engine died of this request, more than once

`raise` these for what a user can cause; `assert` is for our own bugs only.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of every error raised on purpose. `status` is the HTTP status that a server answers with."""

    status: int = 500


class ConfigError(HeadraceError):
    """A setting cannot be used."""

    status = 400


class ModelError(HeadraceError):
    """A model cannot be loaded."""


class ModelNotFound(ModelError):
    """No such bundled name, folder, file or repository."""

    status = 404


class UnsupportedModel(ModelError):
    """A family, config key or format that headrace does not implement; the message names it."""

    status = 501


class DamagedFile(ModelError):
    """A file is truncated, malformed or inconsistent with itself."""


class WeightsMismatch(ModelError):
    """Weights are missing, left over or of the wrong shape; the message names them."""


class TemplateOutOfTime(ModelError):
    """A chat template took longer than it may."""


class RequestError(HeadraceError):
    """The client's mistake. `param` is the name of the field at fault, or None."""

    status = 400

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnsupportedParameter(RequestError):
    """A parameter that other engines know and this one does not implement."""


class ContextTooLong(RequestError):
    """The prompt (and the tokens asked for) exceed the model's context."""


class MissingChatTemplate(RequestError):
    """Chat was asked of a model that has no chat template."""


class UnknownModel(RequestError):
    """The request names a model that this server does not serve."""

    status = 404


class DoesNotFit(RequestError):
    """The request can never fit into the KV cache or into the queue, even alone."""


class Overloaded(HeadraceError):
    """There is no room for the request now."""

    status = 503


class QueueFull(Overloaded):
    """Too much waits already. `retry_after` is when there should be room, in seconds from now."""

    status = 429

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(HeadraceError):
    """The answer was not there in the time that the client or the server gave for it; the request has been dropped."""

    status = 504


class ReaderTooSlow(HeadraceError):
    """A stream's client has left too much of it unread; the request has been dropped."""

    status = 408


class EngineError(HeadraceError):
    """The engine failed; the requests in flight get this error."""


class DeadlyRequest(EngineError):
    """The engine died of this request more than once; it is not to be sent again."""
