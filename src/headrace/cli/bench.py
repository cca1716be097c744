"""`headrace bench`: how fast a model runs here, and how much of the machine that is."""

from __future__ import annotations

import json

import click

from headrace.cli.options import debug_option, plain_engine_options
from headrace.cli.values import Number
from headrace.config import MOST_THREADS, EngineConfig


@click.command(short_help="Measure a model, in percent of this machine.")
@click.argument("model")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Prompt of the prefill test; less where the context is shorter.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8, 32),
    show_default=True,
    metavar="N",
    help="Sequences decoded at once; may be repeated.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Medians are of N runs."
)
@click.option(
    "--seconds",
    type=Number(0.01),
    default=1.0,
    show_default=True,
    metavar="S",
    help="About how long each decode run takes.",
)
@click.option("--operations", is_flag=True, help="Also show what each kind of operation takes.")
@plain_engine_options
@debug_option
def bench(
    model: str,
    *,
    prompt_tokens: int,
    batches: tuple[int, ...],
    repeats: int,
    seconds: float,
    operations: bool,
    config: EngineConfig,
) -> None:
    """Measure MODEL: prefill, and decode of 1, 8 and 32 sequences at once. `bench kernels` measures the parts,
    `bench serve` a server.

    Each figure is given in percent of what this machine's memory bandwidth and arithmetic (of bytes for quantised
    weights, else float32), measured in the same minutes, allow: the weights and the KV cache that a step reads, and 2
    operations per weight and token beside attention's. A model that fits into the processor's caches can pass 100 %.

    Every step gives one token of each sequence: what speculation gains depends on the text.

    The table goes to stderr; stdout gets one JSON object with everything, as the last line.
    """
    from headrace.cli.measure import Plan, measure
    from headrace.cli.report import benchmark_table, operations_table, rounded, show

    plan = Plan(prompt_tokens=prompt_tokens, batches=batches, repeats=repeats, seconds=seconds)
    result = measure(model, config, plan, say=lambda line: click.secho(line, dim=True, err=True))
    show(benchmark_table(result), err=True)
    if operations:
        show(operations_table(result), err=True)
    click.echo(json.dumps(rounded(result)))


@click.command(name="bench kernels", short_help="Measure each kernel, in percent of this machine.")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="Compute threads.  [default: one per core]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@debug_option
def bench_kernels(*, threads: int | None, as_json: bool) -> None:
    """Measure every native operation alone: matrices in each format with 1 to 256 tokens, attention, norms, sampling.

    Each is given in percent of the limit that binds it, measured beside it: memory bandwidth, as if every operand were
    read from memory once, or arithmetic. Takes about a minute and 2 GiB of memory.
    """
    from headrace.cli.kernels import Sizes, measure_kernels
    from headrace.cli.machine import cpu_ops
    from headrace.cli.report import kernels_table, rounded, show

    result = measure_kernels(cpu_ops(threads), Sizes(), say=lambda line: click.secho(line, dim=True, err=True))
    if as_json:
        click.echo(json.dumps(rounded(result)))
    else:
        show(kernels_table(result))
