"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, and beside them vLLM's paths.

What is taken, refused and ignored: requests.py (fields), unsupported.py (known, refused). Differences from the spec
that a client can meet: `max_tokens=0` only with echo (it scores a prompt), `stop` may have more than four strings,
and sampling values that a request leaves out come from the model's generation_config.
"""

from headrace.server.dialects.base import Action, Dialect, Endpoint, Listing
from headrace.server.dialects.openai.adapters import adapter_actions
from headrace.server.dialects.openai.decisions import parse_decisions
from headrace.server.dialects.openai.embeddings import parse_classify, parse_embeddings
from headrace.server.dialects.openai.models import render_model, render_models
from headrace.server.dialects.openai.parse import parse_chat, parse_completion
from headrace.server.dialects.openai.ranking import parse_rerank, parse_score
from headrace.server.dialects.openai.render import render_failure

DIALECT = Dialect(
    name="openai",
    endpoints=(
        Endpoint("/v1/chat/completions", parse_chat),
        Endpoint("/v1/completions", parse_completion),
    ),
    actions=(
        Action("/v1/decisions", parse_decisions),
        Action("/v1/embeddings", parse_embeddings),
        *(Action(path, parse_rerank) for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
        *(Action(path, parse_score) for path in ("/v1/score", "/score")),
        *(Action(path, parse_classify) for path in ("/v1/classify", "/classify")),
    ),
    listings=(
        Listing("/v1/models", render_models),
        Listing("/v1/models/{model:path}", render_model),
    ),
    render_failure=render_failure,
)

__all__ = ["DIALECT", "adapter_actions", "parse_chat", "parse_completion", "render_failure"]
