"""Parameters of OpenAI's spec, and of vLLM's extensions, that are known and not implemented.

Each is refused by name, except where its value asks for nothing: null always, and the values listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.server.dialects.decode import Unsupported

_NEVER: tuple[Any, ...] = ()

_SHARED: Unsupported = {
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),  # only an upper bound
    "service_tier": ("auto", "default"),
    "store": (False,),
    # vLLM's
    "ec_transfer_params": _NEVER,
    "guided_decoding_backend": ("auto",),
    "kv_transfer_params": _NEVER,
    "logits_processors": ([],),
    "mm_payload": ("tensors",),
    "repetition_detection": _NEVER,
    "return_mm_kwargs": _NEVER,
    "return_token_offsets": (False,),
    "routed_experts_prompt_start": (0,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}

CHAT: Unsupported = {
    **_SHARED,
    "audio": _NEVER,
    "modalities": (["text"],),
    "moderation": _NEVER,
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "verbosity": ("medium",),
    "web_search_options": _NEVER,
    # vLLM's
    "media_io_kwargs": _NEVER,
    "mm_processor_kwargs": _NEVER,
}

COMPLETION: Unsupported = {
    **_SHARED,
    "thinking_token_budget": (-1,),
    # vLLM's
    "prompt_embeds": _NEVER,
}


INSTEAD: Mapping[str, str] = {
    "guided_decoding_backend": "leave it out: there is one",
    "thinking_token_budget": "leave it out: only chats have thoughts",
}
