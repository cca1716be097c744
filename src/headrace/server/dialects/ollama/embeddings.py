"""POST /api/embed and /api/embeddings: texts in, vectors out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.json import encode

from headrace.errors import ContextTooLong, RequestError
from headrace.pooled import EmbeddingRequestOutput
from headrace.server.dialects.base import Answer, Incoming, Inquiry, Served
from headrace.server.dialects.ollama.decode import asks_to_unload, decode, served_model
from headrace.server.dialects.ollama.options import check_options, context_of
from headrace.server.dialects.ollama.requests import EmbeddingsFields, EmbedFields, Options

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


def parse_embed(incoming: Incoming, served: Served) -> Inquiry | Answer:
    """Parse POST /api/embed: vectors of length 1, whatever the model gives.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(incoming, EmbedFields)
    model = served_model(fields.model, served)
    context = _context(fields.options or Options(), served)
    asks_to_unload(fields.keep_alive)
    inputs = [fields.input] if isinstance(fields.input, str) else fields.input or []
    if inputs in ([], [""]):
        return Answer(body=encode({"model": fields.model, "embeddings": []}))

    async def ask(llm: AsyncLLM) -> tuple[list[EmbeddingRequestOutput], float]:
        begin = time.perf_counter()
        cut = None
        if fields.truncate:
            cut = -1 if context is None else min(context, llm.pooler.max_tokens)
        dimensions = fields.dimensions or None
        outputs = await llm.embed(list(inputs), dimensions=dimensions, truncate_prompt_tokens=cut)
        _check_lengths(outputs, context)
        return outputs, time.perf_counter() - begin

    def render(found: tuple[list[EmbeddingRequestOutput], float], _: Served) -> bytes:
        outputs, seconds = found
        return encode(
            {
                "model": fields.model,
                "embeddings": [_normalised(output) for output in outputs],
                "total_duration": int(seconds * 1e9),
                "load_duration": 0,  # the model is there
                "prompt_eval_count": sum(len(output.prompt_token_ids) for output in outputs),
            }
        )

    names = {"truncate_prompt_tokens": "truncate", "inputs": "input", "prompt": "input"}
    return Inquiry(model=model, ask=ask, render=render, param_names=names)


def parse_embeddings(incoming: Incoming, served: Served) -> Inquiry | Answer:
    """Parse POST /api/embeddings: one vector, as the model gives it.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(incoming, EmbeddingsFields)
    model = served_model(fields.model, served)
    context = _context(fields.options or Options(), served)
    asks_to_unload(fields.keep_alive)
    prompt = fields.prompt
    if not prompt:
        return Answer(body=encode({"embedding": []}))

    async def ask(llm: AsyncLLM) -> EmbeddingRequestOutput:
        outputs = await llm.embed([prompt])
        _check_lengths(outputs, context)
        return outputs[0]

    return Inquiry(model=model, ask=ask, render=lambda output, _: encode({"embedding": output.outputs.embedding}))


def _context(options: Options, served: Served) -> int | None:
    """Most tokens of an input; None where the request does not say."""
    check_options(options)
    context = context_of(options, served)
    return context if options.num_ctx else None


def _check_lengths(outputs: Sequence[EmbeddingRequestOutput], context: int | None) -> None:
    """Refuse what is longer than the request allows. How long an input is, is known behind the engine only."""
    longest = max(len(output.prompt_token_ids) for output in outputs)
    if context is not None and longest > context:
        raise ContextTooLong(
            f"an input has {longest:,} tokens and options.num_ctx is {context:,}; shorten it, or ask for more context",
            param="input",
        )


def _normalised(output: EmbeddingRequestOutput) -> list[float]:
    vector = output.outputs.vector
    length = float(np.linalg.norm(vector))
    if length == 0 or not np.isfinite(length):
        raise RequestError(
            "the model's embedding of this text has no direction; it cannot be normalised", param="input"
        )
    values: list[float] = (vector / np.float32(length)).tolist()
    return values
