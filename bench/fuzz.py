"""Malformed requests against a live server, over raw sockets, beside a stream that must not notice.

    python bench/fuzz.py [--requests 100000] [--rounds 1] [--seed 0] [--kind KIND] [--only NUMBER] [--json FILE]

Request number N of a seed is always the same (`strange.py`); `--only N` sends that one and prints what comes back.
What counts as a finding: a status of 500 and above but 503, no answer to a whole request, a traceback in the server's
log, an engine that died. `--rounds` sends the same requests again and again: what still grows then is a leak.

Prints the findings and one JSON object: statuses, memory as it went, the longest silence of a stream (`silence.py`)
alone and beside. Exit status 1 if there are findings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from faults import Server, serving
from strange import Case, Cases

_SECONDS = 60.0
"""For an answer; a machine with other work is slow"""
_LOOKS = 10
"""At the memory, in each round"""
_NUM_HALF_OPEN = 100
_ALONE_SECONDS = 5.0
_KV_MEMORY = "4MiB"
"""Small, so that it is full at once: what grows then is something else"""


@dataclass(slots=True)
class Found:
    """What came of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    num_sent: int = 0


async def send(case: Case, host: str, port: int) -> bytes:
    """Send a request; what comes back, up to the end of a status line. Nothing if it is not waited for."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        _close_at_once(writer)
        with contextlib.suppress(ConnectionError):
            for part in case.parts:
                writer.write(part)
                await writer.drain()
                if len(case.parts) > 1:
                    await asyncio.sleep(0)
        if not case.is_whole:
            await asyncio.sleep(case.pause)
            return b""
        async with asyncio.timeout(_SECONDS):
            return await reader.readuntil(b"\r\n")
    finally:
        writer.close()


def _close_at_once(writer: asyncio.StreamWriter) -> None:
    """Closing resets the connection: no port waits for a minute afterwards."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _send_all(cases: Cases, numbers: Iterator[int], server: Server, found: Found) -> None:
    url = httpx.URL(server.url)
    for number in numbers:
        case = cases.case(number)
        found.num_sent += 1
        found.kinds[case.kind] += 1
        try:
            line = await send(case, url.host, url.port or 80)
        except (ConnectionError, asyncio.IncompleteReadError):
            found.statuses["closed"] += 1  # what is no HTTP is cut off, and the answer may be lost with it
            continue
        except TimeoutError:
            found.findings.append(f"{number} ({case.kind}): no answer in {_SECONDS:.0f} s")
            continue
        match = re.match(rb"HTTP/1\.1 (\d{3})", line)
        status = match[1].decode() if match else ("none" if case.is_whole else "not waited for")
        found.statuses[status] += 1
        if status >= "500" and status.isdecimal() and status != "503":
            found.findings.append(f"{number} ({case.kind}): {status}")


async def _hold_half_open(server: Server, cases: Cases, number: int) -> None:
    """A connection that says half of something and waits to be cut off, again and again; until cancelled."""
    url = httpx.URL(server.url)
    while True:
        data = b"".join(cases.case(number).parts)
        number += _NUM_HALF_OPEN
        reader, writer = await asyncio.open_connection(url.host, url.port or 80)
        try:
            _close_at_once(writer)
            writer.write(data[: len(data) // 2])
            with contextlib.suppress(ConnectionError):
                while await reader.read(2**16):
                    pass
        finally:
            writer.close()


@contextlib.contextmanager
def listening(server: Server) -> Iterator[dict[str, Any]]:
    """Measure the longest silence of a stream meanwhile, in a process of its own; the figures are there at the end."""
    engine = server.engine
    assert engine is not None
    script = Path(__file__).with_name("silence.py")
    figures: dict[str, Any] = {}
    command = [sys.executable, str(script), server.url, str(server.process.pid), str(engine.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield figures
        said, _ = process.communicate()
        figures |= json.loads(said)


def _memory(process: psutil.Process | None) -> float:
    return 0.0 if process is None else round(process.memory_info().rss / 2**20, 1)


def _look(server: Server, found: Found) -> None:
    sizes = {"front": _memory(server.process), "engine": _memory(server.engine)}
    found.memory.append({"requests": found.num_sent, **sizes})


async def measure(
    server: Server, cases: Cases, num_requests: int, num_rounds: int = 1, num_clients: int = 16
) -> dict[str, Any]:
    """Run everything; the result is plain data."""
    found, engine = Found(), server.engine
    with listening(server) as alone:
        await asyncio.sleep(_ALONE_SECONDS)
    started = time.monotonic()
    half_open = [asyncio.create_task(_hold_half_open(server, cases, number)) for number in range(_NUM_HALF_OPEN)]
    bounds = [num_requests * look // _LOOKS for look in range(_LOOKS + 1)]
    with listening(server) as beside:
        for _ in range(num_rounds):
            for first, last in itertools.pairwise(bounds):
                numbers = iter(range(first, last))
                await asyncio.gather(*(_send_all(cases, numbers, server, found) for _ in range(num_clients)))
                _look(server, found)
        seconds = time.monotonic() - started
    for task in half_open:
        task.cancel()
    await asyncio.gather(*half_open, return_exceptions=True)
    if server.engine != engine:
        found.findings.append("the engine died")
    log = server.log.read_text(errors="replace")
    found.findings += [f"log: {line[:300]}" for line in log.splitlines() if "Traceback" in line or "unexpected" in line]
    return {
        "requests": found.num_sent,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(found.statuses.items())),
        "kinds": dict(sorted(found.kinds.items())),
        "findings": found.findings,
        "memory_mib": found.memory,
        "silence_alone": alone,
        "silence_beside": beside,
    }


async def _only(server: Server, case: Case) -> None:
    url = httpx.URL(server.url)
    print(f"{case.kind}: {b''.join(case.parts)[:2000]!r}")
    reader, writer = await asyncio.open_connection(url.host, url.port or 80)
    writer.write(b"".join(case.parts))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            print(await reader.read(1 << 16))
    writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1, help="send the same requests so many times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="requests of this kind only (structure, bomb …)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this one only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    cases = Cases(options.seed, options.kind)
    with serving("--kv-memory", _KV_MEMORY) as server:
        if options.only is not None:
            asyncio.run(_only(server, cases.case(options.only)))
            print(server.log.read_text())
            return
        figures = asyncio.run(measure(server, cases, options.requests, options.rounds))
    figures |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    for line in figures["findings"][:100]:
        print(f"FOUND {line}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    print(json.dumps({**figures, "findings": len(figures["findings"])}))
    sys.exit(1 if figures["findings"] else 0)


if __name__ == "__main__":
    main()
