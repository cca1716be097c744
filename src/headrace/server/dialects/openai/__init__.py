"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/decisions, /v1/models.

What is taken, refused and ignored: requests.py (fields), unsupported.py (known, refused). Differences from the spec
that a client can meet: `max_tokens=0` only with echo (it scores a prompt), `stop` may have more than four strings,
and sampling values that a request leaves out come from the model's generation_config.
"""

from headrace.server.dialects.base import Action, Dialect, Endpoint, Listing
from headrace.server.dialects.openai.adapters import adapter_actions
from headrace.server.dialects.openai.decisions import parse_decisions
from headrace.server.dialects.openai.models import render_model, render_models
from headrace.server.dialects.openai.parse import parse_chat, parse_completion
from headrace.server.dialects.openai.render import render_failure

DIALECT = Dialect(
    name="openai",
    endpoints=(
        Endpoint("/v1/chat/completions", parse_chat),
        Endpoint("/v1/completions", parse_completion),
    ),
    actions=(Action("/v1/decisions", parse_decisions),),
    listings=(
        Listing("/v1/models", render_models),
        Listing("/v1/models/{model:path}", render_model),
    ),
    render_failure=render_failure,
)

__all__ = ["DIALECT", "adapter_actions", "parse_chat", "parse_completion", "render_failure"]
