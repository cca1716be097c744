"""What is said of a request outside its body: the API's version, opt-ins to its betas, query parameters."""

from __future__ import annotations

from collections.abc import Collection

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.anthropic.unsupported import BETAS
from headrace.server.dialects.base import Incoming

VERSION_HEADER = "anthropic-version"
_BETA_HEADER = "anthropic-beta"
_VERSIONS = ("2026-10-21", "2023-06-01")
"""They differ in what they refuse; what the older one takes is taken in both (temperature, top_p and top_k)"""


def is_meant(incoming: Incoming) -> bool:
    """Whether a request on a path of several APIs is in this one's words: its clients always name the version."""
    return VERSION_HEADER in incoming.headers


def check_head(incoming: Incoming, query: Collection[str] = ()) -> None:
    """Check the headers, and that there are no query parameters but these (and `beta`, which Anthropic's clients send).

    Raises:
        RequestError: another version of the API, an unknown beta, or an unknown query parameter.
    """
    version = incoming.headers.get(VERSION_HEADER)
    if version is not None and version not in _VERSIONS:
        expected = " or ".join(_VERSIONS)
        raise RequestError(f"{VERSION_HEADER} is {version[:40]!r}, expected {expected}", param=VERSION_HEADER)
    for name in incoming.headers.get(_BETA_HEADER, "").split(","):
        if (beta := name.strip()) and beta not in BETAS:
            raise UnsupportedParameter(
                f"{_BETA_HEADER} has {beta[:80]!r}, which is not supported here; leave it out", param=_BETA_HEADER
            )
    for name in incoming.query:
        if name not in query and name != "beta":
            known = f"expected {', '.join(query)}" if query else "leave it out"
            raise RequestError(f"{name[:80]} is not a known query parameter; {known}", param=name)
