"""GET /info."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import encode

from headrace.sampling_params import MOST_STOPS
from headrace.server.dialects.base import Incoming, Inquiry, Served
from headrace.server.dialects.tgi.parse import MOST_SEQUENCES

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM


def show_info(_: Incoming, __: Served) -> Inquiry:
    """The model, and what a request may ask for."""
    return Inquiry(model=None, ask=_most_at_once, render=_render)


async def _most_at_once(llm: AsyncLLM) -> int:
    return llm.config.max_sequences


def _render(max_sequences: int, served: Served) -> bytes:
    return encode(
        {
            "model_id": served.name,
            "model_sha": None,
            "model_pipeline_tag": "text-generation" if served.card.generates else "feature-extraction",
            "max_concurrent_requests": max_sequences,
            "max_best_of": MOST_SEQUENCES,
            "max_stop_sequences": MOST_STOPS,
            "max_input_tokens": served.max_context - 1,
            "max_total_tokens": served.max_context,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "router": "headrace",
            "version": served.version,
            "sha": None,
            "docker_label": None,
        }
    )
