"""docs/api.md is what the code says."""

from __future__ import annotations

from api_document import DOCUMENT, body_of, current

from headrace import AsyncLLM
from headrace.server.app import create_app


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == current(), "run `make api`"


def test_what_the_main_routes_take_is_seen() -> None:
    service = create_app(AsyncLLM("stories"), "stories")._service
    routes = {(dialect.name, route.path): route for dialect in service.routes.dialects for route in dialect.routes}
    body = body_of(routes["openai", "/v1/chat/completions"], service.served)
    assert body is not None
    assert body.kind.__name__ == "ChatFields"
    assert "audio" in body.refused
    assert body_of(routes["headrace", "/health"], service.served) is None
