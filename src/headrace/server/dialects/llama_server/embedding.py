"""POST /embedding and /embeddings, as in llama-server: vectors of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.json import encode

from headrace.errors import RequestError
from headrace.pooled import EmbeddingRequestOutput
from headrace.server.dialects.base import Incoming, Inquiry, Served
from headrace.server.dialects.decode import Unsupported, decode
from headrace.server.dialects.llama_server.parse import prompts
from headrace.server.dialects.llama_server.requests import EmbeddingFields

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_UNSUPPORTED: Unsupported = {"embd_normalize": (2,), "encoding_format": ("float",), "image_data": ([],)}


def parse_embedding(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /embedding.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, EmbeddingFields, _UNSUPPORTED)
    given = fields.content if fields.content is not None else fields.input
    if given is None or (fields.content is not None and fields.input is not None):
        raise RequestError("expected one of content and input", param="content")
    name = "content" if fields.content is not None else "input"
    texts: list[Any] = prompts(given, name)
    if any(not isinstance(text, str) and any(isinstance(part, str) for part in text) for text in texts):
        raise RequestError(f"{name} mixes texts and token ids in one input, expected one kind", param=name)

    async def ask(llm: AsyncLLM) -> list[EmbeddingRequestOutput]:
        return await llm.embed(texts)

    return Inquiry(model=fields.model, ask=ask, render=_render, param_names={"prompt": name, "input": name})


def _render(outputs: Sequence[EmbeddingRequestOutput], _: Served) -> bytes:
    return encode(
        [{"index": index, "embedding": [_normal(output.outputs.vector)]} for index, output in enumerate(outputs)]
    )


def _normal(vector: np.ndarray[Any, Any]) -> list[float]:
    length = float(np.linalg.norm(vector))
    return [float(value) for value in vector / length] if length else [0.0] * len(vector)
