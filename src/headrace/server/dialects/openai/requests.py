"""The request types of OpenAI's dialect, strict. null means the same as absent everywhere.

Fields marked "no effect" are accepted because they change nothing that a client can see in the answer. The fields of
the spec that are not here are in unsupported.py; any other name is refused.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """`stream_options`: only with stream=true."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: every chunk carries the usage so far."""
    include_obfuscation: bool | None = None
    """Pad every event to a multiple of so many bytes that its size says nothing of its text; off unless asked for."""


class TextFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """`response_format` that asks for nothing."""


class JsonObjectFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(Struct, kw_only=True, forbid_unknown_fields=True):
    """A schema with a name. It is always enforced, whatever `strict` says."""

    name: str
    schema_: dict[str, Any] | bool | None = field(default=None, name="schema")
    strict: bool | None = None
    description: str | None = None


class JsonSchemaFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that satisfies a schema."""

    json_schema: JsonSchema


class StructuralTagFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="structural_tag"):
    """vLLM's: text with tags whose contents satisfy schemas; either of its two forms."""

    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None
    format: dict[str, Any] | None = None


ResponseFormat: TypeAlias = TextFormat | JsonObjectFormat | JsonSchemaFormat | StructuralTagFormat


class StructuredOutputs(Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`: one of the first six, and options for JSON."""

    json: dict[str, Any] | str | bool | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: str | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class TextPart(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of a message's content."""

    text: str


Content: TypeAlias = str | list[TextPart]


class Prediction(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the answer is likely to repeat, such as a file that is to be changed."""

    type: Literal["content"]
    content: Content


class SharedFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints take."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat | None = None

    user: str | None = None  # no effect, as the four below
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None  # prefixes are always shared
    session_id: str | None = None  # vLLM's, to route between replicas

    # vLLM's, with its meaning
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    add_special_tokens: bool | None = None
    echo: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | bool | None = None  # structured_outputs, by its names before vLLM 0.12
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    spaces_between_special_tokens: bool | None = None  # no effect: special tokens are written as they are
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream_interval: int | None = None
    request_id: str | None = None
    priority: int | None = None
    cache_salt: str | None = None

    # llama.cpp's
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    repeat_penalty: float | None = None
    """The same as repetition_penalty"""
    repeat_last_n: int | None = None
    """How many of the last tokens the penalties see; -1 (all) is the default"""
    typ_p: float | None = None
    """The same as typical_p"""
    grammar: str | None = None
    """GBNF, EBNF or Lark: the same as structured_outputs.grammar"""
    json_schema: dict[str, Any] | bool | None = None
    """The same as structured_outputs.json"""
    cache_prompt: bool | None = None
    """false: computes all of the prompt anew"""
    id_slot: int | None = None  # no effect, as the two below: prefixes are shared by all requests
    n_keep: int | None = None  # nothing is shifted out of the context
    n_discard: int | None = None

    no_repeat_ngram_size: int | None = None  # transformers'


class SystemMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """Instructions."""

    content: Content
    name: str | None = None


class DeveloperMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="developer"):
    """Instructions, by their newer name; templates see the role "system"."""

    content: Content
    name: str | None = None


class UserMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """What the user says."""

    content: Content
    name: str | None = None


class CalledFunction(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a tool call of the conversation called."""

    name: str
    arguments: str


class CalledTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool call of the conversation, as an answer gave it."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"
    index: int | None = None
    """Stands in streamed pieces, which clients put together"""


class AssistantMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    """What the model said. A client may send back an answer as it got it: the empty fields are allowed."""

    content: Content | None = None
    tool_calls: list[CalledTool] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """The same by its other name"""
    name: str | None = None
    refusal: None = None
    annotations: list[None] | None = None
    audio: None = None
    function_call: CalledFunction | None = None
    """OpenAI's older form of one call"""


class FunctionMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="function"):
    """What a function gave, in OpenAI's older form."""

    content: Content | None
    name: str


class ToolMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="tool"):
    """What a tool call gave."""

    content: Content
    tool_call_id: str
    name: str | None = None


Message: TypeAlias = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class FunctionDefinition(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema; none is a function without parameters"""
    strict: bool | None = None
    """false: arguments may be any JSON object; else they keep to the schema"""


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool. Other kinds than functions are refused by name."""

    type: str = "function"
    function: FunctionDefinition | None = None
    custom: Any = None


class ChatFields(SharedFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = None  # tools and tool_choice, in OpenAI's older form of one call
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    prediction: Prediction | None = None

    # vLLM's
    include_reasoning: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    return_prompt_text: bool | None = None
    thinking_token_budget: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionFields(SharedFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions."""

    prompt: str | list[str | int | list[int]]
    suffix: str | None = None
    """What comes behind the completion; for models with tokens to fill in the middle with"""
    logprobs: int | None = None
    best_of: int | None = None
