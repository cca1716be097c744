"""The request types of Anthropic's dialect, strict. null means the same as absent everywhere.

Fields marked "no effect" are accepted because they change nothing that a client can see in the answer. The fields of
the API that are not here are in unsupported.py; any other name is refused.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field


class CacheControl(Struct, kw_only=True, forbid_unknown_fields=True):
    """A hint with nothing to do (no effect): prefixes are always shared, whether they are marked or not."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class TextBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text. `citations` are null or empty in answers of this server, and refused otherwise."""

    text: str
    cache_control: CacheControl | None = None  # no effect
    citations: list[Any] | None = None


class ThinkingBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """A thought of the conversation. Where the text is left out, this server's own `signature` has it."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(
    Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"
):
    """A thought that only its maker can read (no effect): the model sees none in its place."""

    data: str


class Caller(Struct, kw_only=True, forbid_unknown_fields=True):
    """Who called a tool: the model itself; code that runs on the server is not supported."""

    type: Literal["direct"]


class ToolUseBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call of the conversation, as an answer gave it."""

    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None  # no effect
    caller: Caller | None = None
    toolset_name: None = None


class ToolResultBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What a call gave. With `is_error` the model reads "Error: " before it."""

    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None  # no effect
    toolset_name: None = None


Block: TypeAlias = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


class UserMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """What the user says, and what tools gave."""

    content: str | list[Block]


class AssistantMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    """What the model said. As the last message it is begun, and the answer goes on from it."""

    content: str | list[Block]


class SystemMessage(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """Instructions in the midst of a conversation; the model's chat template may refuse them there."""

    content: str | list[TextBlock]


Message: TypeAlias = UserMessage | AssistantMessage | SystemMessage


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool of the client's. Anthropic's own (of another `type`) are refused by name."""

    name: str
    input_schema: dict[str, Any]
    type: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Arguments keep to the schema unless this is false"""
    cache_control: CacheControl | None = None  # no effect
    eager_input_streaming: bool | None = None  # no effect: arguments are always streamed as they come
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: bool | None = None
    input_examples: list[dict[str, Any]] | None = None


class ChooseAuto(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The model may call tools."""

    disable_parallel_tool_use: bool | None = None


class ChooseAny(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="any"):
    """It has to call one."""

    disable_parallel_tool_use: bool | None = None


class ChooseTool(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool"):
    """It has to call this one."""

    name: str
    disable_parallel_tool_use: bool | None = None


class ChooseNone(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """It may call none."""


ToolChoice: TypeAlias = ChooseAuto | ChooseAny | ChooseTool | ChooseNone


class ThinkingEnabled(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="enabled"):
    """The model thinks, at most so many tokens. Budgets below Anthropic's least, 1024, are taken too."""

    budget_tokens: int
    display: Literal["summarized", "omitted"] | None = None
    """Thoughts are never shortened: summarized shows them whole. Omitted leaves them to the signature."""


class ThinkingAdaptive(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="adaptive"):
    """The model thinks if it can, as long as it likes."""

    display: Literal["summarized", "omitted"] | None = None


class ThinkingDisabled(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="disabled"):
    """The model does not think."""


Thinking: TypeAlias = ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled


class JsonSchemaFormat(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that satisfies a schema."""

    schema_: dict[str, Any] = field(name="schema")


class OutputConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """The form of the output, and how long the model thinks."""

    format: JsonSchemaFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    task_budget: None = None


class Metadata(Struct, kw_only=True, forbid_unknown_fields=True):
    """No effect."""

    user_id: str | None = None


class ConversationFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What both paths take."""

    model: str
    messages: list[Message]
    system: str | list[TextBlock] | None = None
    tools: list[dict[str, Any]] | None = None
    """See Tool"""
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonSchemaFormat | None = None
    """output_config.format by its older name"""
    cache_control: CacheControl | None = None  # no effect


class MessageFields(ConversationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages."""

    max_tokens: int
    """At most so many, and no more than the context has room for. 0 reads the prompt into the cache, and no more."""
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None  # no effect
    service_tier: Literal["auto", "standard_only"] | None = None  # no effect: there is one tier


class CountFields(ConversationFields, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/messages/count_tokens."""
