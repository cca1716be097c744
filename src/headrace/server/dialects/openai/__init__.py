"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, and beside them vLLM's paths.

What is taken, refused and ignored: requests.py (fields), unsupported.py (known, refused). Differences from the spec
that a client can meet: `max_tokens=0` only with echo (it scores a prompt), `stop` may have more than four strings,
and sampling values that a request leaves out come from the model's generation_config.
"""

from collections.abc import Callable
from pathlib import Path

from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, Dialect, Incoming, Inquiry, Route, Served
from headrace.server.dialects.openai.adapters import adapter_routes
from headrace.server.dialects.openai.batches import batch_routes
from headrace.server.dialects.openai.decisions import parse_decisions
from headrace.server.dialects.openai.embeddings import parse_classify, parse_embeddings
from headrace.server.dialects.openai.files import file_routes
from headrace.server.dialects.openai.models import list_models, show_model
from headrace.server.dialects.openai.parse import parse_chat, parse_completion
from headrace.server.dialects.openai.ranking import parse_rerank, parse_score
from headrace.server.dialects.openai.render import render_failure
from headrace.server.dialects.openai.responses import response_routes
from headrace.server.dialects.openai.tokens import is_ours, names_model, parse_detokenize, parse_tokenize
from headrace.server.stored.kept import Kept


def dialect(adapter_folder: Path | None, served_name: str, kept: Kept, max_file_bytes: int) -> Dialect:
    """The dialect of a server: see `adapter_routes` for the first arguments; `kept` is what the server keeps, and
    an upload has at most `max_file_bytes`."""
    return Dialect(
        name="openai",
        routes=(
            Route(path="/v1/chat/completions", parse=_of_defaults(parse_chat)),
            Route(path="/v1/completions", parse=_completion),
            Route(path="/v1/decisions", parse=_of_body(parse_decisions)),
            Route(path="/v1/embeddings", parse=_of_body(parse_embeddings)),
            *(Route(path=path, parse=_of_body(parse_rerank)) for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
            *(Route(path=path, parse=_of_body(parse_score)) for path in ("/v1/score", "/score")),
            *(Route(path=path, parse=_of_body(parse_classify)) for path in ("/v1/classify", "/classify")),
            Route(method="GET", path="/v1/models", parse=list_models),
            Route(method="GET", path="/v1/models/{model:path}", parse=show_model),
            Route(path="/tokenize", parse=parse_tokenize, claims=is_ours),
            Route(path="/detokenize", parse=parse_detokenize, claims=names_model),
            *adapter_routes(adapter_folder, served_name),
            *response_routes(kept.responses),
            *file_routes(kept, max_file_bytes),
            *batch_routes(kept),
        ),
        render_failure=render_failure,
    )


def _of_defaults(parse: Callable[[bytes, SamplingParams], Call]) -> Callable[[Incoming, Served], Call]:
    return lambda incoming, served: parse(incoming.body, served.defaults)


def _completion(incoming: Incoming, served: Served) -> Call:
    return parse_completion(incoming.body, served.defaults, served.infill)


def _of_body(parse: Callable[[bytes], Inquiry]) -> Callable[[Incoming, Served], Inquiry]:
    return lambda incoming, _: parse(incoming.body)


__all__ = ["dialect", "parse_chat", "parse_completion", "render_failure"]
