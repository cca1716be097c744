"""llama-server's dialect: /completion, /completions, /infill, /props, /slots, /tokenize, /detokenize, /apply-template,
/embedding and /embeddings. Its paths below /v1 are OpenAI's.

Sampling values that a request leaves out are llama-server's, not the model's. The filters work in this engine's order
(see `SamplingParams`), penalties look at the whole sequence, and nothing is ever shifted out of the context: an output
ends there. Bodies need no Content-Type, as with llama-server.
"""

from __future__ import annotations

from headrace.server.dialects.base import Dialect, Route
from headrace.server.dialects.llama_server.embedding import parse_embedding
from headrace.server.dialects.llama_server.parse import parse_completion, parse_infill
from headrace.server.dialects.llama_server.props import refuse_change, show_props, show_slots
from headrace.server.dialects.llama_server.render import render_failure
from headrace.server.dialects.llama_server.tokens import parse_detokenize, parse_template, parse_tokenize


def dialect() -> Dialect:
    """The dialect."""
    return Dialect(
        name="llama-server",
        routes=(
            *(Route(path=path, parse=parse_completion, media_types=None) for path in ("/completion", "/completions")),
            Route(path="/infill", parse=parse_infill, media_types=None),
            *(Route(path=path, parse=parse_embedding, media_types=None) for path in ("/embedding", "/embeddings")),
            Route(path="/tokenize", parse=parse_tokenize, media_types=None),
            Route(path="/detokenize", parse=parse_detokenize, media_types=None),
            Route(path="/apply-template", parse=parse_template, media_types=None),
            Route(method="GET", path="/props", parse=show_props),
            Route(path="/props", parse=refuse_change, media_types=None),
            Route(method="GET", path="/slots", parse=show_slots),
        ),
        render_failure=render_failure,
    )


__all__ = ["dialect"]
