"""How a model writes tool calls, as data.

    section_open ( call_open CALL call_close ) separator ( call_open CALL call_close ) … section_close

A call is its name and its arguments between literal texts:

    JSON object   {"name": "NAME", "arguments": {…}}                        Hermes, Qwen, Llama 3, Mistral, Granite
    name outside  NAME<｜tool▁sep｜>{…}     <function=NAME>{…}               DeepSeek, functionary, newer Mistral
    tagged        <function=NAME><parameter=KEY>VALUE</parameter></function> Qwen3-Coder, GLM
    Python        NAME(KEY=VALUE, KEY=VALUE)                                 Llama 4, LFM2, Olmo 3

Where a template writes an id in the place of the name, the id has the name in it: functions.NAME:NUMBER (Kimi K2).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from headrace.text.tools.scan import split_marker

ID_MARK = "\ue000"
"""Stands in the literals of a format where a template writes the call's id"""

_SHORT_ID = 9
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class ObjectCall:
    """The call is a JSON object; a model may write its keys in any order and with other spaces than the template."""

    before_name: str = '{"name": "'
    after_name: str = '", "arguments": '
    after_arguments: str = "}"
    name_key: str = "name"
    arguments_key: str = "arguments"


@dataclass(frozen=True, slots=True)
class NamedCall:
    """The name stands alone, and after it the arguments as a JSON object."""

    after_name: str


@dataclass(frozen=True, slots=True)
class TaggedCall:
    """The name stands alone, and after it each argument as text between tags: strings as they are, others as JSON."""

    after_name: str
    open: str
    """Before an argument's key"""
    middle: str
    """Between key and value"""
    close: str
    """After the value"""


@dataclass(frozen=True, slots=True)
class PythonCall:
    """The name stands alone, and after it named arguments in brackets, with values in Python's notation."""

    after_name: str = "("


CallBody: TypeAlias = ObjectCall | NamedCall | TaggedCall | PythonCall


class IdForm(Enum):
    """Which ids of calls a template can write."""

    ANY = auto()
    SHORT = auto()
    """Nine letters and digits (Mistral)"""
    NAMED = auto()
    """functions.NAME:NUMBER (Kimi K2)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """See the module. Literals are as the template writes them, spaces and line ends included."""

    body: CallBody
    section_open: str = ""
    call_open: str = ""
    call_close: str = ""
    separator: str = ""
    section_close: str = ""
    optional_open: str = ""
    """May stand before the first call of a format without an opening of its own"""
    ids: IdForm = IdForm.ANY
    has_parallel_calls: bool = True
    """The template writes several calls in one turn"""

    @property
    def is_bare(self) -> bool:
        """Whether nothing but their form marks calls: then only the beginning of an answer can be one."""
        return len(self.opening.strip()) <= 1

    @property
    def opening(self) -> str:
        """What a first call begins with, before the call itself."""
        return self.section_open + self.call_open

    @property
    def trigger(self) -> str:
        """The first marker of the opening: where it stands, a call is opened."""
        first = next(iter(split_marker(self.opening)), "")
        return first if len(first) > 1 else next(iter(self.opening.split()), "")

    @property
    def markers(self) -> tuple[str, ...]:
        """All literals, in which special tokens may stand that have to stay in the text."""
        body = self.body
        inner = (body.after_name, *((body.open, body.middle, body.close) if isinstance(body, TaggedCall) else ()))
        outer = (self.section_open, self.call_open, self.call_close, self.separator, self.section_close)
        return tuple(literal for literal in (*outer, self.optional_open, *inner) if literal)

    def new_id(self, name: str, number: int) -> str:
        """An id for a call of a tool, the `number`-th of its conversation, in the form that the template can write."""
        if self.ids is IdForm.NAMED:
            return named_call_id(name, number)
        return new_call_id(is_short=self.ids is IdForm.SHORT)

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls ({"name": …, "arguments": {…}}, perhaps "id") as the model writes them."""
        written = [f"{self.call_open}{self._write_call(call)}{self.call_close}" for call in calls]
        return self.section_open + self.separator.join(written) + self.section_close

    def _write_call(self, call: Mapping[str, Any]) -> str:
        body, name, arguments = self.body, call["name"], call["arguments"]
        if isinstance(body, TaggedCall):
            pairs = (f"{body.open}{key}{body.middle}{_as_text(value)}{body.close}" for key, value in arguments.items())
            text = f"{name}{body.after_name}{''.join(pairs)}"
        elif isinstance(body, PythonCall):
            named = (f"{key}={value!r}" for key, value in arguments.items())
            text = f"{name}{body.after_name}{', '.join(named)})"
        elif isinstance(body, NamedCall):
            text = f"{name}{body.after_name}{_to_json(arguments)}"
        else:
            text = f"{body.before_name}{name}{body.after_name}{_to_json(arguments)}{body.after_arguments}"
        id_ = str(call.get("id", ""))
        return text.replace(ID_MARK, id_.rpartition(":")[2] if self.ids is IdForm.NAMED else id_)


def new_call_id(*, is_short: bool = False) -> str:
    """A fresh id of a tool call."""
    if is_short:
        return "".join(secrets.choice(_ID_LETTERS) for _ in range(_SHORT_ID))
    return f"call_{secrets.token_hex(12)}"


def named_call_id(name: str, number: int) -> str:
    """An id with the tool's name in it."""
    return f"functions.{name}:{number}"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _to_json(value)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
