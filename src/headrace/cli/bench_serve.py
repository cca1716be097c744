"""`headrace bench serve`: load on any server that speaks OpenAI's API."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.options import debug_option
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.cli.load.client import Answer, Client, Job
    from headrace.cli.load.jobs import Shape

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


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command(name="bench serve", cls=_Limits, short_help="Load a server, and measure what comes back.")
@click.argument("url", default="http://127.0.0.1:8000")
@click.option("--model", metavar="NAME", help="Model to ask for.  [default: the first that the server lists]")
@click.option("--api-key", metavar="KEY", help="Sent as a bearer token.")
@click.option("--chat", is_flag=True, help="Use /v1/chat/completions instead of /v1/completions.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=math.inf,
    metavar="R",
    help='Mean requests a second, as a Poisson process.  [default: "inf", all at once]',
)
@click.option("--trace", type=_FILE, metavar="FILE", help="Send when the requests of a trace came, and as long ones.")
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Multiplies the trace's times; 0.5 is twice as fast.",
)
@click.option(
    "--length-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Multiplies the trace's lengths.",
)
@click.option("--max-context", type=click.IntRange(min=2), metavar="N", help="Shorten what of a trace is longer.")
@click.option(
    "--dataset",
    default="random",
    show_default=True,
    metavar="FILE",
    help='"random", or a JSONL file: prompt or messages in each line, and max_tokens if it likes.',
)
@click.option("--requests", type=click.IntRange(min=1), metavar="N", help="How many.  [default: 100, or the trace's]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Send none after that.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Wait while so many run.")
@click.option("--input-tokens", type=click.IntRange(min=1), default=256, show_default=True, metavar="N")
@click.option("--output-tokens", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
@click.option("--words", is_flag=True, help="Random prompts are words; else token ids, which some servers refuse.")
@click.option(
    "--vocabulary",
    type=click.IntRange(min=302),
    default=32_000,
    show_default=True,
    metavar="N",
    help="Random token ids are from 300 to below N.",
)
@click.option("--stop-at-eos", is_flag=True, help="Let answers end early (without the parameter ignore_eos).")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="T",
    help="Of every request.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of times and prompts.")
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
    api_key: str | None,
    chat: bool,
    rate: float,
    trace: Path | None,
    time_scale: float,
    length_scale: float,
    max_context: int | None,
    dataset: str,
    requests: int | None,
    seconds: float | None,
    concurrency: int | None,
    input_tokens: int,
    output_tokens: int,
    words: bool,
    vocabulary: int,
    stop_at_eos: bool,
    temperature: float,
    seed: int,
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
    from headrace.cli.load.client import Client
    from headrace.cli.load.figures import comparison, result, table
    from headrace.cli.load.jobs import Shape
    from headrace.cli.load.run import run_open, served_model

    if compare is not None:
        runs = [(path.name, _read(path)) for path in compare]
        click.echo(comparison(runs[0][1], runs[1][1]))
        _draw(picture, runs)
        return
    if trace is not None and (math.isfinite(rate) or dataset != "random"):
        raise click.UsageError("a trace says when requests come and how long they are; leave --rate and --dataset out")
    url = url.rstrip("/").removesuffix("/v1")
    shape = Shape(
        model=model or served_model(url, api_key),
        chat=chat,
        words=words,
        vocabulary=vocabulary,
        ignore_eos=not stop_at_eos,
        temperature=temperature,
    )
    jobs = _jobs(
        shape,
        random.Random(seed),
        trace,
        (time_scale, length_scale, max_context),
        dataset,
        (rate, input_tokens, output_tokens),
    )
    count = requests or (None if trace is not None or seconds is not None else 100)
    chosen = list(itertools.islice(itertools.takewhile(lambda job: seconds is None or job.at < seconds, jobs), count))

    def connect(on_done: Any) -> Client:
        return Client(url, shape.path, on_done, api_key)

    _refuse_if_failed(run_open([_at_once(chosen[0])], connect).answers[0], url)
    run = run_open(chosen, connect, most_at_once=concurrency)
    found = {
        "target": url,
        "model": shape.model,
        "request_rate": rate if math.isfinite(rate) else "inf",
        "trace": trace and trace.name,
        "num_prompts": len(chosen),
        **result(run.answers, run.began, run.seconds, dict(limits)),
    }
    click.echo(table(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found) + "\n", encoding="utf-8")
    _draw(picture, [(shape.model, found)])
    if found["failed"]:
        raise ConfigError(f"{found['failed']} of {len(chosen)} requests failed, the first with: {found['first_error']}")


def _jobs(
    shape: Shape,
    rng: random.Random,
    trace: Path | None,
    scales: tuple[float, float, int | None],
    dataset: str,
    plan: tuple[float, int, int],
) -> Iterator[Job]:
    from headrace.cli.load import jobs as made

    if trace is not None:
        time_scale, length_scale, most = scales
        yield from made.traced_jobs(
            shape, made.read_trace(trace), rng, time_scale=time_scale, length_scale=length_scale, max_context=most
        )
        return
    rate, input_tokens, output_tokens = plan
    rows = None if dataset == "random" else itertools.cycle(made.read_dataset(Path(dataset)))
    for at in made.poisson(rate, rng):
        if rows is None:
            yield made.make_job(shape, at, made.random_prompt(shape, rng, input_tokens), output_tokens)
        else:
            yield made.dataset_job(shape, at, next(rows), output_tokens)


def _at_once(job: Job) -> Job:
    return type(job)(0.0, job.body)


def _refuse_if_failed(answer: Answer, url: str) -> None:
    if answer.error is not None:
        raise ConfigError(f"{url} does not answer the first request: {answer.error}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["curves_ms"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no file of `headrace bench serve --json` ({error}); give one") from error
    return found


def _draw(picture: Path | None, runs: list[tuple[str, dict[str, Any]]]) -> None:
    if picture is not None:
        from headrace.cli.load.picture import draw

        picture.write_text(draw(runs), encoding="utf-8")
