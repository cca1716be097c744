"""`headrace serve`: the model over HTTP."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli.options import NamedFolder, Text, debug_option, engine_options
from headrace.cli.server_options import server_options
from headrace.cli.values import Number
from headrace.config import EngineConfig
from headrace.logs import FORMATS, LEVELS, LogSettings, set_up

if TYPE_CHECKING:
    from headrace.server.settings import ServerSettings

logger = logging.getLogger("headrace.server")


@click.command(short_help="Serve a model over HTTP, in every client's API.")
@click.argument("model")
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help='Address to listen on; "0.0.0.0" is all.'
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="PORT",
    help="Port to listen on; 0 picks one.",
)
@click.option("--name", type=Text(), metavar="NAME", help="The model's name in requests and answers.  [default: MODEL]")
@click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Jinja template to use instead of the model's own.",
)
@click.option(
    "--lora",
    "adapters",
    type=NamedFolder(),
    multiple=True,
    metavar="NAME=FOLDER",
    help="LoRA adapter (PEFT's folder) to serve under a name of its own; may be repeated.",
)
@click.option(
    "--stall-timeout",
    type=Number(0.1, infinite=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With work and no step for so long the engine is stuck: it is started again, and streams go on.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Lines on stderr for people, or a JSON object each.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Least of what is logged; a request is info.",
)
@server_options
@engine_options
@debug_option
def serve(
    model: str,
    *,
    host: str,
    port: int,
    name: str | None,
    chat_template: Path | None,
    adapters: tuple[tuple[str, Path], ...],
    stall_timeout: float,
    log_format: str,
    log_level: str,
    settings: ServerSettings,
    config: EngineConfig,
) -> None:
    """Serve MODEL over HTTP as OpenAI, Anthropic, vLLM, Ollama, text-generation-inference, KServe, Triton and
    llama-server do, all on one port; with a page at /, /health and /metrics.

    The first Ctrl-C (or SIGTERM) lets open requests finish, a second one ends at once.
    """
    from headrace.async_llm import AsyncLLM
    from headrace.server.run import check_settings, run_server
    from headrace.supervise.lives import Supervision

    logs = LogSettings(format=log_format, level=log_level)
    set_up(logs)
    check_settings(host, port, settings)
    keys = settings.api_keys or settings.api_key_file
    if not keys and not _is_local(host):
        warning = f"{host} is open to others and no key is asked for; give one with --api-key-file"
        _say(logs, warning, logging.WARNING)
    if not keys and _is_local(host) and settings.allowed_hosts is None:
        settings = replace(settings, allowed_hosts=())
    served_name = name or model.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # JSON has no stray bytes
    _check_names([served_name, *(adapter for adapter, _ in adapters)])
    supervision = Supervision(stall_seconds=stall_timeout, logs=logs)
    llm = AsyncLLM(model, config, chat_template=chat_template, adapters=dict(adapters), supervision=supervision)
    for line in llm.load_report:
        _say(logs, line)
    if llm.chat_template is None and llm.spec.language_head:
        _say(logs, "no chat template: chats are refused, texts are completed (--chat-template FILE gives one)")
    run_server(
        llm,
        host,
        port,
        served_name,
        settings,
        announce=lambda line: _announce(logs, line),
    )


def _say(logs: LogSettings, line: str, level: int = logging.INFO) -> None:
    """A line about the start: for people on stderr, dim or yellow; for machines one of the log's."""
    if logs.format == "json":
        logger.log(level, line)
    else:
        is_warning = level >= logging.WARNING
        click.secho(line, fg="yellow" if is_warning else None, dim=not is_warning, err=True)


def _announce(logs: LogSettings, line: str) -> None:
    if logs.format == "json":
        logger.info(line, extra={"facts": {"event": "listening"}})
    else:
        click.echo(line, err=True)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_names(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"two models or adapters are called {name!r}; give each a name of its own")
