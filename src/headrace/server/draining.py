"""A server that is about to stop: first it is not ready any more, then it takes no new requests.

open ─ begin ─→ leaving: served as ever, but /health/ready says 503 and connections are not kept
     ─ close ─→ closed: what computes something gets 503; what is open goes on to its end
"""

from __future__ import annotations

from headrace.errors import Overloaded

_REASON = "the server is shutting down; send the request again, to another one or later"


class Draining:
    """How far a server is with stopping."""

    def __init__(self) -> None:
        self._has_begun = self._is_closed = False

    @property
    def trouble(self) -> str | None:
        """Why the server is not ready; None while it is."""
        return _REASON if self._has_begun else None

    def begin(self) -> None:
        """Be ready no longer. Safe in a signal handler; again does nothing."""
        self._has_begun = True

    def close(self) -> None:
        """Take nothing new."""
        self._has_begun = self._is_closed = True

    def check(self, method: str) -> None:
        """Whether a request is still taken. What only looks is: health and metrics are worth most now.

        Raises:
            Overloaded: it is not.
        """
        if self._is_closed and method not in ("GET", "HEAD"):
            raise Overloaded(_REASON[0].upper() + _REASON[1:])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of answers that are given now."""
        return [(b"connection", b"close")] if self._has_begun else []
