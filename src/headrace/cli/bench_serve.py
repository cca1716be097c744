"""`headrace bench serve`: load on any server that speaks OpenAI's API."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.load_options import load_options
from headrace.cli.options import debug_option
from headrace.cli.values import ServerUrl
from headrace.config import api_key
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.cli.load.client import Answer, Client, Job
    from headrace.cli.load.plan import Load
    from headrace.cli.load.run import Run

_LIMIT = re.compile(r"(ttft|tpot|itl|e2el):(\d+(?:\.\d+)?)")


class _Limits(click.Command):
    """A command whose --goodput takes several words, as vLLM's does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the option before each of its words."""
        given: list[str] = []
        for word in args:
            is_further = len(given) > 1 and given[-2] == "--goodput" and _LIMIT.fullmatch(word)
            given += ["--goodput", word] if is_further else [word]
        return super().parse_args(ctx, given)


class _Limit(click.ParamType[tuple[str, float]]):
    """ttft:500"""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """The latency's name and milliseconds."""
        found = _LIMIT.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is no limit; write ttft, tpot, itl or e2el with milliseconds: ttft:500", param, ctx)
        return found[1], float(found[2])


_Result = dict[str, Any]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command(name="bench serve", cls=_Limits, short_help="Load a server, and measure what comes back.")
@click.argument("url", type=ServerUrl(), default="http://127.0.0.1:8000")
@click.option("--model", metavar="NAME", help="Model to ask for.  [default: the first that the server lists]")
@click.option("--api-key", "key", metavar="KEY", help="The server's key (also HEADRACE_API_KEY).")
@load_options
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Wait while so many run.")
@click.option(
    "--goodput",
    "limits",
    type=_Limit(),
    multiple=True,
    metavar="NAME:MS",
    help="Also count the requests within limits: --goodput ttft:500 tpot:50 (and itl, e2el).",
)
@click.option("--json", "json_file", type=_NEW_FILE, metavar="FILE", help="Write everything here.")
@click.option("--picture", type=_NEW_FILE, metavar="FILE", help="Draw it here, as SVG.")
@click.option("--compare", nargs=2, type=_FILE, metavar="A B", help="Compare two files of --json; nothing is sent.")
@debug_option
def bench_serve(
    url: str,
    *,
    model: str | None,
    key: str | None,
    load: Load,
    concurrency: int | None,
    limits: tuple[tuple[str, float], ...],
    json_file: Path | None,
    picture: Path | None,
    compare: tuple[Path, Path] | None,
) -> None:
    """Send requests to the server at URL as they arrive, whatever is still running, and measure its streams.

    Arrivals are a Poisson process (--rate) or those of a trace (--trace: Azure's CSV or Mooncake's JSONL, whose
    prompts share their prefixes). One request goes first and is not counted. Figures have the names of vLLM's result
    files; tokens are counted by the server's own usage, and events that came in one read lie 0 ms apart.
    """
    from headrace.cli.load.figures import described, result, table
    from headrace.cli.load.run import served_model

    _check_folders(json_file, picture)
    if compare is not None:
        _compare(compare, picture)
        return
    key = key or api_key()
    served = served_model(url, key, model)
    shape = load.shape(served.name)
    jobs = load.jobs(shape, served.max_context)
    run = _run(url, shape.path, key, jobs, concurrency)
    found = {
        "target": url,
        "model": served.name,
        "request_rate": load.rate if math.isfinite(load.rate) else "inf",
        "trace": load.trace and load.trace.name,
        "num_prompts": len(jobs),
        **({"shortened": sum(job.is_shortened for job in jobs)} if load.trace else {}),
        **result(run.answers, run.began, run.seconds, dict(limits)),
    }
    click.echo(table(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found) + "\n", encoding="utf-8")
    _draw(picture, [(described(found), found)])
    if found["failed"]:
        raise ConfigError(f"{found['failed']} of {len(jobs)} requests failed, the first with: {found['first_error']}")


def _run(url: str, path: str, key: str | None, jobs: Sequence[Job], concurrency: int | None) -> Run:
    """Send all, after one that is not counted."""
    from headrace.cli.load.client import Client, Job
    from headrace.cli.load.run import run_open

    def connect(on_done: Any) -> Client:
        return Client(url, path, on_done, key)

    _refuse_if_failed(run_open([Job(0.0, jobs[0].body)], connect).answers[0], url)
    return run_open(jobs, connect, most_at_once=concurrency)


def _refuse_if_failed(answer: Answer, url: str) -> None:
    if answer.error is not None:
        raise ConfigError(f"{url} does not answer the first request: {answer.error}")


def _check_folders(*files: Path | None) -> None:
    """Said before anything is measured, which would be lost."""
    for file in files:
        if file is not None and not os.access(file.parent, os.W_OK):
            raise ConfigError(f"{file} cannot be written: {file.parent} is no folder that can be written to")


def _compare(files: tuple[Path, Path], picture: Path | None) -> None:
    from headrace.cli.load.figures import comparison

    one, other = [(path.name, _read(path)) for path in files]
    click.echo(comparison(one, other))
    _draw(picture, [one, other])


def _read(path: Path) -> _Result:
    try:
        found: _Result = json.loads(path.read_text(encoding="utf-8"))
        found["curves_ms"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no file of `headrace bench serve --json` ({error!r}); give one") from error
    return found


def _draw(picture: Path | None, runs: list[tuple[str, _Result]]) -> None:
    if picture is not None:
        from headrace.cli.load.picture import draw

        picture.write_text(draw(runs), encoding="utf-8")
