"""The types of a /v1/responses body, strict. null means the same as absent everywhere.

Fields marked "no effect" are accepted because they change nothing that a client can see but their own echo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from headrace.server.dialects.decode import NEVER, Unsupported

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A piece of a message that was sent."""

    text: str
    prompt_cache_breakpoint: None = None


class OutputText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """A piece of an answer, as it was given."""

    text: str
    annotations: list[Any] | None = None  # no effect: they are about the text, which is there
    logprobs: list[Any] | None = None  # no effect, likewise


class Refusal(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """An answer of another model that said no."""

    refusal: str


Part: TypeAlias = InputText | OutputText | Refusal


class MessageItem(Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of either side."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    phase: None = None


class FunctionCallItem(Struct, kw_only=True, forbid_unknown_fields=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    caller: None = None
    namespace: None = None


class FunctionCallOutputItem(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: Status | None = None
    name: str | None = None  # no effect: the call has it
    caller: None = None
    namespace: None = None


class SummaryText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="summary_text"):
    """A piece of a thought's summary."""

    text: str


class ReasoningText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"):
    """A piece of a thought."""

    text: str


class ReasoningItem(Struct, kw_only=True, forbid_unknown_fields=True):
    """A thought; templates decide whether the model sees it again."""

    type: Literal["reasoning"]
    summary: list[SummaryText] | None = None
    id: str | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    """Ours: the thought, encoded; read if there is no content"""
    status: Status | None = None


Item: TypeAlias = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem

ITEM_KINDS: Mapping[str, type[Item]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "reasoning": ReasoningItem,
}


class Reasoning(Struct, kw_only=True, forbid_unknown_fields=True):
    """How the model thinks. Thoughts are given as they are, and never summarised."""

    effort: str | None = None
    summary: Literal["auto"] | None = None  # no effect, as the three below
    generate_summary: Literal["auto"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class PlainFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text of any kind."""


class ObjectFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that satisfies a schema; always enforced, whatever `strict` says."""

    name: str
    schema_: dict[str, Any] | bool = field(name="schema")
    description: str | None = None
    strict: bool | None = None


class Text(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the answer's text is like."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["medium"] | None = None


class Function(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """false: arguments may be any JSON object; else they keep to the schema"""
    defer_loading: Literal[False] | None = None
    allowed_callers: None = None
    output_schema: None = None


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """Only with stream=true."""

    include_obfuscation: bool | None = None


Include: TypeAlias = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]


class ResponseFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/responses."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None  # no effect: it is about tools of the server, which has none
    text: Text | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[Include] | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["disabled"] | None = None

    user: str | None = None  # no effect, as the two below
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # vLLM's
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    logit_bias: dict[str, float] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


UNSUPPORTED: Unsupported = {
    "context_management": NEVER,
    "conversation": NEVER,
    "moderation": NEVER,
    "prompt": NEVER,
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
    "service_tier": ("auto", "default"),
    # vLLM's
    "enable_response_messages": (False,),
    "kv_transfer_params": NEVER,
    "mm_processor_kwargs": NEVER,
    "previous_input_messages": NEVER,
    "request_id": NEVER,
    "structured_outputs": NEVER,
    "vllm_xargs": ({},),
}
"""Known fields that are refused, but for the values that ask for nothing"""

INSTEAD: Mapping[str, str] = {
    "conversation": "go on from a response with previous_response_id",
    "prompt": "send the text as instructions and input",
    "structured_outputs": "send text.format",
}

EXPECTED: Mapping[str, str] = {
    "truncation": "disabled: nothing is truncated silently",
    "verbosity": "medium: there is no control of it",
    "summary": "auto: thoughts are given as they are, not summarised",
    "generate_summary": "auto: thoughts are given as they are, not summarised",
    "context": "auto: the chat template decides what the model sees again",
    "mode": "standard",
    "text.format.type": "text, json_object or json_schema",
    "role": "user, assistant, system or developer",
    "type": "input_text, output_text, refusal, reasoning_text or summary_text: other content is not supported",
}
