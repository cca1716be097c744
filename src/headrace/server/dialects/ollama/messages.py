"""Messages of Ollama's chats → what chat templates read."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import JsonObject
from headrace.server.dialects.ollama.requests import CalledTool, Message, Tool

_ROLES = ("system", "user", "assistant", "tool")


def template_messages(messages: Sequence[Message]) -> list[JsonObject]:
    """The messages; calls without ids get some, and answers to calls without ids those of the calls that they are to.

    Raises:
        RequestError: a message makes no sense; `param` is its JSON path.
    """
    read: list[JsonObject] = []
    open_calls: list[JsonObject] = []  # of the last assistant's message, those without an answer
    for index, message in enumerate(messages):
        role, path = message.role.lower(), f"messages[{index}]"
        if role not in _ROLES:
            raise RequestError(f"{path}.role is {message.role!r}, expected {', '.join(_ROLES)}", param=f"{path}.role")
        if message.images:
            raise UnsupportedParameter(
                f"{path}.images is not supported here; leave them out: this model reads text only",
                param=f"{path}.images",
            )
        found: JsonObject = {"role": role, "content": message.content or ""}
        if message.thinking:
            found["reasoning_content"] = message.thinking
        if message.tool_calls:
            open_calls = [_call(call, index, number) for number, call in enumerate(message.tool_calls)]
            found["tool_calls"] = list(open_calls)
        if role == "tool":
            found |= _answered(message, open_calls)
        read.append(found)
    return read


def template_tools(tools: Sequence[Tool]) -> list[JsonObject]:
    """The tools, without what they leave out."""
    return [
        {
            "type": "function",
            "function": {
                name: value
                for name in ("name", "description", "parameters", "strict")
                if (value := getattr(tool.function, name)) is not None
            },
        }
        for tool in tools
    ]


def _call(call: CalledTool, index: int, number: int) -> JsonObject:
    function = {"name": call.function.name, "arguments": call.function.arguments or {}}
    # Nine letters and digits are what all templates take.
    return {"id": call.id or f"call{index % 1000:03}{number % 100:02}", "type": "function", "function": function}


def _answered(message: Message, open_calls: list[JsonObject]) -> JsonObject:
    """Id and name of the call that a tool's message answers: the one that it names, else the first that is open."""
    for call in open_calls:
        name = call["function"]["name"]
        if message.tool_call_id in (None, call["id"]) and message.tool_name in (None, name):
            open_calls.remove(call)
            return {"tool_call_id": call["id"], "name": name}
    ids = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return {key: value for key, value in ids.items() if value is not None}
