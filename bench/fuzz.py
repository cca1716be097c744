"""Malformed requests against a live server, over raw sockets, beside a stream that must not notice.

    python bench/fuzz.py [--requests 100000] [--seed 0] [--only NUMBER] [--json FILE]

Request number N of a seed is always the same; `--only N` sends that one and prints what comes back. What counts as a
finding: a status of 500 and above, no answer to a whole request, a traceback in the server's log, an engine that died.
Prints the findings and one JSON object: statuses, memory before and after, the stream's longest silence with and
without the fuzzing. Exit status 1 if there are findings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import pkgutil
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from faults import ASKS, Server, serving

from headrace.server import app, dialects  # app first: it knows in which order the dialects are imported

_SECONDS = 60.0
"""For an answer; a machine with other work is slow"""
_NOT_UNICODE = b"\xff\xfe\x80"
_ODD_VALUES: tuple[bytes, ...] = (
    *(
        b"null",
        b"true",
        b"false",
        b"0",
        b"-1",
        b"1",
        b"3",
        b"1.5",
        b"1e999",
        b"-1e999",
        b"1e-400",
        b"-0",
        b"2147483648",
    ),
    *(
        b"9223372036854775808",
        b"18446744073709551616",
        b"1" * 400,
        b"0." + b"1" * 400,
        b"NaN",
        b"Infinity",
        b"01",
        b"+1",
    ),
    *(b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"' + b"a" * 5000 + b'"', b'"\\x"'),
    *(b"[]", b"[[]]", b"[null]", b"[1,2,3]", b'["a"]', b"[1e999]", b'[{"a":1}]', b"[" * 50 + b"]" * 50, b"[99999999]"),
    *(b"{}", b'{"a":{}}', b'{"":0}', b'{"type":"x"}', b'{"type":null}', b'{"a":1,"a":2}', b'{"1":2}', b'{"-5":1e300}'),
)
_REGEXES = (
    "(a{1,1000}){1,1000}",
    "((((((a*)*)*)*)*)*)*b",
    "[",
    "(?<=a)b",
    r"\1",
    "a{99999999}",
    "(" * 5000,
    r"\p{L}{500}\p{N}{500}",
    "(?=a)",
    "",
    ".*" * 500,
    "[^\x00-\U0010ffff]",
    "^$",
    "|" * 3000,
)
_GRAMMARS = (
    "start: /(a|a)*/ start",
    "start: start",
    'start: start start | "a"',
    "root ::= root root | root",
    "start: " + '"a" ' * 20000,
    "start: x",
    "%import common.WORD\nstart: WORD",
    "\x00",
    "start: /" + "a?" * 300 + "a" * 300 + "/",
)
_DEEP: dict[str, Any] = {"type": "string"}
for _ in range(200):
    _DEEP = {"anyOf": [_DEEP, {"type": "array", "items": _DEEP}]} if len(str(_DEEP)) < 20000 else {"not": _DEEP}
_SCHEMAS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"$ref": "#/definitions/x", "definitions": {"x": {"$ref": "#/definitions/x"}}},
    {"$ref": "http://localhost/x"},
    {"$ref": "file:///etc/passwd"},
    {"enum": list(range(20000))},
    {"enum": []},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "array", "minItems": 10**7, "items": {"type": "integer"}},
    {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(2000)}},
    {"type": "object", "required": [f"p{number}" for number in range(500)]},
    {"type": "integer", "minimum": 10**400},
    {"type": "number", "multipleOf": 1e-300},
    {"const": None},
    {"not": {}},
    {"type": ["x"]},
    {"oneOf": [{"type": "string"}] * 300},
    {"type": "object", "patternProperties": {"(": {}}},
    {"format": "x" * 5000, "type": "string"},
    _DEEP,
    True,
    False,
    3,
    [],
)
_MESSAGES: tuple[Any, ...] = (
    [],
    [{}],
    [{"role": "user"}],
    [{"role": "system", "content": "a"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "tool", "content": "a", "tool_call_id": "x"}],
    [
        {
            "role": "assistant",
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "a", "arguments": "{"}}],
        }
    ],
    [{"role": "user", "content": "a"}] * 2000,
    [{"role": "user", "content": "{{ 7 * 7 }}{% for i in range(10**9) %}x{% endfor %}"}],
    [{"role": "user", "content": "\x00\x1b[31m\u202e" + "é" * 3000}],
    [{"role": "\x00", "content": 5}],
    "text",
    {"role": "user"},
)


def field_names() -> list[str]:
    """Names of all fields of all requests."""
    assert app
    names: set[str] = set()
    for module in pkgutil.walk_packages(dialects.__path__, f"{dialects.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                names |= set(value.__struct_encode_fields__)
    return sorted(names)


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, in parts; and whether that is a whole request, which has to be answered."""

    kind: str
    parts: Sequence[bytes]
    is_whole: bool = True
    pause: float = 0.0
    """Before the connection is cut, when nothing is waited for"""


class Cases:
    """The requests of a seed, by number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._fields = field_names()
        self._kinds: tuple[tuple[int, Callable[[random.Random], Case]], ...] = (
            (40, self._fields_changed),
            (15, self._bytes_changed),
            (6, self._bomb),
            (6, self._unicode),
            (8, self._structure),
            (4, self._messages),
            (5, self._declared),
            (6, self._chunked),
            (5, self._headers),
            (3, self._half),
            (3, self._pipeline),
            (3, self._no_http),
        )

    def case(self, number: int) -> Case:
        """Request `number`."""
        rng = random.Random(f"{self._seed}:{number}")
        make = rng.choices([make for _, make in self._kinds], [weight for weight, _ in self._kinds])[0]
        return make(rng)

    def _fields_changed(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            place = _a_place(body, rng)
            name = rng.choice([*place, *self._fields]) if rng.random() < 0.5 else rng.choice(self._fields)
            place[name] = _Raw(rng.choice(_ODD_VALUES))
        return Case("fields", [_post(path, _dump(body))])

    def _bytes_changed(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        data = bytearray(_dump(body))
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0:
                    del data[at:]
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case 2:
                    data[at:at] = rng.choice(
                        [b'"', b"{", b"}", b"[", b",", b":", b"\\", b"\x00", b"\n", b"/*", rng.randbytes(3)]
                    )
                case 3:
                    data[at : at + 1] = rng.randbytes(1)
        return Case("bytes", [_post(path, bytes(data))])

    def _bomb(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        depth = rng.choice([500, 1000, 5000, 100_000])
        bombs = (
            b"[" * depth,
            b"[" * depth + b"]" * depth,
            b'{"a":' * depth + b"1" + b"}" * depth,
            b"1" * 200_000,
            b"1e" + b"9" * 5000,
            b'"' + b"a" * 1_000_000 + b'"',
            b"[" + b"1," * 200_000 + b"1]",
            b"{" + b",".join(b'"k%d":0' % number for number in range(20_000)) + b"}",
            b'{"' + b"k" * 500_000 + b'":1}',
            b"{" + b'"model":"stories",' * 20_000 + b'"a":1}',
            b" " * 500_000 + b"{}",
        )
        bomb = rng.choice(bombs)
        if rng.random() < 0.6:
            body[rng.choice([*body, *self._fields])] = _Raw(bomb)
            bomb = _dump(body)
        return Case("bomb", [_post(path, bomb)])

    def _unicode(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        text = _dump(body)
        match rng.randrange(6):
            case 0:
                data = text.decode().encode(rng.choice(["utf-16", "utf-32", "utf-16-le"]))
            case 1:
                data = b"\xef\xbb\xbf" + text
            case 2:
                data = text.replace(b"a", rng.choice([b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", _NOT_UNICODE]))
            case 3:
                data = (
                    text.replace(b"Once", b"\\ud800").replace(b"Tell", b"\\udfff\\ud800").replace(b"look", b"\\udabc")
                )
            case 4:
                data = text.replace(b"a", b"\\u0000")
            case _:
                data = text.replace(b"Once", "\U0010ffff\u202e\ufeff".encode()).replace(b"cat", b"\\uffff\\ufdd0")
        return Case("unicode", [_post(path, data)])

    def _structure(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        schema = rng.choice(_SCHEMAS)
        match rng.randrange(6):
            case 0:
                body["structured_outputs"] = {"regex": rng.choice(_REGEXES)}
            case 1:
                body["structured_outputs"] = {"grammar": rng.choice(_GRAMMARS)}
            case 2:
                body["structured_outputs"] = {"json": schema}
            case 3:
                body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            case 4:
                body["tools"] = [{"type": "function", "function": {"name": "x", "parameters": schema}}]
                body["tool_choice"] = "required"
            case _:
                body["tools"] = [{"name": "x", "input_schema": schema}]
                body["format"] = schema
        if rng.random() < 0.2 and isinstance(body.get("parameters"), dict):
            body["parameters"]["grammar"] = {"type": "json", "value": schema}
        return Case("structure", [_post(path, _dump(body))])

    def _messages(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        body["messages"] = rng.choice(_MESSAGES)
        return Case("messages", [_post(rng.choice([path, "/v1/chat/completions", "/v1/messages"]), _dump(body))])

    def _declared(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        kinds = (
            "text/plain",
            "",
            "application/xml",
            "multipart/form-data",
            "application/json; charset=utf-16",
            "a" * 5000,
        )
        kind = rng.choice([*kinds, "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "\xff/\x01"])
        extra = rng.choice(["", "content-encoding: gzip\r\n", "accept: nothing/*\r\n", "origin: http://elsewhere\r\n"])
        method = rng.choice(["POST", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "GET", "TRACE"])
        head = f"content-type: {kind}\r\n{extra}".encode("latin-1")
        return Case("declared", [_request(method, path, _dump(body), head)])

    def _chunked(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        data = _dump(body)
        head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path.encode()
        whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        te = b"transfer-encoding: chunked\r\n"
        tricks: tuple[tuple[bytes, bytes, bool], ...] = (
            (te, b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n", True),
            (te, b"-1\r\n" + whole, True),
            (te, b"ffffffffffffffffff\r\n" + data, True),
            (te, b"zz\r\n" + whole, True),
            (te, b"%x;ext=%s\r\n%s\r\n0\r\n\r\n" % (len(data), b"e" * 3000, data), True),
            (te, b"%x\r\n%s\r\n0\r\nx: y\r\n\r\n" % (len(data), data), True),
            (te + b"content-length: 5\r\n", whole, True),
            (b"content-length: 5\r\ncontent-length: 6\r\n", data, True),
            (b"content-length: -5\r\n", data, True),
            (b"content-length: 99999999999999999999999\r\n", data, True),
            (b"content-length: %d\r\n" % (2**40), data, True),
            (b"transfer-encoding: gzip, chunked\r\n", whole, False),
            (b"transfer-encoding: nonsense\r\n", whole, False),
            (te, whole[:-7], False),
            (te, b"5\r\n", False),
        )
        declared, sent, is_whole = rng.choice(tricks)
        return Case("chunked", _cut(head + declared + b"\r\n" + sent, rng), is_whole, rng.random() * 0.05)

    def _headers(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        data = _dump(body)
        floods = (
            b"".join(b"x-%d: y\r\n" % number for number in range(5000)),
            b"x: " + b"y" * 300_000 + b"\r\n",
            b"no colon here\r\n",
            b"x\x00y: z\r\n",
            b": empty\r\n",
            b"x: a\r\n folded\r\n",
            b"authorization: Bearer " + b"\xff" * 100 + b"\r\n",
            b"cookie: " + b"a=b; " * 10_000 + b"\r\n",
            b"x-request-id: " + b"\xe9" * 500 + b"\r\nanthropic-version: \x7f\r\n",
            b"expect: 100-continue\r\n",
            b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n",
            b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n",
            b"host: a\r\nhost: b\r\n",
        )
        targets = (
            "/%00",
            "/" + "a" * 100_000,
            "//",
            "/../../etc/passwd",
            "http://x/v1/models",
            "*",
            "/v1/models/%ff%fe",
            "/\xff",
        )
        target = rng.choice([path, path, *targets])
        method = rng.choice(["POST", "GET", "GE\x00T", "post", "A" * 1000])
        return Case(
            "headers", [_request(method, target, data, b"content-type: application/json\r\n" + rng.choice(floods))]
        )

    def _half(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        data = _post(path, _dump({**body, "stream": rng.random() < 0.5}))
        end = len(data) if rng.random() < 0.4 else rng.randrange(len(data))
        return Case("half", _cut(data[:end], rng), False, rng.choice([0.0, 0.01, 0.3]))

    def _pipeline(self, rng: random.Random) -> Case:
        requests = [_post(*_pair(_an_ask(rng))) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.5:
            requests[rng.randrange(len(requests))] = rng.choice(
                [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
            )
        return Case("pipeline", [b"".join(requests)])

    def _no_http(self, rng: random.Random) -> Case:
        return Case(
            "no HTTP",
            [
                rng.choice(
                    [
                        rng.randbytes(rng.randint(1, 3000)),
                        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50),
                        b"\r\n" * 1000,
                        b"GET /\r\n\r\n",
                        b"GET / HTTP/1.1",
                    ]
                )
            ],
            False,
            0.01,
        )


class _Raw:
    """JSON that no encoder would write."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def _dump(value: Any) -> bytes:
    if isinstance(value, _Raw):
        return value.data
    if isinstance(value, dict):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + _dump(inner) for key, inner in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(_dump, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _an_ask(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A fair request, short: what is left fair of it must not take long."""
    ask = rng.choice(ASKS)
    body = json.loads(json.dumps(ask.body))
    for place in (body, body.get("parameters"), body.get("options")):
        if isinstance(place, dict):
            for name in ("max_tokens", "max_new_tokens", "max_output_tokens", "num_predict", "n_predict"):
                if name in place:
                    place[name] = 3
    return ask.path, body


def _pair(ask: tuple[str, dict[str, Any]]) -> tuple[str, bytes]:
    return ask[0], _dump(ask[1])


def _a_place(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The body, or an object somewhere in it."""
    places = [body]
    for place in places:
        for value in place.values():
            inner = value if isinstance(value, list) else [value]
            places += [each for each in inner if isinstance(each, dict)]
    return rng.choice(places)


def _request(method: str, path: str, data: bytes, head: bytes) -> bytes:
    line = f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode("latin-1")
    return line + head + b"content-length: %d\r\n\r\n" % len(data) + data


def _post(path: str, data: bytes) -> bytes:
    return _request("POST", path, data, b"content-type: application/json\r\n")


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 3)))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


@dataclass(slots=True)
class Found:
    """What came of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    num_sent: int = 0


async def send(case: Case, host: str, port: int) -> bytes:
    """Send a request; what comes back, up to the end of a status line. Nothing if it is not waited for."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        # Closing resets the connection: no port waits for a minute afterwards.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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
        if status >= "500" and status.isdecimal():
            found.findings.append(f"{number} ({case.kind}): {status}")


async def longest_silence(url: str, until: Callable[[], bool]) -> float:
    """Of one stream after the other: the longest time from one token to the next, in seconds."""
    body = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
    longest = 0.0
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while not until():
            last = None
            async with client.stream("POST", "/v1/completions", json=body) as response:
                response.raise_for_status()
                async for _ in response.aiter_bytes():
                    now = time.monotonic()
                    longest, last = max(longest, now - (last or now)), now
    return longest


def _memory(server: Server) -> dict[str, float]:
    engine = server.engine
    sizes = {"front": server.process.memory_info().rss, "engine": engine.memory_info().rss if engine else 0}
    return {name: round(size / 2**20, 1) for name, size in sizes.items()}


async def measure(server: Server, num_requests: int, seed: int, num_clients: int = 16) -> dict[str, Any]:
    """Run everything; the result is plain data."""
    cases, found = Cases(seed), Found()
    engine = server.engine
    turns = iter(range(3))
    alone = await longest_silence(server.url, lambda: next(turns, None) is None)

    async def run(first: int, last: int) -> None:
        numbers = iter(range(first, last))
        await asyncio.gather(*(_send_all(cases, numbers, server, found) for _ in range(num_clients)))

    warm_up = num_requests // 5
    is_over = False
    beside = asyncio.create_task(longest_silence(server.url, lambda: is_over))
    started = time.monotonic()
    await run(0, warm_up)
    before = _memory(server)
    await run(warm_up, num_requests)
    seconds = time.monotonic() - started
    is_over = True
    silence = await beside
    await asyncio.sleep(1)
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
        "memory_mib_after_a_fifth": before,
        "memory_mib_at_the_end": _memory(server),
        "longest_silence_alone": round(alone, 3),
        "longest_silence_beside": round(silence, 3),
    }


async def _only(server: Server, seed: int, number: int) -> None:
    case = Cases(seed).case(number)
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this one only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    with serving() as server:
        if options.only is not None:
            asyncio.run(_only(server, options.seed, options.only))
            print(server.log.read_text())
            return
        figures = asyncio.run(measure(server, options.requests, options.seed))
    figures |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    for line in figures["findings"][:100]:
        print(f"FOUND {line}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    print(json.dumps({**figures, "findings": len(figures["findings"])}))
    sys.exit(1 if figures["findings"] else 0)


if __name__ == "__main__":
    main()
