"""The options of a load: every one is a field of `Load`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from headrace.cli.values import Number

_Command = Callable[..., None]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _count(name: str, default: int | None, text: str, least: int = 1) -> Callable[..., Any]:
    kind = click.IntRange(min=least)
    return click.option(name, type=kind, default=default, show_default=default is not None, metavar="N", help=text)


_OPTIONS = {
    "rate": click.option(
        "--rate",
        type=Number(0, above=True, infinite=True),
        default=math.inf,
        metavar="R",
        help='Mean requests a second, as a Poisson process.  [default: "inf", all at once]',
    ),
    "trace": click.option(
        "--trace", type=_FILE, metavar="FILE", help="Send when the requests of a trace came, and as long ones."
    ),
    "time_scale": click.option(
        "--time-scale",
        type=Number(0),
        default=1.0,
        show_default=True,
        metavar="X",
        help="Multiplies the trace's times; 0.5 is twice as fast.",
    ),
    "length_scale": click.option(
        "--length-scale",
        type=Number(0, above=True),
        default=1.0,
        show_default=True,
        metavar="X",
        help="Multiplies the trace's lengths.",
    ),
    "max_context": _count(
        "--max-context", None, "Shorten what of a trace is longer.  [default: what the server lists]", least=2
    ),
    "dataset": click.option(
        "--dataset",
        type=_FILE,
        metavar="FILE",
        help="JSONL: prompt or messages in each line, and max_tokens if it likes.  [default: random prompts]",
    ),
    "requests": _count("--requests", None, "How many.  [default: 100, or the trace's]"),
    "seconds": click.option("--seconds", type=Number(0, above=True), metavar="S", help="Send none after that."),
    "input_tokens": _count("--input-tokens", 256, "Of a random prompt."),
    "output_tokens": _count("--output-tokens", 64, "Of an answer."),
    "chat": click.option("--chat", is_flag=True, help="Use /v1/chat/completions instead of /v1/completions."),
    "words": click.option(
        "--words", is_flag=True, help="Random prompts are words; else token ids, which some servers refuse."
    ),
    "vocabulary": _count("--vocabulary", 2000, "Random token ids are from 300 to below N.", least=302),
    "stop_at_eos": click.option(
        "--stop-at-eos", is_flag=True, help="Let answers end early (without the parameter ignore_eos)."
    ),
    "temperature": click.option(
        "--temperature", type=Number(0), default=0.0, show_default=True, metavar="T", help="Of every request."
    ),
    "seed": click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of times and prompts."),
}


def load_options(command: _Command) -> _Command:
    """Add the options; the command gets `load`, a Load."""

    @wraps(command)
    def with_load(**given: Any) -> None:
        fields = {name: given.pop(name) for name in _OPTIONS}
        if fields["trace"] is not None and (math.isfinite(fields["rate"]) or fields["dataset"] is not None):
            message = "a trace says when requests come and how long they are; leave --rate and --dataset out"
            raise click.UsageError(message)
        from headrace.cli.load.plan import Load

        command(**given, load=Load(**fields))

    for option in reversed(_OPTIONS.values()):
        option(with_load)
    return with_load
