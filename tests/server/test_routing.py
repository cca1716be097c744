"""Which dialect a request is for, where several have its path, and what a dialect says beside its bodies."""

from __future__ import annotations

import re

import httpx
from fake_llm import FakeLLM

from headrace.errors import Overloaded
from headrace.server import app
from headrace.server.dialects.base import Answer, Dialect, Incoming, Route, Served
from headrace.server.routing import RouteTable, chosen


def route(name: str, header: str | None = None) -> Route:
    claims = None if header is None else lambda incoming: header in incoming.headers
    return Route(method="GET", path="/thing", parse=lambda _, __: Answer(body=name.encode()), claims=claims)


def meant(routes: list[Route], *headers: str) -> str:
    table = RouteTable([Dialect(name=str(i), routes=[one], render_failure=repr) for i, one in enumerate(routes)])
    incoming = Incoming(method="GET", path="/thing", headers=dict.fromkeys(headers, "1"))
    return chosen(table.find("GET", "/thing"), incoming).route.parse(incoming, None).body.decode()


def test_who_claims_a_request_gets_it_wherever_it_stands() -> None:
    routes = [route("a"), route("b", "x-b"), route("c", "x-c"), route("d")]
    assert meant(routes) == "a"
    assert meant(routes, "x-b") == meant(routes, "x-b", "x-c") == "b"
    assert meant(routes, "x-c") == "c"
    assert meant([route("b", "x-b"), route("c", "x-c")]) == "c"


def test_statuses_and_request_ids_of_a_dialect(serve, monkeypatch) -> None:
    def fail(_: Incoming, __: Served) -> Answer:
        raise Overloaded("no room now")

    def show(incoming: Incoming, _: Served) -> Answer:
        return Answer(body=incoming.request_id.encode())

    own = Dialect(
        name="other",
        routes=[Route(method="GET", path="/other/full", parse=fail), Route(method="GET", path="/other/id", parse=show)],
        render_failure=lambda failure: f"{failure.status} {failure.request_id}".encode(),
        statuses={503: 529},
        request_id_header="its-request",
    )
    monkeypatch.setattr(app.own, "dialect", lambda *_: own)
    base = serve(FakeLLM())
    full = httpx.get(f"{base}/other/full")
    assert (full.status_code, full.headers["retry-after"]) == (529, "1")
    assert full.text == f"503 {full.headers['its-request']}"
    shown = httpx.get(f"{base}/other/id")
    assert shown.text == shown.headers["its-request"] != full.headers["its-request"]
    assert re.fullmatch("req_[0-9a-f]{24}", shown.text)
    assert "its-request" not in httpx.get(f"{base}/v1/models").headers
