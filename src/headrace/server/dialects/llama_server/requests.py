"""The request types of llama-server's dialect, strict. null means the same as absent everywhere.

Fields marked "no effect" are accepted because they change nothing that a client can see in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from headrace.server.dialects.llama_fields import SAMPLERS

Prompt: TypeAlias = str | list[str | int | list[str | int]]
"""Text, token ids, both in turn, or a list of such prompts (of which a text or a list is one)"""

LogitBias: TypeAlias = dict[str, float | bool] | list[tuple[int | str, float | bool]]
"""For token ids; false bans"""

DEFAULTS: Mapping[str, Any] = {
    "n_predict": -1,
    "seed": -1,
    "temperature": 0.8,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "typical_p": 1.0,
    "repeat_last_n": -1,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "stop": [],
    "ignore_eos": False,
    "stream": False,
    "logit_bias": [],
    "n_probs": 0,
    "min_keep": 0,
    "grammar": "",
    "n_keep": 0,
    "n_discard": 0,
    "samplers": list(SAMPLERS),
    "timings_per_token": False,
    "post_sampling_probs": False,
    "lora": [],
}
"""What a request leaves out; `repeat_last_n` is all of the sequence here, as DRY beside the penalties needs it"""


class CompletionFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /completion."""

    prompt: Prompt | None = None
    """Required but for /infill"""
    model: str | None = None
    stream: bool | None = None
    n_predict: int | None = None
    """-1: up to the end of the context. 0: only computes the prompt"""
    max_tokens: int | None = None
    """The same"""
    n_cmpl: int | None = None
    """So many completions of each prompt"""
    n: int | None = None
    """The same"""

    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_n_sigma: float | None = None
    typical_p: float | None = None
    typ_p: float | None = None
    """The same"""
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    """Not beside DRY"""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | None = None
    """-1 draws one"""
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    logit_bias: LogitBias | None = None
    grammar: str | None = None
    """GBNF"""
    json_schema: dict[str, Any] | bool | None = None

    n_probs: int | None = None
    """So many likeliest tokens of each position"""
    return_tokens: bool | None = None
    timings_per_token: bool | None = None
    """Every event of a stream has the timings so far"""
    response_fields: list[str] | None = None
    """Only these fields; "generation_settings/n_predict" is one of an object in it"""
    cache_prompt: bool | None = None
    """false: computes all of the prompt anew"""

    id_slot: int | None = None  # no effect, as the three below: prefixes are shared by all requests
    slot_id: int | None = None
    n_keep: int | None = None  # nothing is shifted out of the context
    n_discard: int | None = None


class Extra(Struct, kw_only=True, forbid_unknown_fields=True):
    """A file that goes before the one that is filled in."""

    text: str
    filename: str | None = None


class InfillFields(CompletionFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /infill; `prompt` is what the middle begins with."""

    input_prefix: str
    input_suffix: str
    input_extra: list[Extra] | None = None


class TokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize."""

    content: str
    add_special: bool | None = None
    """Default false"""
    with_pieces: bool | None = None


class DetokenizeFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /detokenize."""

    tokens: list[int]


class EmbeddingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /embedding: one of the first two."""

    content: Prompt | None = None
    input: Prompt | None = None
    model: str | None = None
