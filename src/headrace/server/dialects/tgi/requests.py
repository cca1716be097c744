"""The request types of TGI's dialect, strict. null means the same as absent everywhere but in max_new_tokens."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType


class JsonGrammar(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json"):
    """JSON that satisfies a schema."""

    value: dict[str, Any] | str | bool
    """The schema, or its text"""


class RegexGrammar(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """Text that a regular expression matches as a whole."""

    value: str


class NamedSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """A schema with a name, as in OpenAI's API."""

    schema: dict[str, Any] | str | bool
    name: str | None = None
    """No effect"""


class JsonSchemaGrammar(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that satisfies a schema."""

    value: NamedSchema


Grammar: TypeAlias = JsonGrammar | RegexGrammar | JsonSchemaGrammar


class Parameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """`parameters` of a generation."""

    adapter_id: str | None = None
    """The name of an adapter that is loaded"""
    best_of: int | None = None
    """Draw so many, and answer with the likeliest (by the mean of its tokens' log-probabilities)"""
    decoder_input_details: bool | None = None
    """Show the prompt's tokens; with details"""
    details: bool | None = None
    """Show the tokens and why the text ended"""
    do_sample: bool | None = None
    """Draw; so does a temperature other than 1, top_k, top_p or typical_p"""
    frequency_penalty: float | None = None
    """As in OpenAI's API"""
    grammar: Grammar | None = None
    max_new_tokens: int | UnsetType | None = UNSET
    """Left out: 1024, or what the context leaves; null: what it leaves"""
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    """Begin the text with the prompt"""
    seed: int | None = None
    stop: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    """Show so many of the likeliest tokens of each position; with details or in a stream"""
    top_p: float | None = None
    truncate: int | None = None
    """Keep only so many of the prompt's last tokens"""
    typical_p: float | None = None
    watermark: bool | None = None
    """Only false"""


class GenerateFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /generate and /generate_stream."""

    inputs: str
    parameters: Parameters | None = None


class CompatibleFields(GenerateFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /."""

    stream: bool | None = None


class TokenizeFields(GenerateFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize; `parameters` have no effect."""

    add_special_tokens: bool | None = None
    """Default true"""
