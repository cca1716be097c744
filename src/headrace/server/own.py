"""The server's own paths, which are no client dialect's: health, metrics, version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from headrace import __version__
from headrace.errors import Overloaded
from headrace.server.dialects.base import Answer, Dialect, Incoming, Inquiry, Route, Served
from headrace.server.dialects.openai import render_failure
from headrace.server.draining import Draining
from headrace.server.metrics import Metrics

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


def dialect(metrics: Metrics, draining: Draining) -> Dialect:
    """GET /health, /health/live, /health/ready, /metrics and /version; errors in OpenAI's shape."""

    def show_metrics(_: Incoming, __: Served) -> Answer:
        return Answer(body=metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def show_ready(_: Incoming, __: Served) -> Inquiry:
        """200 when the server takes requests and the engine runs them; else 503 and why not."""

        async def ask(llm: AsyncLLM) -> None:
            trouble = draining.trouble or llm.trouble
            if trouble is not None:
                raise Overloaded(trouble)

        return Inquiry(model=None, ask=ask, render=lambda _, __: encode({"status": "ok"}))

    return Dialect(
        name="headrace",
        routes=(
            Route(method="GET", path="/health", parse=show_ready, is_open=True),
            Route(method="GET", path="/health/ready", parse=show_ready, is_open=True),
            Route(method="GET", path="/health/live", parse=_live, is_open=True),
            Route(method="GET", path="/metrics", parse=show_metrics),
            Route(method="GET", path="/version", parse=_version),
        ),
        render_failure=render_failure,
    )


def _live(_: Incoming, __: Served) -> Answer:
    """200: the process answers, whatever the engine does."""
    return Answer(body=encode({"status": "ok"}))


def _version(_: Incoming, __: Served) -> Answer:
    return Answer(body=encode({"version": __version__}))
