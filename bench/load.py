"""Load an OpenAI-compatible server with streamed completions and measure what comes back.

    python bench/load.py closed http://127.0.0.1:8000 --streams 32 --seconds 20
    python bench/load.py open http://127.0.0.1:8000 --trace AzureLLMInferenceTrace_conv.csv --rate 4 --length 0.25

`headrace bench serve` is for people; this is what bench/peers runs, with the server's CPU time beside. `closed` keeps
a number of streams busy. `open` sends requests when they arrive, whatever is still running: from a trace scaled in time
and length, or as a Poisson process; its goodput counts the requests whose time to first token and mean time per further
token are within limits.

Prompts are random token ids, so their length is exact and nothing is shared. Tokens are counted by the server's own
usage, as several may come in one event. The client shares the machine with the server: one thread, no
parsing before an answer is whole. One JSON object goes to standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.cli.load.client import Answer, Client, Job
from headrace.cli.load.jobs import Shape, make_job, poisson, random_prompt, read_trace, traced_jobs
from headrace.cli.load.run import run_open, served_model


def shape(options: argparse.Namespace) -> Shape:
    """Greedy completions of exactly so many tokens from random ids."""
    return Shape(model=options.model, vocabulary=options.vocabulary, lowest_id=options.lowest_id)


def make_random(options: argparse.Namespace, rng: random.Random) -> Job:
    """One of them, to send at once."""
    made = shape(options)
    return make_job(made, 0, random_prompt(made, rng, options.prompt_tokens), options.tokens)


def run_closed(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[list[Answer], float]]:
    """(answers, seconds), once to warm up and once to measure: every stream sends its next request at once."""

    answers: list[Answer] = []
    client = Client(options.url, shape(options).path, answers.append)
    for seconds, num_requests in ((0.0, options.streams), (options.seconds, options.requests)):
        answers.clear()
        jobs = [make_random(options, rng) for _ in range(options.streams)]
        started = time.perf_counter()
        num_sent = 0
        while True:
            wanted = time.perf_counter() - started < seconds if num_requests is None else num_sent < num_requests
            while wanted and client.num_open < options.streams:
                client.send(jobs.pop() if jobs else make_random(options, rng))
                num_sent += 1
                wanted = num_requests is None or num_sent < num_requests
            if not client.num_open:
                break
            client.poll(1)
        yield list(answers), time.perf_counter() - started


def run_arriving(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[list[Answer], float]]:
    """The same, but requests are sent when they arrive; the clock runs from the first arrival to the last answer."""

    def connect(on_done: Callable[[Answer], None]) -> Client:
        return Client(options.url, shape(options).path, on_done)

    for jobs in ([make_random(options, rng)], list(_arrivals(options, rng))):
        run = run_open(jobs, connect)
        yield run.answers, run.seconds


def _arrivals(options: argparse.Namespace, rng: random.Random) -> Iterator[Job]:
    if options.trace is None:
        for at in itertools.takewhile(lambda at: at < options.seconds, poisson(options.rate, rng)):
            yield dataclasses.replace(make_random(options, rng), at=at)
        return
    trace = read_trace(options.trace)
    stretch = len(trace) / trace[-1].at / options.rate
    lengths = {"length_scale": options.length, "max_context": options.context}
    jobs = traced_jobs(shape(options), trace, rng, time_scale=stretch, **lengths)
    yield from itertools.takewhile(lambda job: job.at < options.seconds, jobs)


def percentiles(values: list[float]) -> dict[str, float] | None:
    """p50, p90, p99 in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {f"p{p}": round(1e3 * ordered[min(len(ordered) * p // 100, len(ordered) - 1)], 3) for p in (50, 90, 99)}


def summary(answers: list[Answer], seconds: float) -> dict[str, object]:
    """Rates and latencies of the answers that came back whole."""
    good = [answer for answer in answers if answer.error is None]
    gaps = [after - before for a in good for before, after in zip(a.times, a.times[1:], strict=False)]
    return {
        "seconds": round(seconds, 3),
        "requests": len(good),
        "failed": len(answers) - len(good),
        "first_error": next((answer.error for answer in answers if answer.error is not None), None),
        "prompt_tokens": sum(answer.prompt_tokens for answer in good),
        "tokens": sum(answer.tokens for answer in good),
        "requests_per_second": round(len(good) / seconds, 3),
        "tokens_per_second": round(sum(answer.tokens for answer in good) / seconds, 1),
        "first_token_ms": percentiles([answer.first for answer in good]),
        "per_token_ms": percentiles([answer.per_token for answer in good]),
        "between_events_ms": percentiles(gaps),
    }


def goodput(answers: list[Answer], seconds: float, most_first: float, most_per_token: float) -> dict[str, object]:
    """Requests, and their tokens, within both limits (in seconds), for each second."""
    within = [a for a in answers if a.error is None and a.first <= most_first and a.per_token <= most_per_token]
    return {
        "limits_ms": {"first_token": 1e3 * most_first, "per_token": 1e3 * most_per_token},
        "share": round(len(within) / max(len(answers), 1), 4),
        "requests_per_second": round(len(within) / seconds, 3),
        "tokens_per_second": round(sum(answer.tokens for answer in within) / seconds, 1),
    }


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and the children that it has waited for have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Warm up, run, and put together what is printed."""
    rng = random.Random(options.seed)
    runs = (run_closed if options.kind == "closed" else run_arriving)(options, rng)
    next(runs)
    client = time.process_time()
    server = cpu_seconds(options.pid) if options.pid else 0.0
    answers, seconds = next(runs)
    client = time.process_time() - client
    result = {"kind": options.kind, **summary(answers, seconds), "client_cpu_seconds": round(client, 3)}
    if options.kind == "closed":
        result["streams"] = options.streams
    else:
        limits = options.most_first / 1e3, options.most_per_token / 1e3
        result["goodput"] = goodput(answers, seconds, *limits)
    if options.pid:
        server = cpu_seconds(options.pid) - server
        tokens = sum(answer.tokens for answer in answers)
        result["server_cpu_seconds"] = round(server, 3)
        result["tokens_per_server_cpu_second"] = round(tokens / server, 1) if server else None
    return result


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    closed = kinds.add_parser("closed", help="keep a number of streams busy")
    closed.add_argument("--streams", type=int, default=8)
    closed.add_argument("--requests", type=int, help="stop after so many instead of after --seconds")
    opened = kinds.add_parser("open", help="send requests as they arrive")
    opened.add_argument("--trace", type=Path, help="CSV of TIMESTAMP, ContextTokens, GeneratedTokens; default Poisson")
    opened.add_argument("--rate", type=float, default=1.0, help="mean requests a second (a trace is stretched to it)")
    opened.add_argument("--length", type=float, default=1.0, help="scales the trace's token counts")
    opened.add_argument("--context", type=int, default=4096, help="longest prompt and answer together")
    opened.add_argument("--most-first", type=float, default=1000.0, help="limit of the first token, milliseconds")
    opened.add_argument("--most-per-token", type=float, default=100.0, help="limit of a further token, milliseconds")
    for kind in (closed, opened):
        kind.add_argument("url", help="such as http://127.0.0.1:8000")
        kind.add_argument("--seconds", type=float, default=10.0, help="no request is sent after that")
        kind.add_argument("--prompt-tokens", type=int, default=16)
        kind.add_argument("--tokens", type=int, default=128, help="of each answer")
        kind.add_argument("--model", help="default: the first that the server lists")
        kind.add_argument("--vocabulary", type=int, default=32000, help="prompts have ids below this")
        kind.add_argument("--lowest-id", type=int, default=300, help="and from this; special and byte ids lie below")
        kind.add_argument("--pid", type=int, help="process of the server, to read its CPU time")
        kind.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_options(sys.argv[1:])
    options.url = options.url.rstrip("/")
    options.model = options.model or served_model(options.url).name
    result = measure(options)
    print(json.dumps(result))
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
