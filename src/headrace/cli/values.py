"""Kinds of values that several commands take."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b|b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_ORIGIN = re.compile(r"\*|null|https?://[^/?#@\sA-Z]+|(?!https?:)[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Number(click.FloatRange):
    """A number within a range; nan is in none, and infinity only where it is said to be."""

    def __init__(
        self, least: float | None = None, most: float | None = None, *, above: bool = False, infinite: bool = False
    ) -> None:
        super().__init__(least, most, min_open=above)
        self._may_be_infinite = infinite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self._may_be_infinite):
            self.fail(f"{value} is no number to use here", param, ctx)
        return float(number)


class ByteSize(click.ParamType[int]):
    """A number of bytes: `2GiB` is 2 * 1024³, `2GB` is 2 * 1000³, a plain number is bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size, expected one such as 2GiB, 500MB or a number of bytes", param, ctx)
        unit = (match[2] or "").lower()
        base = 1024 if unit.endswith("ib") else 1000
        return int(float(match[1]) * base ** _POWERS[unit.rstrip("b").rstrip("i")])


class ServerUrl(click.ParamType[str]):
    """A server's address, without the path of an API: http://HOST:PORT, or HOST:PORT."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """With its scheme; without /v1 and /metrics at its end."""
        url = str(value) if "://" in str(value) else f"http://{value}"
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port
            is_address = False
        if not is_address or parts.query or parts.fragment:
            self.fail(f"{value!r} is no server's address, expected one such as http://127.0.0.1:8000", param, ctx)
        url = url.rstrip("/")
        for end in ("/v1", "/metrics"):
            url = url.removesuffix(end).rstrip("/")
        return url


class Origin(click.ParamType[str]):
    """Where a web page comes from, as browsers say it: SCHEME://HOST[:PORT], or * for any."""

    name = "origin"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is: what no browser says would never be met."""
        scheme = str(value).partition("://")[0]
        if not _ORIGIN.fullmatch(value) or value.endswith(_DEFAULT_PORTS.get(scheme, "/")):
            self.fail(
                f"{value!r} is no origin as browsers say it, expected one such as https://example.org (lower case, no"
                ' path, no port where it is the usual one), or "*" for any',
                param,
                ctx,
            )
        return str(value)


class HostName(click.ParamType[str]):
    """A server's name, without a port."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is."""
        if not re.fullmatch(r"[^\s/:@?#]+", value):
            self.fail(
                f"{value!r} is no name of a host, expected one such as example.org, without port and path", param, ctx
            )
        return str(value)
