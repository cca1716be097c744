"""vLLM's and llama-server's parameters of a whole call: what is not the sampler's and not the answer's shape."""

from __future__ import annotations

import secrets
from typing import TypedDict

from headrace.errors import RequestError
from headrace.server.dialects.base import Truncation
from headrace.server.dialects.openai.requests import SharedFields


class CallOptions(TypedDict):
    """Fields of a `Call`."""

    truncation: Truncation | None
    stream_interval: int
    priority: int
    cache_salt: str | None


def call_options(fields: SharedFields) -> CallOptions:
    """What vLLM's parameters ask of the call.

    Raises:
        RequestError: one of them is out of range, or makes no sense beside the others.
    """
    return CallOptions(
        truncation=_truncation(fields),
        stream_interval=_stream_interval(fields),
        priority=fields.priority or 0,
        cache_salt=_cache_salt(fields),
    )


def _truncation(fields: SharedFields) -> Truncation | None:
    length = fields.truncate_prompt_tokens
    if length is None:
        if fields.truncation_side is not None:
            raise RequestError("truncation_side needs truncate_prompt_tokens", param="truncation_side")
        return None
    if length != -1 and length < 1:
        raise RequestError(
            f"truncate_prompt_tokens is {length}, expected -1 (what fits) or 1 or more", param="truncate_prompt_tokens"
        )
    return Truncation(length, keeps_start=fields.truncation_side == "right")


def _cache_salt(fields: SharedFields) -> str | None:
    """Nobody else has the salt of a prompt that is not to be found."""
    return secrets.token_hex(16) if fields.cache_prompt is False else fields.cache_salt


def _stream_interval(fields: SharedFields) -> int:
    interval = 1 if fields.stream_interval is None else fields.stream_interval
    if interval < 1:
        raise RequestError(f"stream_interval is {interval}, expected 1 or more", param="stream_interval")
    if interval > 1 and not fields.stream:
        raise RequestError("stream_interval needs stream=true", param="stream_interval")
    return interval
