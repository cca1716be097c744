"""Messages of content blocks → messages as chat templates read them: roles, content, reasoning, calls, results."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.anthropic.requests import (
    AssistantMessage,
    Block,
    ConversationFields,
    Message,
    RedactedThinkingBlock,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from headrace.server.dialects.anthropic.thoughts import reveal
from headrace.server.dialects.base import JsonObject

_Placed = tuple[str, Block]
"""A block and its JSON path"""


def conversation(fields: ConversationFields) -> list[JsonObject]:
    """The system prompt and the messages. Messages of one role in a row are one turn, as in Anthropic's API.

    Raises:
        RequestError: a block that does not belong where it stands; `param` is its path.
    """
    if not fields.messages:
        raise RequestError("messages is empty, expected at least one message", param="messages")
    read: list[JsonObject] = []
    if fields.system:
        read.append({"role": "system", "content": _content(_blocks(fields.system, "system"))})
    tool_names: dict[str, str] = {}
    for role, blocks in _turns(fields.messages):
        if role == "assistant":
            read.append(_assistant(blocks))
            tool_names |= {block.id: block.name for _, block in blocks if isinstance(block, ToolUseBlock)}
        elif role == "user":
            read.extend(_user(blocks, tool_names))
        else:
            read.append({"role": role, "content": _content(blocks)})
    return read


def is_prefilled(fields: ConversationFields) -> bool:
    """Whether the answer goes on from the last message.

    Raises:
        RequestError: it ends with a call, which only a result can follow.
    """
    last = fields.messages[-1]
    if not isinstance(last, AssistantMessage):
        return False
    path = f"messages[{len(fields.messages) - 1}].content"
    if any(isinstance(block, ToolUseBlock) for _, block in _blocks(last.content, path)):
        raise RequestError(f"{path} has a tool_use at the end; send its tool_result behind it", param=path)
    return True


def _turns(messages: Sequence[Message]) -> list[tuple[str, list[_Placed]]]:
    turns: list[tuple[str, list[_Placed]]] = []
    for index, message in enumerate(messages):
        role = str(message.__struct_config__.tag)
        blocks = _blocks(message.content, f"messages[{index}].content")
        if turns and turns[-1][0] == role and not isinstance(message, SystemMessage):
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return turns


def _blocks(content: str | Sequence[Block], path: str) -> list[_Placed]:
    if isinstance(content, str):
        return [(path, TextBlock(text=content))]
    if not content:
        raise RequestError(f"{path} is an empty list, expected content", param=path)
    placed = [(f"{path}[{index}]", block) for index, block in enumerate(content)]
    for at, block in placed:
        if isinstance(block, TextBlock) and block.citations:
            raise UnsupportedParameter(
                f"{at}.citations are not supported; leave them out of the conversation", param=f"{at}.citations"
            )
    return placed


def _content(blocks: Sequence[_Placed]) -> str | list[JsonObject]:
    """One text as text, several as parts."""
    texts = [block.text for _, block in blocks if isinstance(block, TextBlock)]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _assistant(blocks: Sequence[_Placed]) -> JsonObject:
    thoughts: list[str] = []
    calls: list[JsonObject] = []
    has_text = False
    for path, block in blocks:
        match block:
            case ThinkingBlock():
                thought = block.thinking or reveal(block.signature, path)
                thoughts += [thought] if thought else []
            case ToolUseBlock():
                calls.append(
                    {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
                )
            case TextBlock():
                has_text = True
            case ToolResultBlock():
                raise _misplaced(path, block, "user")
            case RedactedThinkingBlock():
                pass
    read: JsonObject = {"role": "assistant", "content": _content(blocks) if has_text else None if calls else ""}
    if thoughts:
        read["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        read["tool_calls"] = calls
    return read


def _user(blocks: Sequence[_Placed], tool_names: dict[str, str]) -> list[JsonObject]:
    """Results are messages of their own; texts between them stay together."""
    read: list[JsonObject] = []
    said: list[_Placed] = []
    for path, block in blocks:
        match block:
            case TextBlock():
                said.append((path, block))
            case ToolResultBlock():
                if said:
                    read.append({"role": "user", "content": _content(said)})
                    said = []
                read.append(_result(path, block, tool_names))
            case _:
                raise _misplaced(path, block, "assistant")
    return [*read, {"role": "user", "content": _content(said)}] if said else read


def _result(path: str, block: ToolResultBlock, tool_names: dict[str, str]) -> JsonObject:
    name = tool_names.get(block.tool_use_id)
    if name is None:
        at = f"{path}.tool_use_id"
        raise RequestError(f"{at} is {block.tool_use_id[:80]!r}, and no tool_use before it has that id", param=at)
    content = _content(_blocks(block.content, f"{path}.content")) if block.content else ""
    if block.is_error:
        texts = [content] if isinstance(content, str) else [part["text"] for part in content]
        content = "Error: " + "\n".join(texts)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": content}


def _misplaced(path: str, block: Block, role: str) -> RequestError:
    kind = block.__struct_config__.tag
    return RequestError(f"{path} is a {kind} block, which belongs into a message of role {role}", param=path)
