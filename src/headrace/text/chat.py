"""Chat templates: a conversation as the one text that the model was trained to go on from."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError

from headrace.errors import DamagedFile, HeadraceError, ModelError, ModelNotFound, RequestError, TemplateOutOfTime
from headrace.hub.files import ModelFiles
from headrace.text import folder_vocab, gguf_vocab
from headrace.text import messages as chat_messages
from headrace.text.messages import Message
from headrace.text.template_budget import MAX_SECONDS, OutOfTime
from headrace.text.template_environment import RaisedByTemplateError, TemplateEnvironment, render
from headrace.text.tools.format import IdForm
from headrace.text.tools.known import find_known

DEFAULT = "default"
TOOL_USE = "tool_use"

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})
_CONTINUE_MARK = "HEADRACE-CONTINUES-HERE "
_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "headrace_look", "description": "Look", "parameters": {"type": "object", "properties": {}}},
}

_PROBE_ID = "call00001"
_PROBE_SECONDS = 0.5
"""CPU time; there are some ten probes, of a template that may have come with a request"""


class _NoCalls(Enum):
    """Says that a template writes no tool calls."""

    NO_CALLS = 0


_NO_CALLS = _NoCalls.NO_CALLS


class ChatTemplate:
    """A model's chat template, compiled. Safe to share between threads.

    `source` is the Jinja text, or several by name, of which "tool_use" serves requests with tools and "default" the
    others. `special_tokens` are visible to the template by role ("bos_token" …).

    Raises:
        ModelError: the template is no valid Jinja; the message names the line.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.sources: Mapping[str, str] = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self._special_tokens = dict(special_tokens)
        environment = TemplateEnvironment(now)
        self._templates = {
            name: CompiledTemplate(name, text, environment, self._special_tokens) for name, text in self.sources.items()
        }

    @classmethod
    def of_request(cls, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """A template that came with a request.

        Raises:
            RequestError: it is no valid Jinja.
        """
        try:
            return cls(source, special_tokens)
        except ModelError as error:
            raise RequestError(str(error).partition("; give another")[0], param="chat_template") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, to be encoded without adding special tokens.

        `add_generation_prompt` opens the assistant's turn; `continue_final_message` leaves the last message's turn
        open instead. `documents` are for templates that read them. `template_kwargs` are further variables of the
        template, such as enable_thinking.

        Content may be a string or parts of text: a template that knows parts gets them, any other gets one string,
        one part a line. Arguments of tool calls may be JSON text or objects: the template gets what it writes out
        correctly, objects if both.

        Raises:
            RequestError: the messages are malformed, the template refuses them, or it reads no documents.
            ModelError: the template itself is broken or exceeds its bounds.
        """
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other; set one of them",
                param="continue_final_message",
            )
        template = self._choose(bool(tools))
        conversation = template.adapt(chat_messages.read_messages(messages))
        further = chat_messages.plain(template_kwargs or {}, "chat_template_kwargs", "chat_template_kwargs")
        for name in _RESERVED & further.keys():
            raise RequestError(
                f"chat_template_kwargs has {name!r}, which is set otherwise", param="chat_template_kwargs"
            )
        if documents and "documents" not in template.variables:
            raise RequestError("the model's chat template does not read documents; leave them out", param="documents")
        arguments = {
            **self._special_tokens,
            "documents": chat_messages.plain(list(documents), "documents", "documents") if documents else None,
            **further,
            "tools": template.adapt_tools(chat_messages.plain(list(tools), "tools", "tools")) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        if continue_final_message:
            return _render_open(template, conversation, arguments)
        return template.render({**arguments, "messages": conversation})

    def reads(self, name: str) -> bool:
        """Whether a variable, such as "tools" or "enable_thinking", makes any difference to the template."""
        return any(name in template.variables for template in self._templates.values())

    def _choose(self, has_tools: bool) -> CompiledTemplate:
        names = (TOOL_USE, DEFAULT) if has_tools else (DEFAULT,)
        for name in names:
            if name in self._templates:
                return self._templates[name]
        raise ModelError(
            f"the model has chat templates named {', '.join(self._templates)} but none named {DEFAULT}; "
            "give one with --chat-template FILE"
        )


class CompiledTemplate:
    """One Jinja template and what it was found to understand."""

    def __init__(
        self, name: str, source: str, environment: TemplateEnvironment, special_tokens: Mapping[str, str]
    ) -> None:
        self._name = name
        self._source = source
        self._special_tokens = special_tokens
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source)))
            """The variables that the template reads and does not set itself"""
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template ({name}) is broken at line {error.lineno}: {str(error.message).rstrip('.')}; "
                "give another with --chat-template FILE"
            ) from error

    def render(self, arguments: dict[str, Any], seconds: float = MAX_SECONDS) -> str:
        """Render within `seconds` of CPU time, with the errors of the house."""
        try:
            return render(self._template, arguments, seconds)
        except RaisedByTemplateError as error:
            raise RequestError(f"the model's chat template refuses the messages: {error}", param="messages") from error
        except (SecurityError, RecursionError, MemoryError) as error:
            line = _line_in_template(error)
            kind = TemplateOutOfTime if isinstance(error, OutOfTime) else ModelError
            raise kind(
                f"the chat template ({self._name}) was stopped at line {line}: {str(error).rstrip('.')}; "
                "give another with --chat-template FILE"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            line = _line_in_template(error)
            raise RequestError(
                f"the model's chat template cannot render these messages: {error} (template line {line})",
                param="messages",
            ) from error

    def adapt(self, conversation: list[Message]) -> list[Message]:
        """Content and tool arguments in the form that this template reads."""
        if any("tool_calls" in message for message in conversation):
            change = chat_messages.write_arguments if self._wants_arguments_as_text else chat_messages.parse_arguments
            conversation = change(conversation)
            if self._wants_names_in_ids:
                conversation = chat_messages.name_ids(conversation)
            conversation = [self._adapt_calls(message) for message in conversation]
        return [self._adapt_content(message) for message in conversation]

    def adapt_tools(self, tools: list[Any]) -> list[Any]:
        """Definitions of tools with all that this template needs of them."""
        if self._reads_missing_descriptions:
            return tools
        return [{**tool, "function": {"description": "", **tool["function"]}} for tool in tools]

    def _adapt_calls(self, message: Message) -> Message:
        """Calls, with a content that this template writes them beside; as content, where it only describes them."""
        if not message.get("tool_calls"):
            return {key: value for key, value in message.items() if key != "tool_calls"}
        if self._content_beside_calls is not _NO_CALLS:
            return message if message.get("content") else {**message, "content": self._content_beside_calls}
        format_ = find_known((self._source,))
        if format_ is None:
            raise RequestError(
                "the model's chat template knows no tool calls; leave out messages with tool_calls, or give a template "
                "that does with --chat-template FILE",
                param="messages",
            )
        content = chat_messages.flatten(message.get("content")) or ""
        calls = format_.write([{**call, **call.get("function", call)} for call in message["tool_calls"]])
        return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content + calls}

    def _adapt_content(self, message: Message) -> Message:
        content = message.get("content")
        if isinstance(content, list):
            if not self._roles_with_parts.get(message["role"], False):
                return {**message, "content": chat_messages.flatten(content)}
        elif isinstance(content, str) and not self._knows_strings and self._roles_with_parts.get(message["role"]):
            return {**message, "content": chat_messages.to_parts(content)}
        return message

    @cached_property
    def _knows_strings(self) -> bool:
        return "NEEDLE" in self._try([{"role": "user", "content": "NEEDLE"}])

    @cached_property
    def _roles_with_parts(self) -> dict[str, bool]:
        """Roles whose content may be a list of parts: each part's text comes out, and nothing of its structure."""
        parts = [{"type": "text", "text": "NEEDLE-A"}, {"type": "text", "text": "NEEDLE-B"}]
        plain = [{"type": "text", "text": "hello"}] if not self._knows_strings else "hello"
        probes: dict[str, list[Message]] = {
            "user": [{"role": "user", "content": parts}],
            "system": [{"role": "system", "content": parts}, {"role": "user", "content": plain}],
            "assistant": [
                {"role": "user", "content": plain},
                {"role": "assistant", "content": parts},
                {"role": "user", "content": plain},
            ],
        }
        texts = {role: self._try(probe) for role, probe in probes.items()}
        return {
            role: "NEEDLE-A" in text and "NEEDLE-B" in text and "'type'" not in text and '"type"' not in text
            for role, text in texts.items()
        }

    @cached_property
    def _wants_arguments_as_text(self) -> bool:
        content = self._content_beside_calls
        if content is _NO_CALLS:
            return False
        as_object, as_text = (
            self._probe_call(content, {"key": "NEEDLE"}),
            self._probe_call(content, '{"key": "NEEDLE"}'),
        )
        return "NEEDLE" not in as_object.replace("'NEEDLE'", "") and "NEEDLE" in as_text

    @cached_property
    def _wants_names_in_ids(self) -> bool:
        """Whether ids stand where calls are written and names do not."""
        content = self._content_beside_calls
        if content is _NO_CALLS:
            format_ = find_known((self._source,))
            return format_ is not None and format_.ids is IdForm.NAMED
        written = self._probe_call(content, {"key": "NEEDLE"})
        return _PROBE_ID in written and _PROBE_TOOL["function"]["name"] not in written

    @cached_property
    def _content_beside_calls(self) -> str | _NoCalls | None:
        """Empty text, or null where the template writes calls only beside that."""
        for content in ("", None):
            for arguments in ({"key": "NEEDLE"}, '{"key": "NEEDLE"}'):
                if "NEEDLE" in self._probe_call(content, arguments):
                    return content
        return _NO_CALLS

    @cached_property
    def _reads_missing_descriptions(self) -> bool:
        function = {key: value for key, value in _PROBE_TOOL["function"].items() if key != "description"}
        arguments = {**self._special_tokens, "documents": None, "add_generation_prompt": False}
        messages: list[Message] = [{"role": "user", "content": "hello"}]
        try:
            tools = [{"type": "function", "function": function}]
            self.render({**arguments, "messages": messages, "tools": tools}, _PROBE_SECONDS)
        except HeadraceError:
            return not self._try(messages)
        return True

    def _probe_call(self, content: str | _NoCalls | None, arguments: object) -> str:
        name = _PROBE_TOOL["function"]["name"]
        call = {"type": "function", "id": _PROBE_ID, "function": {"name": name, "arguments": arguments}}
        question: Message = {"role": "user", "content": "hello"}
        answer: Message = {"role": "tool", "tool_call_id": _PROBE_ID, "name": "tool", "content": "seen"}
        return self._try([question, {"role": "assistant", "content": content, "tool_calls": [call]}, answer])

    def _try(self, conversation: Sequence[Message]) -> str:
        """What the template makes of a conversation, with a tool if it needs one; nothing if it fails."""
        for tools in (None, [_PROBE_TOOL]):
            arguments = {**self._special_tokens, "documents": None, "tools": tools, "add_generation_prompt": False}
            try:
                return self.render({**arguments, "messages": conversation}, _PROBE_SECONDS)
            except HeadraceError:
                continue
        return ""


def load_chat_template(files: ModelFiles, override: Path | None = None) -> ChatTemplate | None:
    """The chat template of a model, or the one in the file `override`; None when there is none.

    Of a folder: chat_template.jinja and additional_chat_templates/NAME.jinja, else chat_template.json, else
    tokenizer_config.json.

    Raises:
        ModelNotFound: no such override file.
        DamagedFile: a file that cannot be read.
        ModelError: a template that is no valid Jinja.
    """
    if override is not None:
        if not override.is_file():
            raise ModelNotFound(f"there is no chat template file {override}")
        sources: object = _read_override(override)
    elif files.gguf is not None:
        sources = _gguf_templates(files.gguf.metadata)
    else:
        sources = _folder_templates(files)
    if not sources:
        return None
    if files.gguf is not None:
        special_tokens = gguf_vocab.special_tokens(files.gguf.metadata, files.gguf_path)
    else:
        special_tokens = folder_vocab.special_tokens(files)
    return ChatTemplate(_by_name(sources, override or files.name), special_tokens)


def _render_open(template: CompiledTemplate, conversation: list[Message], arguments: dict[str, Any]) -> str:
    """Everything up to the end of the last message's content, found by a mark that is put there.

    The mark ends with a space: a template that strips it strips the content as well, so that is done here too.
    """
    final = conversation[-1]
    content = final.get("content")
    if isinstance(content, str):
        text = content
        marked: Any = content + _CONTINUE_MARK
    elif isinstance(content, list) and content and isinstance(content[-1], dict):
        text = content[-1]["text"]
        marked = [*content[:-1], {**content[-1], "text": text + _CONTINUE_MARK}]
    else:
        raise RequestError("continue_final_message needs text in the last message, which has none", param="messages")
    rendered = template.render({**arguments, "messages": [*conversation[:-1], {**final, "content": marked}]})
    before, mark, after = rendered.rpartition(_CONTINUE_MARK.strip())
    if not after.startswith(" "):
        before = before.rstrip()
    if not mark or text.strip() not in before:
        raise RequestError(
            "continue_final_message is not possible: the model's chat template changes the last message",
            param="continue_final_message",
        )
    return before


def _line_in_template(error: BaseException) -> int | str:
    """jinja2 rewrites tracebacks so that a template's frames carry its own lines."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>" and frame.lineno is not None]
    return lines[-1] if lines else "unknown"


def _read_override(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text)["chat_template"] if path.suffix == ".json" else text
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is no chat template ({error}); expected a Jinja file in UTF-8") from error


def _folder_templates(files: ModelFiles) -> object:
    found: dict[str, str] = {}
    path = files.path("chat_template.jinja")
    if path is not None:
        found[DEFAULT] = str(_read_override(path))
    if files.folder is not None:
        more = sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
        found.update({extra.stem: str(_read_override(extra)) for extra in more})
    if found:
        return found
    for filename in ("chat_template.json", "tokenizer_config.json"):
        template = (files.read_json(filename) or {}).get("chat_template")
        if template:
            return template
    return None


def _gguf_templates(metadata: Mapping[str, Any]) -> object:
    key = "tokenizer.chat_template"
    found = {name.removeprefix(f"{key}."): text for name, text in metadata.items() if name.startswith(f"{key}.")}
    if key in metadata:
        found[DEFAULT] = metadata[key]
    return found


def _by_name(sources: object, origin: object) -> str | dict[str, str]:
    """A template, {name: template} or [{"name": …, "template": …}, …], checked."""
    if isinstance(sources, list) and all(isinstance(entry, Mapping) for entry in sources):
        sources = {entry.get("name"): entry.get("template") for entry in sources}
    if isinstance(sources, str):
        return sources
    if isinstance(sources, Mapping) and all(isinstance(text, str) for pair in sources.items() for text in pair):
        return dict(sources)
    raise DamagedFile(f"{origin} has a chat_template that is neither text nor a list of named texts")
