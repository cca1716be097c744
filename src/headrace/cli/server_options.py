"""The options of a server: every one is a field of ServerSettings."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.values import ByteSize, HostName, Number, Origin
from headrace.config import api_key, state_folder

if TYPE_CHECKING:
    from headrace.server.settings import ServerSettings

_Command = Callable[..., None]


def _number(name: str, field: str, kind: Any, default: float | None, metavar: str, text: str) -> Callable[..., Any]:
    return click.option(
        name, field, type=kind, default=default, show_default=default is not None, metavar=metavar, help=text
    )


_SECONDS = Number(0, infinite=True)
_OPTIONS = {
    "trust_request_chat_template": click.option(
        "--trust-request-chat-template", is_flag=True, help="Let requests bring their own chat template (Jinja)."
    ),
    "max_logprobs": click.option(
        "--max-logprobs",
        type=click.IntRange(min=-1),
        default=20,
        show_default=True,
        metavar="K",
        help="Most log-probabilities of a position that a request can ask for; -1 is any number.",
    ),
    "adapter_folder": click.option(
        "--lora-dir",
        "adapter_folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Let requests load the adapters below FOLDER (/v1/load_lora_adapter).  [default: none]",
    ),
    "api_keys": click.option(
        "--api-key",
        "api_keys",
        multiple=True,
        metavar="KEY",
        help="Key that clients need (also HEADRACE_API_KEY); may be repeated.",
    ),
    "api_key_file": click.option(
        "--api-key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="File with a line NAME KEY [WEIGHT] for each tenant, read again when it changes.",
    ),
    "admin_keys": click.option(
        "--admin-key",
        "admin_keys",
        multiple=True,
        metavar="KEY",
        help="Key for the paths that change the server; may be repeated.",
    ),
    "cors_origins": click.option(
        "--cors-origin",
        "cors_origins",
        type=Origin(),
        multiple=True,
        metavar="ORIGIN",
        help="Let pages of this origin ask; may be repeated.  [default: none]",
    ),
    "allowed_hosts": click.option(
        "--allowed-host",
        "allowed_hosts",
        type=HostName(),
        multiple=True,
        metavar="NAME",
        help="Answer to this name too; may be repeated.  [default: any; only localhost where no other can reach the"
        " server and no key is asked for]",
    ),
    "tls_certificate": click.option(
        "--tls-cert",
        "tls_certificate",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Serve HTTPS with this certificate (PEM).",
    ),
    "tls_key": click.option(
        "--tls-key",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The certificate's private key (PEM).",
    ),
    "otlp_endpoint": click.option(
        "--otlp-endpoint",
        metavar="URL",
        help="Send OpenTelemetry traces there (OTLP over HTTP); needs pip install 'headrace[otel]'.",
    ),
    "tgi_metrics": click.option("--tgi-metrics", is_flag=True, help="Show TGI's names in /metrics too."),
    "store_folder": click.option(
        "--store",
        "store_folder",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Keep files, batches and responses there.  [default: ~/.local/state/headrace/store, responses in memory]",
    ),
    "batch_lines_at_once": click.option(
        "--batch-lines",
        "batch_lines_at_once",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        metavar="N",
        help="Lines of batches that run at once, between live requests.",
    ),
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
    "max_bodies_bytes": click.option(
        "--max-bodies-memory",
        "max_bodies_bytes",
        type=ByteSize(),
        default="512MiB",
        show_default=True,
        metavar="SIZE",
        help="Bodies of requests in memory at a time, without the first 64 KiB of each; more get 503.",
    ),
    "max_answer_bytes": click.option(
        "--max-answer-memory",
        "max_answer_bytes",
        type=ByteSize(),
        default="128MiB",
        show_default=True,
        metavar="SIZE",
        help="Memory that a request's answer may take until it is sent, at 128 bytes a token and 500 a"
        " log-probability; more get 400.",
    ),
    "request_seconds": _number(
        "--request-timeout",
        "request_seconds",
        Number(0, above=True, infinite=True),
        None,
        "SECONDS",
        "How long a request may take; the header x-request-timeout may ask for less.  [default: for ever]",
    ),
    "write_seconds": _number(
        "--write-timeout",
        "write_seconds",
        Number(0, above=True, infinite=True),
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


def server_options(command: _Command) -> _Command:
    """Add the options; the command gets `settings`, a ServerSettings."""

    @wraps(command)
    def with_settings(**given: Any) -> None:
        settings = _settings(**{name: given.pop(name) for name in _OPTIONS})
        command(**given, settings=settings)

    for option in reversed(_OPTIONS.values()):
        option(with_settings)
    return with_settings


def _settings(
    *,
    api_keys: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    tls_certificate: Path | None,
    tls_key: Path | None,
    store_folder: Path | None,
    **given: Any,
) -> ServerSettings:
    from headrace.server.settings import ServerSettings

    if (tls_certificate is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together; give both")
    of_environment = api_key()
    return ServerSettings(
        api_keys=api_keys if of_environment is None else (*api_keys, of_environment),
        allowed_hosts=allowed_hosts or None,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        store_folder=store_folder or state_folder(),
        store_is_optional=store_folder is None,
        keep_responses=store_folder is not None,
        **given,
    )
