"""huggingface_hub's and the system's errors as one line each: what happened and what to do."""

from __future__ import annotations

import errno
from urllib.parse import urlsplit

from huggingface_hub import constants, errors

from headrace.errors import HeadraceError, ModelError, ModelNotFound

HTTPError: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
"""Base of every network failure: httpx's in huggingface_hub 1.x, httpx2's in 2.x."""

SERVER_FAILURES = range(500, 600)


def is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer, or answered that it cannot now."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in SERVER_FAILURES
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def explain(error: Exception, repository: str, revision: str | None) -> HeadraceError:
    """The error to show for what went wrong with a repository on the hub."""
    if isinstance(error, HeadraceError):
        return error
    host = urlsplit(constants.ENDPOINT).hostname or "the hub"
    missing = _explain_missing(error, repository, revision, host)
    if missing is not None:
        return ModelNotFound(missing)
    return ModelError(_explain_failure(error, repository, host))


def _explain_missing(error: Exception, repository: str, revision: str | None, host: str) -> str | None:
    if isinstance(error, errors.GatedRepoError):  # derives from RepositoryNotFoundError
        return None
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no repository {repository} on {host}, or it is private; check the name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}; name a branch, tag or commit of it after the @"
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is not a repository's name, expected org/name"
    return None


def _explain_failure(error: Exception, repository: str, host: str) -> str:
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated; accept its terms on its page, then set HF_TOKEN to your access token"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error.response.status_code, repository, host)
    if is_unreachable(error):
        return f"cannot reach {host} ({_first_line(error)}); check the network, or name a local folder or file"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"the disk of {constants.HF_HUB_CACHE} is full; make room, or set HF_HUB_CACHE to another disk"
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"cannot write to {constants.HF_HUB_CACHE}; set HF_HUB_CACHE to a folder of yours"
    return f"cannot download {repository}: {_first_line(error)}; try again"


def _explain_status(status: int, repository: str, host: str) -> str:
    if status in {401, 403}:
        return f"{host} refuses access to {repository} (HTTP {status}); set HF_TOKEN to a token that may read it"
    if status == 429:
        return f"{host} asks to slow down (HTTP 429); wait some minutes, or set HF_TOKEN"
    return f"{host} answered HTTP {status} for {repository}; try again later, or name a local folder or file"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
