"""Chat messages as clients send them, checked and brought into the shape that chat templates read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from headrace.errors import RequestError
from headrace.text.tools.format import named_call_id

Message: TypeAlias = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")
_NAMED_ID = re.compile(r".+:[0-9]+", re.DOTALL)
_SAY_SOMETHING = ("user", "system", "developer")
"""Roles whose messages have content; the others' may have calls, or a thought"""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Plain copies of the messages, without the fields that are null.

    Reasoning that came under another name is put where templates look for it (`reasoning_content`, `thinking`), as
    transformers does. Content parts are checked: only text can be rendered.

    Raises:
        RequestError: no messages, a message without a role or its content, or content that is neither text nor parts of
            text.
    """
    if not messages or not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise RequestError("messages is empty or no list, expected at least one message", param="messages")
    return [_read_message(message, index) for index, message in enumerate(messages)]


def flatten(content: Any) -> Any:
    """Parts of text as one string, one part a line; anything else as it is."""
    if not isinstance(content, list):
        return content
    return "\n".join(part if isinstance(part, str) else part["text"] for part in content)


def to_parts(content: Any) -> Any:
    """A string as one part of text; anything else as it is."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def parse_arguments(messages: Sequence[Message]) -> list[Message]:
    """Tool calls with their arguments as objects.

    Clients of OpenAI's API send them as JSON text; most templates write them out as JSON themselves.

    Raises:
        RequestError: arguments that are no JSON object.
    """
    return [_map_arguments(message, index, _parse) for index, message in enumerate(messages)]


def write_arguments(messages: Sequence[Message]) -> list[Message]:
    """Tool calls with their arguments as JSON text, for templates that put them out as they are."""
    return [_map_arguments(message, index, _write) for index, message in enumerate(messages)]


def name_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of tool calls with the tool's name in them, for templates that write ids in the place of names.

    The calls of a conversation are numbered; ids that have a name are left as they are.
    """
    renamed: dict[str, str] = {}
    number = 0
    changed: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                id_ = str(call.get("id", ""))
                if _NAMED_ID.fullmatch(id_) is None:
                    renamed[id_] = named_call_id(call.get("function", call).get("name"), number)
                calls.append({**call, "id": renamed.get(id_, id_)})
                number += 1
            message = {**message, "tool_calls": calls}  # noqa: PLW2901
        elif (renamed_id := renamed.get(str(message.get("tool_call_id", "")))) is not None:
            message = {**message, "tool_call_id": renamed_id}  # noqa: PLW2901
        changed.append(message)
    return changed


def plain(value: Any, what: str, param: str) -> Any:
    """A deep copy made of nothing but JSON's types, so that a template gets hold of nothing else.

    Raises:
        RequestError: any other type; `what` names the value.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise RequestError(f"{what} has a lone surrogate, expected valid Unicode", param=param)
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{what}.{key}", param) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{what}[{index}]", param) for index, item in enumerate(value)]
    raise RequestError(f"{what} is of type {type(value).__name__}, expected what JSON can hold", param=param)


def _read_message(message: Mapping[str, Any], index: int) -> Message:
    what = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise RequestError(
            f"{what} is of type {type(message).__name__}, expected an object with a role", param="messages"
        )
    read = {key: value for key, value in plain(message, what, "messages").items() if value is not None}
    if not isinstance(read.get("role"), str):
        raise RequestError(f"{what} has no role, expected one such as user", param="messages")
    if read["role"] in _SAY_SOMETHING and "content" not in read:
        raise RequestError(f"{what} has no content, expected text", param="messages")
    _check_content(read.get("content"), what)
    reasoning = next((read[field] for field in _REASONING_FIELDS if field in read), None)
    if reasoning is not None:
        read = {"thinking": reasoning, **read, "reasoning_content": reasoning}
    return read


def _check_content(content: Any, what: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise RequestError(f"{what}.content is of type {type(content).__name__}, expected text", param="messages")
    for number, part in enumerate(content):
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            named = repr(kind) if isinstance(kind, str) else type(part).__name__
            raise RequestError(
                f"{what}.content[{number}] is of type {named}, which is not supported; expected text", param="messages"
            )
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            raise RequestError(f"{what}.content[{number}] has no text", param="messages")


def _map_arguments(message: Message, index: int, change: Any) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    what = f"messages[{index}].tool_calls"
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RequestError(f"{what} is no list of objects", param="messages")
    changed = []
    for number, call in enumerate(calls):
        holder = call.get("function", call)
        if not isinstance(holder, dict):
            raise RequestError(f"{what}[{number}].function is no object", param="messages")
        holder = {**holder, "arguments": change(holder.get("arguments"), f"{what}[{number}]")}
        changed.append({**call, "function": holder} if "function" in call else holder)
    return {**message, "tool_calls": changed}


def _parse(arguments: Any, what: str) -> Any:
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
            raise RequestError(f"{what} has arguments that are no JSON ({error})", param="messages") from None
    if not isinstance(arguments, dict):
        raise RequestError(f"{what} has arguments of another kind, expected a JSON object", param="messages")
    return arguments


def _write(arguments: Any, what: str) -> str:
    return json.dumps(_parse(arguments, what), ensure_ascii=False)
