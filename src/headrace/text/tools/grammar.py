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
from headrace.text.grammar.regex import spelled
from headrace.text.grammar.specification import lark_grammar
from headrace.text.tools.definitions import Tools
from headrace.text.tools.format import ID_MARK, IdForm, ObjectCall, PythonCall, TaggedCall, ToolFormat
from headrace.text.tools.tagged import is_text, resolved

_ANY = "/(.|\\n)*/"
_ANY_KEY = "/[^<>\\n]{1,64}/"
_ANSWER = "answer"
_PYTHON_TEXT = "PYTHON_TEXT"
_PYTHON_TEXT_RULE = (
    _PYTHON_TEXT + r""": /"([^"\\\x00-\x1f]|\\["'\\nrtbf]|\\u[0-9a-cA-C][0-9a-fA-F]{3})*"/"""
    r""" | /'([^'\\\x00-\x1f]|\\["'\\nrtbf]|\\u[0-9a-cA-C][0-9a-fA-F]{3})*'/"""
)
"""A text in either kind of quotes, with the escapes that Python and JSON share"""
_PYTHON_VALUES = {"string": _PYTHON_TEXT, "boolean": '("True" | "False")', "null": '"None"'}
_MOST_THOUGHTS = 3
"""Messages of a thought before the answer"""
_IDS = {IdForm.ANY: "[a-zA-Z0-9]{1,40}", IdForm.SHORT: "[a-zA-Z0-9]{9}", IdForm.NAMED: "(0|[1-9][0-9]{0,2})"}
_NOTES = frozenset({"description", "title", "default", "examples", "deprecated", "$comment"})
_OF_TYPE = _NOTES | {"type"}
"""Keywords of a schema that leave all values of the type"""
_OF_ARGUMENTS = _OF_TYPE | {"properties", "required", "$defs", "definitions", "$schema", "$id"}
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
    parts = {"grammar": {"grammars": grammars}, "hints": hints, "is_written": other["is_written"]}
    return json.dumps(parts, ensure_ascii=False)


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
        bare = format_.opening if format_.is_bare else ""
        for index, name in enumerate(self._names):
            self._add(f"call_{index}: {self._call(format_, name)}")
            if bare:  # one literal: longer than what free text may begin with
                self._add(f"first_{index}: {self._call(format_, name, bare)}")
        opened, closed = self._text(format_.call_open), self._text(format_.call_close)
        one = _either(f"call_{index}" for index in range(len(self._names)))
        more = _join(self._text(format_.separator), opened, one, closed)
        has_more = self._tools.is_parallel and format_.has_parallel_calls
        end = _join(closed, f"({more})*" if has_more else "", self._text(format_.section_close))
        rest = _join(one, end)
        first = _join(self._text(format_.section_open), opened, rest)
        if bare:
            first = _join(_either(f"first_{index}" for index in range(len(self._names))), end)
        if format_.optional_open:
            first = f"({self._text(format_.optional_open)})? {first}"
        if self._tools.choice == "required":
            return self._whole(first)
        if self._has_answer:
            return self._whole(f"{first} | @{_ANSWER}")
        if format_.is_bare:
            return self._whole(f"{first} | {self._no_call(format_)}")
        return self._whole(f"{_join(self._opened(format_), rest)} | {self._no_call(format_)}")

    def _whole(self, start: str) -> str:
        return "\n".join([*self._rules, f"start: {start}", ""])

    def _add(self, rule: str) -> None:
        if rule not in self._rules:
            self._rules.append(rule)

    def _no_call(self, format_: ToolFormat) -> str:
        """Text in which no call is opened."""
        if not format_.is_bare:
            trigger = format_.trigger
            called = "" if trigger in self._special else f" & ~/(.|\\n)*{_escape(trigger)}(.|\\n)*/"
        else:
            names = f"({'|'.join(map(_escape, self._tools.schemas))})"
            if isinstance(format_.body, PythonCall):
                begun = rf"[ \n]*{_escape(format_.opening.strip())}[ \n]*{names}[ \n]*\("
            else:
                begun = rf'[ \n]*\{{[ \n]*"name"[ \n]*:[ \n]*"{names}"'
            called = f" & ~/{begun}(.|\\n)*/"
        self._add(f"NO_CALL: {_ANY}{called}")
        return "NO_CALL"

    def _opened(self, format_: ToolFormat) -> str:
        """Free text up to the end of the first call's opening."""
        trigger, opening = format_.trigger, format_.opening.lstrip()
        if trigger in self._special:
            return _join("NO_CALL", self._text(opening))
        self._add(f"opened[lazy]: {_ANY} {_quote(trigger)}")
        return _join("opened", self._text(opening[len(trigger) :]))

    def channels(self, format_: ChannelFormat) -> str:
        """Messages with headers: thoughts, what is said before calls, then calls or the answer."""
        self._add(f"TEXT: {_ANY}")
        calls = [self._channel_call(format_.call_header, name) for name in self._names]
        answer = f"@{_ANSWER}" if self._has_answer else "TEXT"
        choice = self._tools.choice
        if format_ is not HARMONY:
            self._add(f'said[lazy]: {_ANY} ">>>"')
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

    def _call(self, format_: ToolFormat, name: str, before: str = "") -> str:
        """One call, and what stands before it."""
        body = format_.body
        if isinstance(body, TaggedCall):
            return _join(self._text(before + name + body.after_name), self._tagged(body, name))
        if isinstance(body, PythonCall):
            return _join(self._text(before + name + body.after_name), self._python(name), '")"')
        after, end = body.after_name, ""
        if isinstance(body, ObjectCall):
            before, end = before + body.before_name, body.after_arguments
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

    def _properties(self, name: str) -> dict[str, Mapping[str, Any]]:
        """What a tool's schema says of each property; empty where any may be given.

        For notations in which an object is more than JSON: what holds for the whole of it cannot be enforced there.
        """
        schema = self._schema(name)
        closed = schema.get("additionalProperties") in (None, True, False)
        for key in schema.keys() - _OF_ARGUMENTS - ({"additionalProperties"} if closed else set()):
            raise self._unenforced(name, key, "the arguments as a whole")
        self._checked({"type": "object", **schema}, name)  # what is malformed is refused as it is for JSON
        named = schema.get("properties") or {}
        properties = {**named, **{key: named.get(key, True) for key in schema.get("required") or ()}}
        return {key: {} if each is True else each for key, each in properties.items() if each is not False}

    def _unenforced(self, name: str, keyword: str, on: str) -> RequestError:
        return RequestError(
            f"the parameters of tool {name}: {keyword} cannot be enforced on {on} in the way in which this model"
            " writes them; leave it out, or send strict=false",
            param=f"tools[{list(self._tools.schemas).index(name)}].function.parameters",
        )

    def _tagged(self, body: TaggedCall, name: str) -> str:
        """Each property in turn, where it stands in the schema; others only where the schema names none."""
        properties, required = self._properties(name), self._schema(name).get("required") or ()
        if not properties:
            value = self._text_value(body)
            return f"({_join(self._text(body.open), _ANY_KEY, self._text(body.middle), value)})*"
        parts = []
        for key, each in properties.items():
            pair = _join(self._text(body.open + key + body.middle), self._value(body, each, name))
            parts.append(pair if key in required else f"({pair})?")
        return " ".join(parts)

    def _value(self, body: TaggedCall, schema: Mapping[str, Any], name: str) -> str:
        schema = resolved(schema, self._schema(name))
        if not is_text(schema):
            return f"{self._json_value(schema, name)} {self._text(body.close)}"
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if choices:
            texts = " | ".join(self._text(str(choice)) for choice in choices)
            return f"({texts}) {self._text(body.close)}"
        if (keyword := _beyond_type(schema)) is not None:
            raise self._unenforced(name, keyword, "text")
        return self._text_value(body)

    def _python(self, name: str) -> str:
        """Each property in turn, as `_tagged`; commas stand between those that are there."""
        properties, required = self._properties(name), self._schema(name).get("required") or ()
        if not properties:
            pair = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}=/ %json {}"
            return f'({pair} (", " {pair})*)?'
        at = list(self._tools.schemas).index(name)
        first, after = "", '""'
        for number, (key, each) in reversed(list(enumerate(properties.items()))):
            self._add(f"pair_{at}_{number}: {_quote(f'{key}=')} {self._python_value(each, name)}")
            self._add(f"after_{at}_{number}: {after}")
            here = f"pair_{at}_{number} after_{at}_{number}"
            is_needed = key in required
            first = here if is_needed else " | ".join((here, first or '""'))
            after = f'", " {here}' + ("" if is_needed else f" | after_{at}_{number}")
        return f"({first})"

    def _python_value(self, schema: Mapping[str, Any], name: str) -> str:
        """A literal: Python's where it stands alone, and JSON's within lists and dicts."""
        branches, kinds = schema.get("anyOf"), schema.get("type")
        is_alone = schema.keys() <= _OF_TYPE | {"anyOf"} - {"type"}
        if isinstance(branches, list) and is_alone and not any(isinstance(each, bool) for each in branches):
            return _either(self._python_value(each, name) for each in branches)
        if not schema.keys() <= _OF_TYPE or kinds is None:
            return self._json_value(schema, name)
        if isinstance(kinds, list):
            return _either(self._python_value({"type": kind}, name) for kind in kinds)
        if kinds == "string":
            self._add(_PYTHON_TEXT_RULE)
        return _PYTHON_VALUES.get(str(kinds)) or self._json_value(schema, name)

    def _json_value(self, schema: Mapping[str, Any], name: str) -> str:
        whole = self._schema(name)
        definitions = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
        checked = self._checked({**schema, **definitions}, name)
        return f"%json {json.dumps(checked, ensure_ascii=False)}"

    def _text_value(self, body: TaggedCall) -> str:
        """Text up to the first closing tag, which ends it for a reader whatever white space is around it."""
        close = body.close.rstrip()
        self._add("value[lazy]: VALUE")
        # The tag stands there as a text, which is what the search for endings knows of it.
        self._add(f"VALUE: (/(?s:.*)/ {_quote(close)}) & ~/(?s:.*){spelled(close.strip())}(?s:.+)/")
        rest = body.close[len(close) :]
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
        form = IdForm.ANY if format_ is None else format_.ids
        parts = [_quote(part) if part else "" for part in text.split(ID_MARK)]
        return f" /{_IDS[form]}/ ".join(parts).strip()


def _beyond_type(schema: Mapping[str, Any]) -> str | None:
    """A keyword that says more of a value than its type; None if there is none."""
    for key in schema.keys() - _OF_TYPE:
        if key not in ("anyOf", "oneOf"):
            return key
        for branch in schema[key]:
            if branch is False:
                return key
            if branch is not True and (found := _beyond_type(branch)) is not None:
                return found
    return None


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(text: str) -> str:
    """For a regular expression between slashes."""
    return re.sub(r"[\\.^$*+?()\[\]{}|/]", lambda found: f"\\{found[0]}", text).replace("\n", "\\n")


def _either(rules: Iterable[str]) -> str:
    return f"({' | '.join(rules)})"


def _join(*elements: str) -> str:
    return " ".join(element for element in elements if element)
