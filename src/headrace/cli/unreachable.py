"""What to say of a server that cannot be reached."""

from __future__ import annotations

from ssl import SSLCertVerificationError


def unreachable(url: str, error: Exception) -> str:
    """The reason, and what to do about it.

    Args:
        url: What was asked for.
        error: What urllib or http.client raised.
    """
    reason = getattr(error, "reason", error)
    if isinstance(reason, SSLCertVerificationError):
        return (
            f"{url} shows a certificate that is not trusted ({reason.verify_message}); name it, or its authority's, in"
            " SSL_CERT_FILE"
        )
    return f"{url} cannot be reached ({reason}); is the server running there?"
