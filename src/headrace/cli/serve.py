"""`headrace serve`: the model over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from headrace.cli.limits import limit_options
from headrace.cli.options import NamedFolder, Text, debug_option, engine_options
from headrace.config import EngineConfig, api_key, state_folder
from headrace.logs import FORMATS, LEVELS, LogSettings, set_up

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
@click.option("--trust-request-chat-template", is_flag=True, help="Let requests bring their own chat template (Jinja).")
@click.option(
    "--max-logprobs",
    type=click.IntRange(min=-1),
    default=20,
    show_default=True,
    metavar="K",
    help="Most log-probabilities of a position that a request can ask for; -1 is any number.",
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
    "--lora-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Let requests load the adapters below FOLDER (/v1/load_lora_adapter).  [default: none]",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="KEY",
    help="Key that clients need (also HEADRACE_API_KEY); may be repeated.",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with a line NAME KEY [WEIGHT] for each tenant, read again when it changes.",
)
@click.option(
    "--admin-key",
    "admin_keys",
    multiple=True,
    metavar="KEY",
    help="Key for the paths that change the server; may be repeated.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin ask; may be repeated.  [default: none]",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Serve HTTPS with this certificate (PEM).",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The certificate's private key (PEM).",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With work and no step for so long the engine is stuck: it is started again, and streams go on.",
)
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Send OpenTelemetry traces there (OTLP over HTTP); needs pip install 'headrace[otel]'.",
)
@click.option("--tgi-metrics", is_flag=True, help="Show TGI's names in /metrics too.")
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
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep files, batches and responses there.  [default: ~/.local/state/headrace/store, responses in memory]",
)
@click.option(
    "--batch-lines",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Lines of batches that run at once, between live requests.",
)
@limit_options
@engine_options
@debug_option
def serve(
    model: str,
    *,
    host: str,
    port: int,
    name: str | None,
    chat_template: Path | None,
    trust_request_chat_template: bool,
    max_logprobs: int,
    adapters: tuple[tuple[str, Path], ...],
    lora_dir: Path | None,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    admin_keys: tuple[str, ...],
    cors_origins: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    stall_timeout: float,
    tgi_metrics: bool,
    otlp_endpoint: str | None,
    log_format: str,
    log_level: str,
    store: Path | None,
    batch_lines: int,
    limits: Mapping[str, Any],
    config: EngineConfig,
) -> None:
    """Serve MODEL over HTTP as OpenAI, Anthropic, vLLM, Ollama, text-generation-inference, KServe, Triton and
    llama-server do, all on one port; with a page at /, /health and /metrics.

    The first Ctrl-C (or SIGTERM) lets open requests finish, a second one ends at once.
    """
    from headrace.async_llm import AsyncLLM
    from headrace.server.access import Access, Keys
    from headrace.server.run import listen, run_server
    from headrace.server.settings import ServerSettings
    from headrace.supervise.lives import Supervision

    logs = LogSettings(format=log_format, level=log_level)
    set_up(logs)
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together; give both")
    of_environment = api_key()
    keys = api_keys if of_environment is None else (*api_keys, of_environment)
    Access(Keys(keys, api_key_file), Keys(admin_keys))  # what is wrong with them is said before the model is loaded
    if not keys and api_key_file is None and not _is_local(host):
        warning = f"{host} is open to others and no key is asked for; give one with --api-key-file"
        _say(logs, warning, logging.WARNING)
    if port:
        listen(host, port).close()  # before the model is loaded, which may take a while
    served_name = name or model.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # JSON has no stray bytes
    _check_names([served_name, *(adapter for adapter, _ in adapters)])
    supervision = Supervision(stall_seconds=stall_timeout, logs=logs)
    llm = AsyncLLM(model, config, chat_template=chat_template, adapters=dict(adapters), supervision=supervision)
    for line in llm.load_report:
        _say(logs, line)
    if llm.chat_template is None and llm.spec.language_head:
        _say(logs, "no chat template: only /v1/completions answers (--chat-template FILE gives one)")
    run_server(
        llm,
        host,
        port,
        served_name,
        ServerSettings(
            max_logprobs=max_logprobs,
            trust_request_chat_template=trust_request_chat_template,
            adapter_folder=lora_dir,
            api_keys=keys,
            api_key_file=api_key_file,
            admin_keys=admin_keys,
            cors_origins=cors_origins,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            tgi_metrics=tgi_metrics,
            otlp_endpoint=otlp_endpoint,
            store_folder=store or state_folder(),
            store_is_optional=store is None,
            keep_responses=store is not None,
            batch_lines_at_once=batch_lines,
            **limits,
        ),
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
