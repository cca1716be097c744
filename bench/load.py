"""Load an OpenAI-compatible server with streamed completions and measure what comes back.

    python bench/load.py closed http://127.0.0.1:8000 --streams 32 --seconds 20
    python bench/load.py open http://127.0.0.1:8000 --trace AzureLLMInferenceTrace_conv.csv --rate 4 --length 0.25

`closed` keeps a number of streams busy. `open` sends requests when they arrive, whatever is still running: from a trace
(TIMESTAMP, ContextTokens, GeneratedTokens) scaled in time and length, or as a Poisson process; its goodput counts the
requests whose time to first token and mean time per further token are within limits.

Prompts are random token ids, so their length is exact and nothing is shared. Tokens are counted by the server's own
usage, as several may come in one event. The client shares the machine with the server: one thread, one epoll, no
parsing before an answer is whole. One JSON object goes to standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import random
import select
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

_END = b"\r\n0\r\n\r\n"  # ends a chunked body; no header line is "0", and JSON has no raw line breaks
_EVENT = b"data: "


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One request to send, `at` seconds after the start."""

    at: float
    body: bytes


@dataclasses.dataclass(slots=True)
class Answer:
    """What came back, with time.perf_counter() for each read that had events in it."""

    job: Job
    sent: float
    times: list[float] = dataclasses.field(default_factory=list)
    parts: list[bytes] = dataclasses.field(default_factory=list)
    error: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0

    @property
    def first(self) -> float:
        """Seconds to the first event."""
        return self.times[0] - self.sent

    @property
    def per_token(self) -> float:
        """Mean seconds of a token after the first."""
        return (self.times[-1] - self.times[0]) / max(self.tokens - 1, 1)

    def finish(self) -> None:
        """Read the token counts, and give up the bytes."""
        body = b"".join(self.parts)
        self.parts = []
        at = body.rfind(b'"usage":{')
        if self.error is None and at < 0:
            self.error = f"the answer has no usage: {body[-300:]!r}"
        if self.error is None:
            usage, _ = json.JSONDecoder().raw_decode(body[at + len(b'"usage":') :].decode())
            self.prompt_tokens, self.tokens = usage["prompt_tokens"], usage["completion_tokens"]


class Client:
    """Sends requests and collects answers, in one thread. `on_done` is called with each finished answer."""

    def __init__(self, url: str, on_done: Callable[[Answer], None]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._on_done = on_done
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._answers: dict[int, Answer] = {}
        self._idle: list[int] = []

    @property
    def num_open(self) -> int:
        """Requests that have not been answered."""
        return len(self._answers)

    def send(self, job: Job) -> None:
        """Send a request on an idle connection, or on a new one."""
        self._send(Answer(job, time.perf_counter()))

    def _send(self, answer: Answer) -> None:
        number = self._idle.pop() if self._idle else self._connect()
        self._answers[number] = answer
        head = f"{self._head}Content-Length: {len(answer.job.body)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):  # the server has closed an idle connection; the next read says so
            self._sockets[number].sendall(head.encode() + answer.job.body)

    def poll(self, seconds: float) -> None:
        """Take what has come, waiting at most so long for it."""
        for number, _ in self._epoll.poll(max(seconds, 0)):
            data = self._receive(number)
            now = time.perf_counter()
            answer = self._answers.get(number)
            if answer is None:  # an idle connection that the server has closed
                self._close(number)
                self._idle.remove(number)
                continue
            if not data and not answer.parts:  # it closed while the request was on its way
                self._close(number)
                del self._answers[number]
                self._send(answer)
                continue
            answer.parts.append(data)
            if _EVENT in data:
                answer.times.append(now)
            if data.endswith(_END) or (len(data) < len(_END) and b"".join(answer.parts[-7:]).endswith(_END)):
                self._finish(number, answer, None)
            elif len(answer.parts) == 1 and not data.startswith(b"HTTP/1.1 200"):
                self._finish(number, answer, data.decode("utf-8", "replace")[:500])
            elif not data:
                self._finish(number, answer, "the server closed the connection in the middle of an answer")

    def _receive(self, number: int) -> bytes:
        try:
            return self._sockets[number].recv(1 << 18)
        except ConnectionError:
            return b""

    def _finish(self, number: int, answer: Answer, error: str | None) -> None:
        del self._answers[number]
        if error is None:
            self._idle.append(number)
        else:
            self._close(number)
        answer.error = error
        answer.finish()
        self._on_done(answer)

    def _connect(self) -> int:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection.fileno()] = connection
        self._epoll.register(connection, select.EPOLLIN)
        return connection.fileno()

    def _close(self, number: int) -> None:
        self._epoll.unregister(number)
        self._sockets.pop(number).close()


def make_job(options: argparse.Namespace, rng: random.Random, at: float, prompt_tokens: int, tokens: int) -> Job:
    """A greedy completion of exactly so many tokens from random ids."""
    prompt = rng.choices(range(options.lowest_id, options.vocabulary), k=prompt_tokens)
    body = {"model": options.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Job(at, json.dumps(body).encode())


def run_closed(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[list[Answer], float]]:
    """(answers, seconds), once to warm up and once to measure: every stream sends its next request at once."""

    def job() -> Job:
        return make_job(options, rng, 0, options.prompt_tokens, options.tokens)

    answers: list[Answer] = []
    client = Client(options.url, answers.append)
    for seconds, num_requests in ((0.0, options.streams), (options.seconds, options.requests)):
        answers.clear()
        jobs = [job() for _ in range(options.streams)]
        started = time.perf_counter()
        num_sent = 0
        while True:
            wanted = time.perf_counter() - started < seconds if num_requests is None else num_sent < num_requests
            while wanted and client.num_open < options.streams:
                client.send(jobs.pop() if jobs else job())
                num_sent += 1
                wanted = num_requests is None or num_sent < num_requests
            if not client.num_open:
                break
            client.poll(1)
        yield list(answers), time.perf_counter() - started


def run_open(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[list[Answer], float]]:
    """The same, but requests are sent when they arrive; the clock runs from the first arrival to the last answer."""
    answers: list[Answer] = []
    client = Client(options.url, answers.append)
    for jobs in ([make_job(options, rng, 0, 16, 16)], list(_arrivals(options, rng))):
        answers.clear()
        started = time.perf_counter()
        for job in jobs:
            while (wait := started + job.at - time.perf_counter()) > 0:
                client.poll(wait)
            client.send(job)
            client.poll(0)
        while client.num_open:
            client.poll(1)
        yield list(answers), time.perf_counter() - started


def _arrivals(options: argparse.Namespace, rng: random.Random) -> Iterator[Job]:
    if options.trace is None:
        at = 0.0
        while at < options.seconds:
            yield make_job(options, rng, at, options.prompt_tokens, options.tokens)
            at += rng.expovariate(options.rate)
        return
    with options.trace.open() as file:
        rows = [
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(file)
        ]
    span = (rows[-1][0] - rows[0][0]).total_seconds()
    stretch = len(rows) / span / options.rate
    for when, context, generated in rows:
        at = (when - rows[0][0]).total_seconds() * stretch
        if at >= options.seconds:
            return
        tokens = min(max(round(generated * options.length), 1), options.context // 2)
        prompt_tokens = min(max(round(context * options.length), 1), options.context - tokens)
        yield make_job(options, rng, at, prompt_tokens, tokens)


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
        "between_reads_ms": percentiles(gaps),
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
    runs = (run_closed if options.kind == "closed" else run_open)(options, rng)
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


def served_model(url: str) -> str:
    """The first model that the server lists."""
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        return str(json.load(answer)["data"][0]["id"])


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
    options.model = options.model or served_model(options.url)
    result = measure(options)
    print(json.dumps(result))
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
