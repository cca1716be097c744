"""OpenAI's `functions` and `function_call`, which tools replaced: the same with at most one call, in other words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.errors import RequestError
from headrace.server.dialects.base import JsonObject
from headrace.server.dialects.openai.requests import (
    AssistantMessage,
    CalledFunction,
    CalledTool,
    ChatFields,
    FunctionMessage,
    Message,
    Tool,
)

_FIELDS_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def uses_functions(fields: ChatFields) -> bool:
    """Whether a request is in the older words.

    Raises:
        RequestError: it is in both.
    """
    if not fields.functions and fields.function_call is None:
        return False
    own = "functions" if fields.functions else "function_call"
    for name in _FIELDS_OF_TOOLS:
        if getattr(fields, name) is not None:
            raise RequestError(f"{own} is the older form of tools, and {name} is given too; send one form", param=own)
    return True


def as_tools(fields: ChatFields) -> list[Tool]:
    """The functions as tools."""
    return [Tool(function=function) for function in fields.functions or ()]


def as_tool_choice(fields: ChatFields) -> str | JsonObject | None:
    """`function_call` as a tool_choice.

    Raises:
        RequestError: it is neither none, auto nor a name.
    """
    asked = fields.function_call
    if isinstance(asked, Mapping) and asked.keys() == {"name"}:
        names = [function.name for function in fields.functions or ()]
        if asked["name"] not in names:
            raise RequestError(
                f"function_call names {asked['name']!r}, which is not among the functions", param="function_call"
            )
        return {"type": "function", "function": asked}
    if asked not in (None, "none", "auto"):
        raise RequestError(f'function_call is {asked!r}, expected none, auto or {{"name": …}}', param="function_call")
    return asked


def param_names(fields: ChatFields) -> Mapping[str, str]:
    """What errors about tools are about."""
    names = {"tools": "functions", "tool_choice": "function_call"}
    for index in range(len(fields.functions or ())):
        for rest in ("name", "parameters"):
            names[f"tools[{index}].function.{rest}"] = f"functions[{index}].{rest}"
    return names


def call_id(index: int) -> str:
    """The id that templates get for the call in message `index`: nine letters and digits, which all of them take."""
    return f"call{index:05d}"


def called_tool(called: CalledFunction, index: int) -> CalledTool:
    """An assistant's `function_call` in message `index`, as a tool call."""
    return CalledTool(id=call_id(index), function=called)


def answered_calls(messages: Sequence[Message]) -> list[str | None]:
    """For each message of role function the id of the call that it answers, the last one before it; else None.

    Raises:
        RequestError: there is none.
    """
    answered: list[str | None] = []
    latest: str | None = None
    for index, message in enumerate(messages):
        answers = isinstance(message, FunctionMessage)
        if answers and latest is None:
            path = f"messages[{index}]"
            raise RequestError(f"{path} has role function, and no message before it has a function_call", param=path)
        answered.append(latest if answers else None)
        if isinstance(message, AssistantMessage) and message.function_call is not None:
            latest = call_id(index)
    return answered
