"""Bodies of POST /v1/messages and its count_tokens into what they mean. Every mistake names its field."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec.json import encode

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.anthropic.conversation import conversation, is_prefilled
from headrace.server.dialects.anthropic.headers import check_head
from headrace.server.dialects.anthropic.render import MessageRenderer, RenderOptions
from headrace.server.dialects.anthropic.requests import (
    ChooseAny,
    ChooseAuto,
    ChooseNone,
    ChooseTool,
    ConversationFields,
    CountFields,
    MessageFields,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
    Tool,
)
from headrace.server.dialects.anthropic.unsupported import COUNT, MESSAGES, WORDS
from headrace.server.dialects.base import Call, ChatPrompt, Incoming, Inquiry, JsonObject, Served
from headrace.server.dialects.decode import convert, decode
from headrace.server.generate import encode_chat
from headrace.structured_output import StructuredOutput

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_CHOICES: Mapping[type, str] = {ChooseAuto: "auto", ChooseAny: "required", ChooseNone: "none"}


def parse_messages(incoming: Incoming, served: Served) -> Call:
    """Parse POST /v1/messages.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    check_head(incoming)
    fields = decode(incoming.body, MessageFields, MESSAGES, WORDS)
    prompt = _prompt(fields)
    names = _param_names(fields)
    try:
        params = _sampling_params(fields, served.defaults)
    except RequestError as error:
        error.param = names.get(error.param or "", error.param)
        raise
    options = RenderOptions(
        max_tokens=fields.max_tokens,
        omits_thoughts=getattr(fields.thinking, "display", None) == "omitted",
        request_id=incoming.request_id,
    )
    return Call(
        model=fields.model,
        prompts=(prompt,),
        params=params,
        stream=bool(fields.stream),
        renderer=lambda serving: MessageRenderer(serving, options),
        param_names=names,
        max_context=served.max_context,
    )


def parse_count(incoming: Incoming, _: Served) -> Inquiry:
    """Parse POST /v1/messages/count_tokens: how long the prompt of such a message is.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    check_head(incoming)
    fields = decode(incoming.body, CountFields, COUNT, WORDS)
    prompt = _prompt(fields)

    async def ask(llm: AsyncLLM) -> int:
        token_ids, _ = await asyncio.to_thread(encode_chat, prompt, llm)
        return len(token_ids)

    return Inquiry(
        model=fields.model,
        ask=ask,
        ask_adapter=lambda llm, _: ask(llm),
        render=lambda count, _: encode({"input_tokens": count}),
        param_names=_param_names(fields),
    )


def _prompt(fields: ConversationFields) -> ChatPrompt:
    goes_on = bool(fields.messages) and is_prefilled(fields)
    if goes_on and _schema(fields) is not None:
        path = f"messages[{len(fields.messages) - 1}]"
        message = f"{path}: an answer that goes on from this message cannot have the form of output_config.format"
        raise RequestError(f"{message}; end with a message of role user", param=path)
    choice = fields.tool_choice
    return ChatPrompt(
        messages=conversation(fields),
        tools=[_tool(tool, index) for index, tool in enumerate(fields.tools or ())],
        tool_choice=_tool_choice(fields),
        parallel_tool_calls=not getattr(choice, "disable_parallel_tool_use", None),
        reasoning_effort=_effort(fields),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )


def _tool(given: JsonObject, index: int) -> JsonObject:
    path = f"tools[{index}]"
    if given.get("type") not in (None, "custom"):
        raise UnsupportedParameter(
            f"{path} is of type {str(given['type'])[:80]!r}, which is not supported; expected custom tools, with an"
            " input_schema",
            param=f"{path}.type",
        )
    tool = convert(given, Tool, path, WORDS)
    for name in ("defer_loading", "input_examples"):
        if getattr(tool, name):
            raise UnsupportedParameter(f"{path}.{name} is not supported here; leave it out", param=f"{path}.{name}")
    function: JsonObject = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(fields: ConversationFields) -> str | JsonObject | None:
    choice = fields.tool_choice
    if choice is None:
        return None
    if isinstance(choice, ChooseTool):
        return {"type": "function", "function": {"name": choice.name}}
    return _CHOICES[type(choice)]


def _effort(fields: ConversationFields) -> str | None:
    """Whether and how long to think, in the words of text.thinking.EFFORTS; a budget is a sampling parameter."""
    effort = None if fields.output_config is None else fields.output_config.effort
    match fields.thinking:
        case ThinkingDisabled() if effort is not None:
            raise RequestError(
                "output_config.effort says how long to think, and thinking is disabled; leave one of them out",
                param="output_config.effort",
            )
        case ThinkingDisabled():
            return "none"
        case ThinkingEnabled() | ThinkingAdaptive():
            return effort or "auto"
    return effort


def _schema(fields: ConversationFields) -> JsonObject | None:
    asked = None if fields.output_config is None else fields.output_config.format
    if asked is not None and fields.output_format is not None:
        raise RequestError(
            "output_format is the older name of output_config.format, and both are given; send one",
            param="output_format",
        )
    asked = asked or fields.output_format
    return None if asked is None else asked.schema_


def _sampling_params(fields: MessageFields, defaults: SamplingParams) -> SamplingParams:
    if fields.max_tokens < 0:
        raise RequestError(f"max_tokens is {fields.max_tokens}, expected 0 or more", param="max_tokens")
    if fields.temperature is not None and not 0 <= fields.temperature <= 1:
        raise RequestError(f"temperature is {fields.temperature}, expected from 0 to 1", param="temperature")
    named: dict[str, Any] = {
        name: value for name in ("temperature", "top_k", "top_p") if (value := getattr(fields, name)) is not None
    }
    if isinstance(fields.thinking, ThinkingEnabled):
        named["thinking_token_budget"] = _budget(fields.thinking.budget_tokens, fields.max_tokens)
    schema = _schema(fields)
    return replace(
        defaults,
        **named,
        max_tokens=fields.max_tokens or 1,  # with 0, one is drawn and not shown
        stop=fields.stop_sequences,
        structured=None if schema is None or not fields.max_tokens else StructuredOutput(json=schema),
    )


def _budget(budget: int, max_tokens: int) -> int:
    if not 0 < budget < max_tokens:
        raise RequestError(
            f"thinking.budget_tokens is {budget}, expected 1 or more and less than max_tokens ({max_tokens}): thoughts"
            " count among them",
            param="thinking.budget_tokens",
        )
    return budget


def _param_names(fields: ConversationFields) -> Mapping[str, str]:
    """What the engine's parameters are called here."""
    effort = None if fields.output_config is None else fields.output_config.effort
    names = {
        "prompt": "messages",
        "stop": "stop_sequences",
        "structured": "output_config.format" if fields.output_format is None else "output_format",
        "thinking_token_budget": "thinking.budget_tokens",
        "reasoning_effort": "thinking" if effort is None else "output_config.effort",
        "continue_final_message": f"messages[{len(fields.messages) - 1}]",
    }
    for index in range(len(fields.tools or ())):
        names[f"tools[{index}].function.name"] = f"tools[{index}].name"
        names[f"tools[{index}].function.parameters"] = f"tools[{index}].input_schema"
    return names
