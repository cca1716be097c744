"""Which names a server answers to, and which web pages may send to it.

A browser sends for any page that its user looks at, from inside his network. Two things keep such pages out of a server
without a key:

- What a page of another origin may send without the browser asking us first is everything but JSON: it is refused by
  its Origin. JSON the browser asks about, and does not send where that origin is not allowed (CORS).
- A page whose own name is made to lead to our address (DNS rebinding) is of our origin, for the browser; but its
  requests have its name as their Host. A server that others do not reach is asked by address or as localhost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from headrace.server.errors import ForeignHost, ForeignOrigin


class Origins:
    """What a server takes from browsers. `names` are its names, besides localhost and addresses; None: any name is.

    `pages` are origins whose pages may send ("https://example.org"; "*" is all).
    """

    def __init__(self, names: Sequence[str] | None = None, pages: Sequence[str] = ()) -> None:
        self._names = None if names is None else frozenset(name.lower().rstrip(".") for name in names)
        self._pages = frozenset(pages)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Whether the request calls this server by a name of its own.

        Raises:
            ForeignHost: it does not.
        """
        host = headers.get("host", "")
        if self._names is None or not host or self._is_own(_name_in(host)):
            return
        name = _name_in(host)[:100]
        raise ForeignHost(
            f"This server is not called {name!r}; ask it by its address or as localhost, or start it with"
            f" --allowed-host {name}"
        )

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Whether a body may come from the page that it comes from, if any.

        Raises:
            ForeignOrigin: a page of another site sends it, as what a browser sends without asking first.
        """
        origin = headers.get("origin")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if origin is None or kind == "application/json":
            return
        if origin.partition("://")[2] == headers.get("host", "") or self._pages & {origin, "*"}:
            return
        raise ForeignOrigin(
            f"A page of {origin[:100]} may not send this here without being allowed to; send it with"
            " Content-Type: application/json"
        )

    def _is_own(self, name: str) -> bool:
        assert self._names is not None
        return name == "localhost" or name.endswith(".localhost") or name in self._names or _is_address(name)


def _name_in(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
