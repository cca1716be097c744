"""What a model may say where it is given tools, as a grammar.

- required (or one tool named): calls and nothing else, each as the template writes it, with arguments that satisfy the
  tool's schema.
- auto: any text, and from the moment that a call is opened the same.

A thought comes before all that (`text.after`). Channels write their own headers: see `_channel_rules`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.errors import RequestError
from headrace.text.answer import AnswerFormat
from headrace.text.channels import HARMONY, ChannelFormat
from headrace.text.grammar.json_schema import checked_schema
from headrace.text.grammar.specification import lark_grammar
from headrace.text.tools.definitions import Tools
from headrace.text.tools.format import ID_MARK, ObjectCall, TaggedCall, ToolFormat
from headrace.text.tools.tagged import is_text

_ANY = "/(.|\\n)*/"
_ANY_KEY = "/[^<>\\n]{1,64}/"
_ANSWER = "answer"
_MOST_THOUGHTS = 3
"""Messages of a thought before the answer"""
_SPACES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tools_grammar(format_: AnswerFormat, tools: Tools, special: Mapping[str, str], answer: str | None = None) -> str:
    """The text of the grammar of answers (without thought) to a request with tools.

    `special` are the special tokens' texts and their names in grammars; `answer` is the text of the grammar that the
    answer follows where it is no call.

    Raises:
        RequestError: a schema cannot be enforced; `param` is its place.
    """
    writer = _Writer(tools, special, has_answer=answer is not None)
    if format_.channels is not None:
        lark = writer.channels(format_.channels)
    else:
        assert format_.tools is not None
        lark = writer.calls(format_.tools)
    text = lark_grammar(lark)
    return text if answer is None else _with_answer(text, answer)


def _with_answer(text: str, answer: str) -> str:
    """Two grammars in one text; the first refers to the other as @answer."""
    own, other = json.loads(text), json.loads(answer)
    grammars = [*own["grammar"]["grammars"], {**other["grammar"]["grammars"][0], "name": _ANSWER}]
    hints = [*own["hints"], *other["hints"]]
    return json.dumps({"grammar": {"grammars": grammars}, "hints": hints}, ensure_ascii=False)


class _Writer:
    """Writes the rules of one grammar in llguidance's Lark."""

    def __init__(self, tools: Tools, special: Mapping[str, str], *, has_answer: bool) -> None:
        self._tools = tools
        self._names = [tools.named] if tools.named is not None else list(tools.schemas)
        self._special = special
        texts = sorted(special, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in texts if text) or "(?!)")
        self._rules: list[str] = ["%llguidance {}"]
        self._has_answer = has_answer

    def calls(self, format_: ToolFormat) -> str:
        """Calls in a format, after free text where they are not required."""
        if self._tools.choice == "none":
            return self._whole(f"@{_ANSWER}" if self._has_answer else self._no_call(format_))
        for index, name in enumerate(self._names):
            self._rules.append(f"call_{index}: {self._call(format_, name)}")
        opened, closed = self._text(format_.call_open), self._text(format_.call_close)
        one = _either(f"call_{index}" for index in range(len(self._names)))
        more = _join(self._text(format_.separator), opened, one, closed)
        has_more = self._tools.is_parallel and format_.has_parallel_calls
        rest = _join(one, closed, f"({more})*" if has_more else "", self._text(format_.section_close))
        first = _join(self._text(format_.section_open), opened, rest)
        if format_.optional_open:
            first = f"({self._text(format_.optional_open)})? {first}"
        if self._tools.choice == "required":
            return self._whole(first)
        if self._has_answer:
            return self._whole(f"{first} | @{_ANSWER}")
        if not format_.opening:
            return self._whole(f"{first} | {self._no_call(format_)}")
        return self._whole(f"{_join(self._opened(format_), rest)} | {self._no_call(format_)}")

    def _whole(self, start: str) -> str:
        return "\n".join([*self._rules, f"start: {start}", ""])

    def _no_call(self, format_: ToolFormat) -> str:
        """Text in which no call is opened."""
        if format_.opening:
            trigger = format_.trigger
            called = "" if trigger in self._special else f" & ~/(.|\\n)*{_escape(trigger)}(.|\\n)*/"
        else:
            names = "|".join(map(_escape, self._tools.schemas))
            called = f' & ~/[ \\n]*\\{{[ \\n]*"name"[ \\n]*:[ \\n]*"({names})"(.|\\n)*/'
        self._rules.append(f"NO_CALL: {_ANY}{called}")
        return "NO_CALL"

    def _opened(self, format_: ToolFormat) -> str:
        """Free text up to the end of the first call's opening."""
        trigger, opening = format_.trigger, format_.opening.lstrip()
        if trigger in self._special:
            return _join("NO_CALL", self._text(opening))
        self._rules.append(f"opened[lazy]: {_ANY} {_quote(trigger)}")
        return _join("opened", self._text(opening[len(trigger) :]))

    def channels(self, format_: ChannelFormat) -> str:
        """Messages with headers: thoughts, what is said before calls, then calls or the answer."""
        self._rules.append(f"TEXT: {_ANY}")
        calls = [self._channel_call(format_.call_header, name) for name in self._names]
        answer = f"@{_ANSWER}" if self._has_answer else "TEXT"
        choice = self._tools.choice
        if format_ is not HARMONY:
            self._rules.append(f'said[lazy]: {_ANY} ">>>"')
            call = _either(calls)
            call = f'{call} ("\\n>>>" {call})*' if self._tools.is_parallel else call
            told = f'"all\\n" {answer}'
            return self._whole({"required": call, "none": told}.get(choice, f'{call} | "all\\n" said {call} | {told}'))
        other = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        call = _either([*calls, *(self._channel_call(other, name) for name in self._names)])
        after = self._text("<|end|><|start|>assistant")
        thoughts = f"({self._text('<|channel|>analysis<|message|>')} TEXT {after}){{0,{_MOST_THOUGHTS}}}"
        said = f"({self._text('<|channel|>commentary<|message|>')} TEXT {after})?"
        told = f"{self._text('<|channel|>final<|message|>')} {answer}"
        rest = {"required": f"{said} {call}", "none": told}.get(choice, f"({said} {call} | {told})")
        return self._whole(f"{thoughts} {rest}")

    def _channel_call(self, header: str, name: str) -> str:
        return _join(self._text(header.replace("{name}", name)), self._arguments(name))

    def _call(self, format_: ToolFormat, name: str) -> str:
        body = format_.body
        if isinstance(body, TaggedCall):
            return _join(self._text(name + body.after_name), self._tagged(body, name))
        before, after, end = "", body.after_name, ""
        if isinstance(body, ObjectCall):
            before, end = body.before_name, body.after_arguments
        return _join(self._text(before + name + after, format_), self._arguments(name), self._text(end, format_))

    def _arguments(self, name: str) -> str:
        schema = {"type": "object", **self._schema(name)}
        return f"%json {json.dumps(self._checked(schema, name), ensure_ascii=False)}"

    def _schema(self, name: str) -> Mapping[str, Any]:
        return {} if name in self._tools.loose else self._tools.schemas[name]

    def _checked(self, schema: Mapping[str, Any], name: str) -> dict[str, Any]:
        try:
            checked = checked_schema(dict(schema))
        except RequestError as error:
            place = list(self._tools.schemas).index(name)
            raise RequestError(
                f"the parameters of tool {name}: {str(error).removeprefix('structured output: ')}",
                param=f"tools[{place}].function.parameters",
            ) from error
        found = checked.schema if isinstance(checked.schema, dict) else {}
        writing: dict[str, Any] = dict(_SPACES)
        if checked.has_escaped_names:
            writing["json_allowed_escapes"] = 'nrbtf\\"'
        return {**found, "x-guidance": writing}

    def _tagged(self, body: TaggedCall, name: str) -> str:
        """Each property in turn, where it stands in the schema; others only where the schema names none."""
        schema = self._schema(name)
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        if not properties:
            value = self._text_value(body)
            return f"({_join(self._text(body.open), _ANY_KEY, self._text(body.middle), value)})*"
        parts = []
        for key, each in properties.items():
            value = self._value(body, each, schema, name)
            pair = _join(self._text(body.open + key + body.middle), value)
            parts.append(pair if key in required else f"({pair})?")
        return " ".join(parts)

    def _value(self, body: TaggedCall, schema: Any, whole: Mapping[str, Any], name: str) -> str:
        if not is_text(schema):
            definitions = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
            checked = self._checked({**schema, **definitions}, name)
            return f"%json {json.dumps(checked, ensure_ascii=False)} {self._text(body.close)}"
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if choices:
            texts = " | ".join(self._text(str(choice)) for choice in choices)
            return f"({texts}) {self._text(body.close)}"
        for key in ("pattern", "format", "minLength", "maxLength"):
            if key in schema:
                raise RequestError(
                    f"the parameters of tool {name}: {key} cannot be enforced on text, and this model writes arguments"
                    " as text; leave it out, or send strict=false",
                    param=f"tools[{list(self._tools.schemas).index(name)}].function.parameters",
                )
        return self._text_value(body)

    def _text_value(self, body: TaggedCall) -> str:
        """Text up to the first closing tag."""
        rule = "value[lazy]: " + f"{_ANY} {_quote(body.close.rstrip())}"
        if rule not in self._rules:
            self._rules.append(rule)
        rest = body.close[len(body.close.rstrip()) :]
        return _join("value", self._text(rest))

    def _text(self, literal: str, format_: ToolFormat | None = None) -> str:
        """A literal with special tokens, and ids, as elements of a rule."""
        elements: list[str] = []
        at = 0
        for found in self._pattern.finditer(literal):
            elements.append(self._plain(literal[at : found.start()], format_))
            elements.append(self._special[found[0]])
            at = found.end()
        elements.append(self._plain(literal[at:], format_))
        return _join(*elements)

    def _plain(self, text: str, format_: ToolFormat | None) -> str:
        size = "{9}" if format_ is not None and format_.has_short_ids else "{1,40}"
        parts = [_quote(part) if part else "" for part in text.split(ID_MARK)]
        return f" /[a-zA-Z0-9]{size}/ ".join(parts).strip()


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(text: str) -> str:
    """For a regular expression between slashes."""
    return re.sub(r"[\\.^$*+?()\[\]{}|/]", lambda found: f"\\{found[0]}", text).replace("\n", "\\n")


def _either(rules: Iterable[str]) -> str:
    return f"({' | '.join(rules)})"


def _join(*elements: str) -> str:
    return " ".join(element for element in elements if element)
