"""Ollama's dialect: /api/generate, /api/chat, /api/embed and what belongs to them.

What is taken, refused and without effect: requests.py. What differs from Ollama, so that nothing is ever cut or
dropped unseen: a prompt that does not fit is refused (`truncate`, `shift`), unknown options are, and so is unloading.
What a request leaves out comes from the model's generation_config, else from options.DEFAULTS.

Ollama's users send JSON without saying so: bodies may be declared as anything, but pages of other origins may then
not send them.
"""

from collections.abc import Callable

from headrace.server.dialects.base import Answer, Call, Dialect, Incoming, Inquiry, Route, Served
from headrace.server.dialects.ollama import models
from headrace.server.dialects.ollama.embeddings import parse_embed, parse_embeddings
from headrace.server.dialects.ollama.parse import parse_chat, parse_generate
from headrace.server.dialects.ollama.render import render_failure


def dialect() -> Dialect:
    """The dialect of a server."""
    return Dialect(
        name="ollama",
        routes=(
            Route(method="GET", path="/", parse=models.running, is_open=True),  # says no more than a health check
            Route(method="GET", path="/api/version", parse=models.show_version),
            Route(method="GET", path="/api/tags", parse=models.list_models),
            Route(method="GET", path="/api/ps", parse=models.list_running),
            _post("generate", parse_generate),
            _post("chat", parse_chat),
            _post("embed", parse_embed),
            _post("embeddings", parse_embeddings),
            _post("show", models.show_model),
            _post("pull", models.pull),
            *(_post(what, models.refused(what)) for what in ("push", "create", "copy")),
            Route(method="DELETE", path="/api/delete", parse=models.delete, media_types=None),
            Route(method="GET", path="/api/blobs/{digest}", parse=models.find_blob),
            _post("blobs/{digest}", models.refused("blobs")),
        ),
        render_failure=render_failure,
    )


def _post(path: str, parse: Callable[[Incoming, Served], Call | Inquiry | Answer]) -> Route:
    return Route(path=f"/api/{path}", parse=parse, media_types=None)


__all__ = ["dialect"]
