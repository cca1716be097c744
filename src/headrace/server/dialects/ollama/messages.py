"""Messages of Ollama's chats → what chat templates read."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import product

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
    open_calls = _OpenCalls(())  # of the last assistant's message
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
            calls = [_call(call, index, number) for number, call in enumerate(message.tool_calls)]
            open_calls, found["tool_calls"] = _OpenCalls(calls), calls
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


class _OpenCalls:
    """Calls without an answer. Found by what an answer may name: with very many, to look at each takes minutes."""

    def __init__(self, calls: Sequence[JsonObject]) -> None:
        self._answered: set[int] = set()  # by their places
        self._named: defaultdict[tuple[str | None, str | None], deque[int]] = defaultdict(deque)
        self._calls = calls
        for place, call in enumerate(calls):
            for named in product((call["id"], None), (call["function"]["name"], None)):
                self._named[named].append(place)

    def answer(self, call_id: str | None, name: str | None) -> JsonObject | None:
        """The first one with this id and name, which is then answered; None as id or name is any."""
        places = self._named.get((call_id, name), deque())
        while places:
            place = places.popleft()
            if place not in self._answered:
                self._answered.add(place)
                return self._calls[place]
        return None


def _answered(message: Message, open_calls: _OpenCalls) -> JsonObject:
    """Id and name of the call that a tool's message answers: the one that it names, else the first that is open."""
    if (call := open_calls.answer(message.tool_call_id, message.tool_name)) is not None:
        return {"tool_call_id": call["id"], "name": call["function"]["name"]}
    ids = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
    return {key: value for key, value in ids.items() if value is not None}
