"""The fields of vLLM's request models, with a value that asks for something; as of vLLM 0.32.

From ChatCompletionRequest and CompletionRequest (entrypoints/openai/*/protocol.py), and what versions before took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}

_BOTH: Mapping[str, Any] = {
    "model": "stories",
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1},
    "max_tokens": 3,
    "n": 2,
    "presence_penalty": 0.5,
    "response_format": {"type": "json_object"},
    "seed": 5,
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "temperature": 0.5,
    "top_p": 0.5,
    "thinking_token_budget": 5,
    "user": "me",
    "use_beam_search": True,
    "top_k": 5,
    "min_p": 0.5,
    "repetition_penalty": 1.5,
    "watermarking": True,
    "length_penalty": 0.5,
    "early_stopping": True,
    "stop_token_ids": [5],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "min_tokens": 2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 3,
    "truncation_side": "left",  # with truncate_prompt_tokens
    "prompt_logprobs": 2,
    "logprob_token_ids": [5],
    "allowed_token_ids": [5, 6],
    "bad_words": ["x"],
    "echo": True,
    "add_special_tokens": True,
    "structured_outputs": {"choice": ["yes", "no"]},
    "priority": 2,
    "request_id": "mine",
    "session_id": "ours",
    "return_tokens_as_token_ids": True,
    "return_token_ids": True,
    "routed_experts_prompt_start": 1,
    "return_token_offsets": True,
    "mm_payload": "none",
    "return_mm_kwargs": True,
    "cache_salt": "salt",
    "kv_transfer_params": {"a": 1},
    "ec_transfer_params": {"a": 1},
    "vllm_xargs": {"a": 1},
    "repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 3},
    "stream_interval": 4,
    "logits_processors": ["x"],
    "guided_json": {},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": 'start: "a"',
    "guided_decoding_backend": "x",
    "guided_whitespace_pattern": "x",
}

CHAT_FIELDS: Mapping[str, Any] = {
    **_BOTH,
    "messages": [{"role": "user", "content": "hello"}],
    "logprobs": True,
    "top_logprobs": 2,
    "max_completion_tokens": 3,
    "tools": [_TOOL],
    "tool_choice": "auto",
    "reasoning_effort": "low",
    "include_reasoning": False,
    "parallel_tool_calls": False,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "documents": [{"title": "a", "text": "b"}],
    "chat_template": "{{ messages[0].content }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "media_io_kwargs": {"video": {"num_frames": 4}},
    "mm_processor_kwargs": {"a": 1},
    "return_prompt_text": True,
}

COMPLETION_FIELDS: Mapping[str, Any] = {
    **_BOTH,
    "prompt": "hello",
    "logprobs": 2,
    "suffix": "x",
    "prompt_embeds": "AAAA",
}
