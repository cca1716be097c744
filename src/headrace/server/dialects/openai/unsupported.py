"""Parameters of OpenAI's spec, of vLLM's extensions and of llama-server's, that are known and not implemented.

Each is refused by name, except where its value asks for nothing: null always, and the values listed here.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.server.dialects.decode import NEVER, Unsupported
from headrace.server.dialects.llama_fields import UNSUPPORTED as OF_LLAMA_SERVER

_SHARED: Unsupported = {
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),  # only an upper bound
    "service_tier": ("auto", "default"),
    "store": (False,),
    # vLLM's
    "ec_transfer_params": NEVER,
    "guided_decoding_backend": ("auto",),
    "kv_transfer_params": NEVER,
    "logits_processors": ([],),
    "mm_payload": ("tensors",),
    "repetition_detection": NEVER,
    "return_mm_kwargs": NEVER,
    "return_token_offsets": (False,),
    "routed_experts_prompt_start": (0,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
    # llama-server's
    **OF_LLAMA_SERVER,
    "backend_sampling": (False,),
    "n_cmpl": (1,),
    "n_predict": NEVER,
    "n_probs": (0,),
    "response_fields": ([],),
    "return_tokens": (False,),
    "timings_per_token": (False,),
}

CHAT: Unsupported = {
    **_SHARED,
    "audio": NEVER,
    "modalities": (["text"],),
    "moderation": NEVER,
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "verbosity": ("medium",),
    "web_search_options": NEVER,
    # vLLM's
    "media_io_kwargs": NEVER,
    "mm_processor_kwargs": NEVER,
    # llama-server's
    "parse_tool_calls": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "thinking_forced_open": (False,),
}

COMPLETION: Unsupported = {
    **_SHARED,
    "thinking_token_budget": (-1,),
    # vLLM's
    "prompt_embeds": NEVER,
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
