"""KServe's dialect (Open Inference Protocol 2) and Triton's generate extension, by the names of its vLLM backend.

Without `exclude_input_in_output` a whole answer begins with the prompt, as Triton's does; a stream never has it.
Sampling values that a request leaves out come from the model's generation_config. Bodies need no Content-Type, as in
Triton's own examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from headrace.server.dialects.base import Dialect, Incoming, Route
from headrace.server.dialects.kserve.binary import json_size
from headrace.server.dialects.kserve.infer import parse_infer
from headrace.server.dialects.kserve.models import (
    list_models,
    refuse,
    show_live,
    show_model,
    show_model_ready,
    show_ready,
    show_server,
)
from headrace.server.dialects.kserve.parse import parse_generate, parse_generate_stream
from headrace.server.dialects.kserve.render import render_failure


def dialect() -> Dialect:
    """The dialect."""
    return Dialect(
        name="kserve",
        routes=(
            Route(method="GET", path="/v2/health/live", parse=show_live, is_open=True),
            Route(method="GET", path="/v2/health/ready", parse=show_ready, is_open=True),
            Route(method="GET", path="/v2", parse=show_server),
            Route(method="GET", path="/v2/", parse=show_server),
            Route(path="/v2/repository/index", parse=list_models, media_types=None),
            *_of_model("POST", "/infer", parse_infer, json_size),
            *_of_model("POST", "/generate", parse_generate),
            *_of_model("POST", "/generate_stream", parse_generate_stream),
            *_of_model("GET", "/ready", show_model_ready),
            *_of_model("GET", "/config", refuse),
            *_of_model("GET", "/stats", refuse),
            *_of_model("GET", "", show_model),
        ),
        render_failure=render_failure,
    )


def _of_model(
    method: str, end: str, parse: Callable[..., Any], size: Callable[[Incoming], int] | None = None
) -> Iterator[Route]:
    """A path of a model, with its version and without; the longer ones first, for names may have slashes."""
    for path in ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}"):
        yield Route(method=method, path=path + end, parse=parse, media_types=None, json_size=size)


__all__ = ["dialect"]
