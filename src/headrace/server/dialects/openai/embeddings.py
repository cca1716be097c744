"""POST /v1/embeddings and /v1/classify: texts in, vectors or classes out."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec import Struct
from msgspec.json import encode

from headrace.pooled import ClassificationRequestOutput, EmbeddingOutput, EmbeddingRequestOutput
from headrace.server.dialects.base import Inquiry, JsonObject, Served
from headrace.server.dialects.decode import NEVER, Unsupported
from headrace.server.dialects.openai.decode import decode
from headrace.server.dialects.openai.parse import prompts

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

Inputs: TypeAlias = str | list[str | int | list[int]]

POOLING_UNSUPPORTED: Unsupported = {
    # vLLM's
    "add_special_tokens": (True,),
    "cache_salt": NEVER,
    "chat_template": NEVER,
    "chat_template_kwargs": ({},),
    "messages": NEVER,
    "mm_processor_kwargs": NEVER,
    "priority": (0,),
    "request_id": NEVER,
    "softmax": NEVER,
    "truncation_side": ("right",),
    "use_activation": (True,),
}
"""Known parameters of what pools, refused unless their value asks for nothing."""
_EMBEDDING_UNSUPPORTED: Unsupported = {
    **POOLING_UNSUPPORTED,
    "bytes_dtype": NEVER,
    "embed_dtype": ("float32",),
    "endianness": ("little",),
    "normalize": NEVER,  # the model says it
}


class PoolingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What all paths that pool take."""

    model: str
    user: str | None = None
    """No effect"""
    truncate_prompt_tokens: int | None = None
    """vLLM's: cut longer inputs to so many tokens, -1 to what the model takes; without it they are refused."""


class EmbeddingFields(PoolingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/embeddings."""

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    prompt_name: str | None = None
    """sentence-transformers': which of the model's prompts goes before each text"""


class ClassifyFields(PoolingFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/classify."""

    input: Inputs


def parse_embeddings(body: bytes) -> Inquiry:
    """Parse POST /v1/embeddings.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, EmbeddingFields, _EMBEDDING_UNSUPPORTED)
    inputs = prompts(fields.input, "input")

    async def ask(llm: AsyncLLM) -> list[EmbeddingRequestOutput]:
        return await llm.embed(
            inputs,
            dimensions=fields.dimensions,
            prompt_name=fields.prompt_name,
            truncate_prompt_tokens=fields.truncate_prompt_tokens,
        )

    is_base64 = fields.encoding_format == "base64"
    return Inquiry(model=fields.model, ask=ask, render=partial(_render_embeddings, is_base64=is_base64))


def parse_classify(body: bytes) -> Inquiry:
    """Parse POST /v1/classify (vLLM's).

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, ClassifyFields, POOLING_UNSUPPORTED)
    inputs = prompts(fields.input, "input")

    async def ask(llm: AsyncLLM) -> list[ClassificationRequestOutput]:
        return await llm.classify(inputs, truncate_prompt_tokens=fields.truncate_prompt_tokens)

    return Inquiry(model=fields.model, ask=ask, render=_render_classes)


def _render_embeddings(outputs: Sequence[EmbeddingRequestOutput], served: Served, *, is_base64: bool) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(output.outputs, is_base64=is_base64)}
        for index, output in enumerate(outputs)
    ]
    return encode({"object": "list", "data": data, "model": served.name, "usage": usage_of(outputs)})


def _embedding(output: EmbeddingOutput, *, is_base64: bool) -> list[float] | str:
    """The numbers, or their float32, the lowest byte first, in base64."""
    return base64.b64encode(output.vector.astype("<f4").tobytes()).decode() if is_base64 else output.embedding


def _render_classes(outputs: Sequence[ClassificationRequestOutput], served: Served) -> bytes:
    data = [
        {
            "index": index,
            "label": output.outputs.label,
            "probs": output.outputs.probs,
            "num_classes": output.outputs.num_classes,
        }
        for index, output in enumerate(outputs)
    ]
    return encode({**identity("classify", served), "object": "list", "data": data, "usage": usage_of(outputs)})


def identity(prefix: str, served: Served) -> JsonObject:
    """The fields that vLLM's answers begin with."""
    return {"id": f"{prefix}-{secrets.token_hex(16)}", "created": int(time.time()), "model": served.name}


def usage_of(outputs: Sequence[Any]) -> JsonObject:
    """Token counts of what was computed."""
    count = sum(len(output.prompt_token_ids) for output in outputs)
    return {"prompt_tokens": count, "total_tokens": count}
