"""Parameters of OpenAI's spec, of vLLM's extensions and of llama-server's, that are known and not implemented.

Each is refused by name, except where its value asks for nothing: null always, and the values listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.server.dialects.decode import Unsupported
from headrace.server.dialects.llama_fields import UNSUPPORTED as OF_LLAMA_SERVER

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
    # llama-server's
    **OF_LLAMA_SERVER,
    "backend_sampling": (False,),
    "n_cmpl": (1,),
    "n_predict": _NEVER,
    "n_probs": (0,),
    "response_fields": ([],),
    "return_tokens": (False,),
    "timings_per_token": (False,),
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
    # llama-server's
    "parse_tool_calls": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "thinking_forced_open": (False,),
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
    "n_cmpl": "send n",
    "n_predict": "send max_tokens",
    "n_probs": "send logprobs, and top_logprobs in a chat",
    "return_tokens": "send return_token_ids",
    "samplers": "leave it out: the order of the filters is this engine's own",
}
