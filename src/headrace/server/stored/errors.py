"""What can be wrong with what a client asks of the store."""

from __future__ import annotations

from headrace.errors import RequestError


class NotStored(RequestError):
    """There is nothing of this id (or it is another tenant's, which is the same to who asks)."""

    status = 404


class StoreIsFull(RequestError):
    """It would exceed what the server keeps."""

    status = 413


class StillNeeded(RequestError):
    """It cannot be done now, since something that runs depends on it, or has ended."""

    status = 409


class NothingKept(RequestError):
    """The server has no folder to keep it in."""

    status = 501
