"""Malformed requests, by number: what bench/fuzz.py sends."""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from faults import ASKS
from strange_values import GRAMMARS, LARGE_PIECES, MESSAGES, NOT_UNICODE, ODD_VALUES, REGEXES, SCHEMAS

from headrace.server import app, dialects  # app first: it knows in which order the dialects are imported


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

    def __init__(self, seed: int, kind: str | None = None) -> None:
        self._seed = seed
        self._fields = field_names()
        self._kinds: tuple[tuple[int, Callable[[random.Random], Case]], ...] = (
            (40, self._fields_changed),
            (15, self._bytes_changed),
            (6, self._bomb),
            (1, self._large),
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
        if kind is not None:
            self._kinds = tuple(each for each in self._kinds if each[1].__name__.startswith(f"_{kind}"))
            if not self._kinds:
                raise SystemExit(f"there is no kind {kind!r}")

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
            place[name] = _Raw(rng.choice(ODD_VALUES))
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

    def _large(self, rng: random.Random) -> Case:
        """Megabytes that unfold to many times as much, or take long to look at."""
        path, body = _an_ask(rng)
        size = rng.choice([1, 2, 4, 8]) * 2**20
        piece = rng.choice(LARGE_PIECES)
        if piece.startswith(b'"'):
            bomb = b'"' + piece[1:] * (size // len(piece)) + b'"'
        else:
            bomb = b"[" + piece * (size // len(piece)) + b"1]"
        body[rng.choice([*body, "prompt", "messages", "input", "inputs", "tools", "stop"])] = _Raw(bomb)
        return Case("large", [_post(path, _dump(body))])

    def _unicode(self, rng: random.Random) -> Case:
        path, body = _an_ask(rng)
        text = _dump(body)
        match rng.randrange(6):
            case 0:
                data = text.decode().encode(rng.choice(["utf-16", "utf-32", "utf-16-le"]))
            case 1:
                data = b"\xef\xbb\xbf" + text
            case 2:
                data = text.replace(b"a", rng.choice([b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", NOT_UNICODE]))
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
        schema = rng.choice(SCHEMAS)
        match rng.randrange(6):
            case 0:
                body["structured_outputs"] = {"regex": rng.choice(REGEXES)}
            case 1:
                body["structured_outputs"] = {"grammar": rng.choice(GRAMMARS)}
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
        body["messages"] = rng.choice(MESSAGES)
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
        head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" % path.encode()
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
    line = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n".encode("latin-1")
    return line + head + b"content-length: %d\r\n\r\n" % len(data) + data


def _post(path: str, data: bytes) -> bytes:
    return _request("POST", path, data, b"content-type: application/json\r\n")


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 3)))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]
