"""The options of a server's limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

_Command = Callable[..., None]


def _number(name: str, field: str, kind: Any, default: float | None, metavar: str, text: str) -> Callable[..., Any]:
    return click.option(
        name, field, type=kind, default=default, show_default=default is not None, metavar=metavar, help=text
    )


_SECONDS = click.FloatRange(min=0)
_OPTIONS = {
    "max_waiting_requests": _number(
        "--max-waiting-requests",
        "max_waiting_requests",
        click.IntRange(min=0),
        2048,
        "N",
        "Requests that may wait for the engine; more get 429.",
    ),
    "max_waiting_tokens": _number(
        "--max-waiting-tokens",
        "max_waiting_tokens",
        click.IntRange(min=1),
        4_000_000,
        "N",
        "Tokens (prompts and expected outputs) that may wait for the engine.",
    ),
    "priority_across_tenants": click.option(
        "--priority-across-tenants",
        is_flag=True,
        help="Let a request's priority count against everybody's, not only its key's own.",
    ),
    "max_connections": _number(
        "--max-connections", "max_connections", click.IntRange(min=1), 4096, "N", "Connections; more get 503."
    ),
    "request_seconds": _number(
        "--request-timeout",
        "request_seconds",
        click.FloatRange(min=0, min_open=True),
        None,
        "SECONDS",
        "How long a request may take; the header x-request-timeout may ask for less.  [default: for ever]",
    ),
    "write_seconds": _number(
        "--write-timeout",
        "write_seconds",
        click.FloatRange(min=0, min_open=True),
        60.0,
        "SECONDS",
        "Cut off a client that reads nothing of its answer for so long.",
    ),
    "drain_seconds": _number(
        "--drain-delay",
        "drain_seconds",
        _SECONDS,
        0.0,
        "SECONDS",
        "After SIGTERM, serve on for so long while /health/ready says 503: until load balancers have seen it.",
    ),
    "shutdown_seconds": _number(
        "--shutdown-timeout",
        "shutdown_seconds",
        _SECONDS,
        30.0,
        "SECONDS",
        "Then let open requests finish for so long; the rest gets an error.",
    ),
}


def limit_options(command: _Command) -> _Command:
    """Add the options; the command gets `limits`, fields of ServerSettings."""

    @wraps(command)
    def with_limits(**given: Any) -> None:
        limits = {name: given.pop(name) for name in _OPTIONS}
        command(**given, limits=limits)

    for option in reversed(_OPTIONS.values()):
        option(with_limits)
    return with_limits
