"""TGI's dialect (text-generation-inference 3): /generate, /generate_stream, /, /info, /tokenize and /chat_tokenize.

Its `huggingface_hub.InferenceClient` speaks it, and chats with /v1/chat/completions, which is OpenAI's; that one is
also answered here when the model's name is one of those that only TGI takes ("tgi", "dummy": any model).

As in TGI, and unlike in OpenAI's API: without parameters nothing is drawn (temperature=0), the model's
generation_config changes nothing, and a stop sequence is part of the text that it ends.
"""

from __future__ import annotations

from headrace.server.dialects.base import Dialect, Route
from headrace.server.dialects.tgi.chat import is_for_any_model, parse_chat_completion
from headrace.server.dialects.tgi.info import show_info
from headrace.server.dialects.tgi.parse import parse_compatible, parse_generate, parse_stream
from headrace.server.dialects.tgi.render import render_failure
from headrace.server.dialects.tgi.tokenize import has_inputs, parse_chat_tokenize, parse_tokenize


def dialect() -> Dialect:
    """The dialect."""
    return Dialect(
        name="tgi",
        routes=(
            Route(path="/generate", parse=parse_generate),
            Route(path="/generate_stream", parse=parse_stream),
            Route(path="/", parse=parse_compatible),
            Route(method="GET", path="/info", parse=show_info),
            Route(path="/tokenize", parse=parse_tokenize, claims=has_inputs),
            Route(path="/chat_tokenize", parse=parse_chat_tokenize),
            Route(path="/v1/chat/completions", parse=parse_chat_completion, claims=is_for_any_model),
        ),
        render_failure=render_failure,
        statuses={400: 422, 500: 424, 503: 429},
    )


__all__ = ["dialect"]
