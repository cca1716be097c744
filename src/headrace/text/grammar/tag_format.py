"""The newer structural tags, {"format": {"type": "sequence", …}}, as Lark: names and meaning are xgrammar's.

Free text ends where a fixed text begins: a trigger, the end of a tag, a constant behind it. So an expression is written
together with the texts of which one follows it; where nothing follows, it is the end of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.errors import RequestError
from headrace.text.grammar.json_values import list_of_names
from headrace.text.grammar.regex import spelled

_MOST_PARTS = 1_000
_MOST_DEPTH = 50
_MOST_TIMES = 10_000
_OPEN: Ends = ()
"""What follows is no fixed text"""
_NOTES = frozenset(("type", "description", "title", "default", "examples"))

Ends: TypeAlias = Sequence[str] | None
"""Texts of which one follows; None: the output ends"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """How the grammars inside of a tag are written: as expressions in Lark.

    Each raises RequestError if that cannot be enforced.
    """

    json: Callable[[Any], str]
    regex: Callable[[str], str]
    grammar: Callable[[str], str]


def as_lark(format_: Any, inner: Inner) -> tuple[str, list[str]]:
    """A format as Lark, and its literals.

    Raises:
        RequestError: it is malformed or cannot be enforced; the message has the path.
    """
    writer = _Writer(inner)
    start = writer.write(format_, "format", None, 0)
    return "\n".join([f"start: {start}", *writer.rules, ""]), writer.literals


class _Writer:
    def __init__(self, inner: Inner) -> None:
        self._inner = inner
        self._num_parts = 0
        self.rules: list[str] = []
        self.literals: list[str] = []

    def write(self, format_: Any, path: str, ends: Ends, depth: int) -> str:
        """An expression of the format and, if given, one of the ends."""
        self._num_parts += 1
        if self._num_parts > _MOST_PARTS or depth > _MOST_DEPTH:
            raise _wrong(path, f"more than {_MOST_PARTS:,} parts, or {_MOST_DEPTH} in each other; make it smaller")
        if not isinstance(format_, dict):
            raise _wrong(path, "expected an object with a type")
        kind = format_.get("type")
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise _wrong(f"{path}.type", f"{kind!r} is not supported; these are: {', '.join(_FIELDS)}")
        required, optional = _FIELDS[kind]
        for name in required:
            if format_.get(name) is None:
                raise _wrong(path, f"{name} is missing")
        for name, value in format_.items():
            if name != "type" and name not in required and name not in optional:
                raise _wrong(f"{path}.{name}", "this field is not supported; leave it out")
            if name in optional and type(value) is not type(optional[name]) and value is not None:
                raise _wrong(f"{path}.{name}", f"expected a {type(optional[name]).__name__}")
        fields = {**optional, **{name: value for name, value in format_.items() if value is not None}}
        if kind in ("any_text", "triggered_tags", "dispatch", "sequence", "or"):
            method: Callable[..., str] = getattr(self, f"_{kind}")
            return method(fields, path, ends, depth + 1)
        return _join(getattr(self, f"_{kind}")(fields, path, depth + 1), self._one_of(ends))

    def _const_string(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        return self._literal(fields["value"], f"{path}.value")

    def _json_schema(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        if fields["style"] == "qwen_xml":
            return self._parameters(fields["json_schema"], f"{path}.json_schema")
        if fields["style"] != "json":
            raise _wrong(f"{path}.style", f"{fields['style']!r} is not supported; these are: json, qwen_xml")
        return self._inner.json(fields["json_schema"])

    def _qwen_xml_parameter(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        return self._parameters(fields["json_schema"], f"{path}.json_schema")

    def _regex(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        return self._inner.regex(_text(fields["pattern"], f"{path}.pattern"))

    def _grammar(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        return self._inner.grammar(_text(fields["grammar"], f"{path}.grammar"))

    def _sequence(self, fields: Mapping[str, Any], path: str, ends: Ends, depth: int) -> str:
        elements = _list(fields["elements"], f"{path}.elements")
        found, behind = "", ends
        is_begun = False
        for at in range(len(elements) - 1, -1, -1):
            place, each = f"{path}.elements[{at}]", elements[at]
            start = None
            if at and isinstance(elements[at - 1], dict) and elements[at - 1].get("type") in _FREE:
                start = _beginning(each)
            own = behind if not is_begun else _OPEN
            if start is not None:  # which the free text before it brings along
                each = {**each, "value": ""} if each["type"] == "const_string" else {**each, "begin": ""}
            found = _join(self.write(each, place, own, depth), found)
            behind, is_begun = (None if start is None else (start,)), start is None
        return found if elements else self._one_of(ends)

    def _or(self, fields: Mapping[str, Any], path: str, ends: Ends, depth: int) -> str:
        elements = _list(fields["elements"], f"{path}.elements", least=1)
        return _either(self.write(each, f"{path}.elements[{at}]", ends, depth) for at, each in enumerate(elements))

    def _tag(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        begin = self._mark(fields["begin"], f"{path}.begin")
        return _join(begin, self._inside(fields, path, depth))

    def _inside(self, tag: Mapping[str, Any], path: str, depth: int) -> str:
        """A tag behind its beginning."""
        end = tag["end"]
        if isinstance(end, dict):
            content = self.write(tag["content"], f"{path}.content", _OPEN, depth)
            return _join(content, self._mark(end, f"{path}.end"))
        texts = [end] if isinstance(end, str) else _list(end, f"{path}.end", least=1)
        ends = [_text(each, f"{path}.end") for each in texts]
        return self.write(tag["content"], f"{path}.content", ends, depth)

    def _token(self, fields: Mapping[str, Any], path: str, _depth: int) -> str:
        name = fields["token"]
        if not isinstance(name, str) or not (name.startswith("<") and name.endswith(">")) or set(name[1:-1]) & _NO_NAME:
            raise _wrong(f"{path}.token", f"{name!r} is not supported; name a special token, as <|name|>")
        return name

    def _any_text(self, fields: Mapping[str, Any], path: str, ends: Ends, _depth: int) -> str:
        most = fields["max_chars"]
        if most > _MOST_TIMES:
            raise _wrong(f"{path}.max_chars", f"{most:,} is more than can be enforced ({_MOST_TIMES:,})")
        anything = f"(?s:.{{0,{most}}})" if most >= 0 else "(?s:.*)"
        return self._free(ends, path, _texts(fields["excludes"], f"{path}.excludes"), anything)

    def _triggered_tags(self, fields: Mapping[str, Any], path: str, ends: Ends, depth: int) -> str:
        triggers = _texts(fields["triggers"], f"{path}.triggers", least=1)
        options: dict[str, list[str]] = {trigger: [] for trigger in triggers}
        for at, tag in enumerate(_list(fields["tags"], f"{path}.tags", least=1)):
            place = f"{path}.tags[{at}]"
            begin = _text(self._tag_of(tag, place)["begin"], f"{place}.begin")
            trigger = max((text for text in triggers if begin.startswith(text)), key=len, default=None)
            if trigger is None:
                raise _wrong(f"{place}.begin", f"{begin!r} begins with none of the triggers")
            rest = self._literal(begin[len(trigger) :], place)
            options[trigger].append(_join(rest, self._inside(tag, place, depth)))
        if unused := [trigger for trigger, found in options.items() if not found]:
            raise _wrong(f"{path}.triggers", f"{unused[0]!r} begins no tag")
        behind = {trigger: _either(found) for trigger, found in options.items()}
        return self._dispatched(behind, fields, path, ends, at_least_one=fields["at_least_one"])

    def _dispatch(self, fields: Mapping[str, Any], path: str, ends: Ends, depth: int) -> str:
        behind: dict[str, str] = {}
        for at, rule in enumerate(_list(fields["rules"], f"{path}.rules", least=1)):
            place = f"{path}.rules[{at}]"
            if not isinstance(rule, list) or len(rule) != 2 or not isinstance(rule[0], str) or not rule[0]:
                raise _wrong(place, "expected a text and a format")
            if rule[0] in behind:
                raise _wrong(place, f"{rule[0]!r} comes twice")
            behind[rule[0]] = self.write(rule[1], f"{place}[1]", _OPEN, depth)
        fields = {**fields, "stop_after_first": not fields["loop"]}
        return self._dispatched(behind, fields, path, ends, at_least_one=False)

    def _dispatched(
        self, behind: Mapping[str, str], fields: Mapping[str, Any], path: str, ends: Ends, *, at_least_one: bool
    ) -> str:
        """Free text, and behind each trigger what has to follow it."""
        excluded = _texts(fields["excludes"], f"{path}.excludes")
        one = _either(_join(self._until([trigger], excluded), rest) for trigger, rest in behind.items())
        rest = self._free(ends, path, [*excluded, *(() if ends else behind)])
        if fields["stop_after_first"]:
            tagged = _join(one, self._one_of(ends))
            return tagged if at_least_one else _either([tagged, rest])
        return _join(f"({one}){'+' if at_least_one else '*'}", rest)

    def _tags_with_separator(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        tags = _list(fields["tags"], f"{path}.tags", least=1)
        places = [f"{path}.tags[{at}]" for at in range(len(tags))]
        one = _either(self._tag(self._tag_of(t, place), place, depth) for t, place in zip(tags, places, strict=True))
        separator = self._literal(fields["separator"], f"{path}.separator")
        found = one if fields["stop_after_first"] else _join(one, f"({_join(separator, one)})*")
        return found if fields["at_least_one"] else f"({found})?"

    def _optional(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        return f"({self.write(fields['content'], f'{path}.content', _OPEN, depth)})?"

    def _plus(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        return f"({self.write(fields['content'], f'{path}.content', _OPEN, depth)})+"

    def _star(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        return f"({self.write(fields['content'], f'{path}.content', _OPEN, depth)})*"

    def _repeat(self, fields: Mapping[str, Any], path: str, depth: int) -> str:
        low, high = fields["min"], fields["max"]
        for count in (low, high):
            if isinstance(count, bool) or not isinstance(count, int) or not -1 <= count <= _MOST_TIMES:
                raise _wrong(path, f"min and max are {low!r} and {high!r}, expected counts up to {_MOST_TIMES:,}")
        if low < 0 or -1 < high < low:
            raise _wrong(path, f"min and max are {low} and {high}, which is no range")
        times = f"{{{low},{'' if high < 0 else high}}}"
        return f"({self.write(fields['content'], f'{path}.content', _OPEN, depth)}){times}"

    def _parameters(self, schema: Any, path: str) -> str:
        """<parameter=name>value</parameter> for each property, in the schema's order; texts stand as they are."""
        properties = schema.get("properties") if isinstance(schema, dict) else None
        if not isinstance(properties, dict) or schema.keys() - _OF_PARAMETERS or schema.get("type") != "object":
            expected = (
                "an object's type and properties, and nothing but required, $defs and additionalProperties beside"
            )
            raise _wrong(path, f"expected {expected}")
        required = list_of_names(schema.get("required", []), f"structural_tag.{path}.required")
        if schema.get("additionalProperties", False) is not False or not set(required) <= properties.keys():
            raise _wrong(path, "parameters that are not in properties cannot be enforced; name them, and no others")
        found = []
        for name, each in properties.items():
            one = _join(self._literal(f"<parameter={name}>", path), self._value(each, schema.get("$defs", {})))
            found.append(one if name in required else f"({one})?")
        return " ".join(found)

    def _value(self, schema: Any, defs: Mapping[str, Any]) -> str:
        close = "</parameter>"
        if isinstance(schema, dict) and schema.get("type") == "string":
            if not schema.keys() - _NOTES:
                return self._until([close], [])
            values = schema.get("enum")
            if isinstance(values, list) and not schema.keys() - _NOTES - {"enum"}:
                texts = [_text(each, "format: a parameter's enum") for each in values]
                return _join(_either(self._literal(each, "format") for each in texts), self._literal(close, "format"))
            raise _wrong("format", "of a parameter that is a text only an enum can be enforced; leave the rest out")
        if isinstance(schema, dict) and defs:
            schema = {**schema, "$defs": defs}
        return _join(self._inner.json(schema), self._literal(close, "format"))

    def _free(self, ends: Ends, path: str, excluded: Sequence[str], anything: str = "(?s:.*)") -> str:
        if ends is None:
            name = f"REST{len(self.rules)}"
            self.rules.append(f"{name}: /{anything}/{_without(excluded)}")
            return name
        if not ends or not all(ends):
            raise _wrong(path, "free text has to be followed by a fixed text, or to end the output")
        return self._until(ends, excluded, anything)

    def _until(self, ends: Sequence[str], excluded: Sequence[str], anything: str = "(?s:.*)") -> str:
        """Free text up to the first of the ends, with it."""
        self.literals += ends
        number = len(self.rules)
        behind = "|".join(map(spelled, ends))
        self.rules.append(f"free{number}[lazy]: FREE{number}")
        self.rules.append(f"FREE{number}: /{anything}({behind})/{_without(excluded)}")
        return f"free{number}"

    def _tag_of(self, tag: Any, path: str) -> Mapping[str, Any]:
        if not isinstance(tag, dict) or tag.keys() - {"type"} != {"begin", "content", "end"}:
            raise _wrong(path, "expected a tag: begin, content and end")
        return tag

    def _mark(self, mark: Any, path: str) -> str:
        if isinstance(mark, dict):
            if mark.get("type") != "token":
                raise _wrong(path, "expected a text, or a token")
            return self.write(mark, path, _OPEN, 0)
        return self._literal(mark, path)

    def _literal(self, text: Any, path: str) -> str:
        if text := _text(text, path):
            self.literals.append(text)
        return f"/{spelled(text)}/" if text else ""

    def _one_of(self, ends: Ends) -> str:
        if not ends or ends == ("",):
            return ""
        found = f"/{'|'.join(spelled(end) for end in ends if end)}/"
        self.literals += ends
        return f"({found})?" if "" in ends else found


_FREE = ("any_text", "triggered_tags", "dispatch")
_NO_NAME = frozenset("<>[] \t\n")
_OF_PARAMETERS = frozenset(("type", "properties", "required", "$defs", "additionalProperties", "description", "title"))
_FIELDS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "const_string": (("value",), {}),
    "json_schema": (("json_schema",), {"style": "json"}),
    "qwen_xml_parameter": (("json_schema",), {}),
    "any_text": ((), {"excludes": [], "max_chars": -1}),
    "regex": (("pattern",), {}),
    "grammar": (("grammar",), {}),
    "token": (("token",), {}),
    "sequence": (("elements",), {}),
    "or": (("elements",), {}),
    "tag": (("begin", "content", "end"), {}),
    "triggered_tags": (("triggers", "tags"), {"at_least_one": False, "stop_after_first": False, "excludes": []}),
    "tags_with_separator": (("tags", "separator"), {"at_least_one": False, "stop_after_first": False}),
    "optional": (("content",), {}),
    "plus": (("content",), {}),
    "star": (("content",), {}),
    "repeat": (("min", "max", "content"), {}),
    "dispatch": (("rules",), {"loop": True, "excludes": []}),
}
"""The fields that a format needs, and those that it may have with their defaults"""


def _beginning(format_: Any) -> str | None:
    """The fixed text with which a format begins, if it does."""
    if not isinstance(format_, dict):
        return None
    kind = format_.get("type")
    text = format_.get("value" if kind == "const_string" else "begin") if kind in ("const_string", "tag") else None
    return text if isinstance(text, str) and text else None


def _without(texts: Sequence[str]) -> str:
    return f" & ~/(?s:.*)({'|'.join(map(spelled, texts))})(?s:.*)/" if texts else ""


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _either(options: Any) -> str:
    found = [option or '""' for option in options]
    return f"({' | '.join(found)})"


def _list(value: Any, path: str, *, least: int = 0) -> list[Any]:
    if not isinstance(value, list) or len(value) < least:
        raise _wrong(path, "expected a list" if not least else "expected a list of one or more")
    return value


def _texts(value: Any, path: str, *, least: int = 0) -> list[str]:
    found = [_text(each, path) for each in _list(value, path, least=least)]
    if not all(found):
        raise _wrong(path, "expected texts, none of them empty")
    return found


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, f"expected text, and it is of type {type(value).__name__}")
    return value


def _wrong(path: str, what: str) -> RequestError:
    return RequestError(f"structured output: structural_tag.{path}: {what}", param="structured")
