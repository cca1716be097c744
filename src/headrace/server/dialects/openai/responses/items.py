"""Items of a conversation: checked, as they are stored, and as the messages that chat templates read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import JsonObject
from headrace.server.dialects.decode import Words, convert
from headrace.server.dialects.openai.responses.fields import (
    EXPECTED,
    ITEM_KINDS,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputText,
    Item,
    MessageItem,
    OutputText,
    Part,
    ReasoningItem,
    Refusal,
)
from headrace.server.stored.folder import new_id

WORDS = Words(expected=EXPECTED)
_ENCODED = "headrace1."
_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}


def read_items(given: str | Sequence[dict[str, Any]], at: str = "input") -> list[Item]:
    """The items of a request.

    Raises:
        RequestError: one of them is of another kind, or malformed; `param` is its path.
    """
    if isinstance(given, str):
        return [MessageItem(role="user", content=given)]
    if not given:
        raise RequestError(f"{at} is empty, expected text or at least one item", param=at)
    return [_read_item(item, f"{at}[{index}]") for index, item in enumerate(given)]


def stored_items(items: Sequence[Item]) -> list[JsonObject]:
    """Items as they are kept and shown: each with an id, a status, and its content in parts."""
    return [_stored(item) for item in items]


def as_messages(items: Sequence[Item], paths: Sequence[str]) -> list[JsonObject]:
    """Items as a chat's messages: what the model said in one go (thought, text, calls) is one message.

    Raises:
        RequestError: a function_call_output without its call, or a thought that cannot be read.
    """
    messages: list[JsonObject] = []
    calls: set[str] = set()
    for item, path in zip(items, paths, strict=True):
        if isinstance(item, FunctionCallOutputItem):
            if item.call_id not in calls:
                raise RequestError(
                    f"{path}.call_id is {item.call_id[:100]!r}, and no function_call before it has this call_id",
                    param=f"{path}.call_id",
                )
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        elif isinstance(item, MessageItem) and item.role != "assistant":
            role = "system" if item.role == "developer" else item.role
            messages.append({"role": role, "content": _content(item.content)})
        else:
            if isinstance(item, FunctionCallItem):
                calls.add(item.call_id)
            _add_said(messages, item, path)
    return messages


def encode_thought(text: str) -> str:
    """A thought as `encrypted_content`. It is encoded, not encrypted: it stands in the open beside it."""
    return _ENCODED + base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()


def _read_item(given: dict[str, Any], path: str) -> Item:
    kind = given.get("type") or ("message" if "role" in given else None)
    known = ITEM_KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise UnsupportedParameter(
            f"{path}.type is {str(kind)[:100]!r}, expected {', '.join(ITEM_KINDS)}: other items are not supported",
            param=f"{path}.type",
        )
    item = convert({**given, "type": kind}, known, path, WORDS)
    for name in ("content", "output"):
        if getattr(item, name, None) == [] and not isinstance(item, ReasoningItem):
            raise RequestError(f"{path}.{name} is an empty list, expected text", param=f"{path}.{name}")
    return item


def _stored(item: Item) -> JsonObject:
    fields: JsonObject = {
        name: value for name, value in msgspec.to_builtins(item).items() if value is not None and name != "phase"
    }
    fields["id"] = item.id or new_id(_PREFIXES[item.type])
    if not isinstance(item, ReasoningItem):
        fields["status"] = item.status or "completed"
    if isinstance(item, MessageItem):
        kind = "output_text" if item.role == "assistant" else "input_text"
        parts: list[Part] = []
        if isinstance(item.content, str):
            parts = [OutputText(text=item.content) if kind == "output_text" else InputText(text=item.content)]
        else:
            parts = item.content
        fields["content"] = [_stored_part(part) for part in parts]
    if isinstance(item, ReasoningItem):
        fields.setdefault("summary", [])
    return fields


def _stored_part(part: Part) -> JsonObject:
    fields: JsonObject = {name: value for name, value in msgspec.to_builtins(part).items() if value is not None}
    return fields | ({"annotations": fields.get("annotations", [])} if isinstance(part, OutputText) else {})


def _content(content: str | Sequence[Part]) -> str | list[JsonObject]:
    if isinstance(content, str):
        return content
    texts = [part.refusal if isinstance(part, Refusal) else part.text for part in content]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _add_said(messages: list[JsonObject], item: Item, path: str) -> None:
    """Add a thought, a text or a call to the message that the model is saying, or begin its next one."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if isinstance(item, FunctionCallItem):
        if last is None:
            messages.append(last := {"role": "assistant", "content": None})
        function = {"name": item.name, "arguments": item.arguments}
        last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
        if last["content"] == "" and "reasoning_content" in last:
            last["content"] = None
    elif isinstance(item, ReasoningItem):
        messages.append({"role": "assistant", "content": "", "reasoning_content": _thought(item, path)})
    else:
        assert isinstance(item, MessageItem)
        is_begun = last is not None and not last["content"] and "tool_calls" not in last
        if last is None or not is_begun:
            messages.append(last := {"role": "assistant", "content": ""})
        last["content"] = _content(item.content)


def _thought(item: ReasoningItem, path: str) -> str:
    if item.content:
        return "\n".join(part.text for part in item.content)
    if item.encrypted_content is not None:
        try:
            encoded = item.encrypted_content.removeprefix(_ENCODED)
            if encoded == item.encrypted_content:
                raise ValueError
            return base64.b64decode(encoded, altchars=b"-_", validate=True).decode()
        except (ValueError, binascii.Error):
            name = f"{path}.encrypted_content"
            message = f"{name} was not made by this server, which cannot read it; leave the item out"
            raise RequestError(message, param=name) from None
    return "\n".join(part.text for part in item.summary or ())
