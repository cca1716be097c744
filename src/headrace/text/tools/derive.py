"""A model's tool-call format, read off what its chat template makes of calls that nobody could mistake.

Three turns are rendered (one call, two calls, a call without arguments). What stands around the names and arguments is
the format. Where a template writes no calls, `known` has an entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from headrace.errors import HeadraceError
from headrace.text.tools.format import (
    ID_MARK,
    CallBody,
    IdForm,
    NamedCall,
    ObjectCall,
    PythonCall,
    TaggedCall,
    ToolFormat,
    named_call_id,
)

Render: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None, bool], str]
"""(messages, tools, add_generation_prompt) to text; raises HeadraceError"""

_NAMES = ("headrace_first", "headrace_second")
_KEYS = ("place_key", "count_key")
_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {_KEYS[0]: "Bremen", _KEYS[1]: 731},
    {_KEYS[0]: "Lisbon", _KEYS[1]: 519},
)
_IDS = ("hrProbe01", "hrProbe02")
_LONG_ID = "call_headrace_probe"
_BEFORE_NAME = named_call_id(_NAMES[0], 0).partition(_NAMES[0])[0]
_PYTHON = (r"\(", r"=[\"']?", r"[\"']?\s*,\s*", r"=[\"']?")
"""What stands between NAME, KEY, VALUE, KEY and VALUE; some templates write values without quotes, or all with them"""
_PYTHON_END = re.compile(r"[\"']?\)")
_QUESTION = {"role": "user", "content": "How is it there?"}
_ANSWER = "HEADRACE-ANSWERS"


class _Call(NamedTuple):
    """Where a call's parts stand in a rendered turn, end exclusive."""

    name: tuple[int, int]
    arguments: tuple[int, int]


def probe_tools() -> list[dict[str, Any]]:
    """The tools that the probes call."""
    properties = {
        _KEYS[0]: {"type": "string", "description": "Where"},
        _KEYS[1]: {"type": "integer", "description": "How many"},
    }
    parameters = {"type": "object", "properties": properties, "required": list(_KEYS)}
    return [
        {"type": "function", "function": {"name": name, "description": "Look there", "parameters": parameters}}
        for name in _NAMES
    ]


def probe_turn(calls: Sequence[int], *, ids: Sequence[str] = _IDS, has_arguments: bool = True) -> dict[str, Any]:
    """An assistant's turn with probe calls."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": ids[at],
                "type": "function",
                "function": {"name": _NAMES[at], "arguments": _ARGUMENTS[at] if has_arguments else {}},
            }
            for at in calls
        ],
    }


def derive_format(render: Render, drop: Sequence[str] = ()) -> ToolFormat | None:
    """The format of a template that writes calls; None if it writes none, or in a way that is not understood.

    `drop` are markers of thoughts, which a template may write, empty, before the calls.
    """
    turns = _Turns(render, drop)
    one, two = turns.render(probe_turn([0])), turns.render(probe_turn([0, 1]))
    if one is None or _NAMES[0] not in one:
        return None
    found = _locate(one, 0)
    if found is None:
        return _python(turns, one, two) or _tagged(turns, one, two)
    call, body = found
    first, second = (None, None) if two is None else (_locate(two, 0), _locate(two, 1))
    if two is None or first is None or second is None:
        return _assemble(turns, body, one[: call.name[0]], None, one[call.arguments[1] :])
    (one_call, _), (other_call, _) = first, second
    before, after = two[: one_call.name[0]], two[other_call.arguments[1] :]
    middle = two[one_call.arguments[1] : other_call.name[0]]
    return _assemble(turns, body, before, middle, after)


class _Turns:
    """Renders an assistant's turn alone: without what leads to it and the mark of its end."""

    def __init__(self, render: Render, drop: Sequence[str]) -> None:
        self._render = render
        self._drop = drop
        self._tools = probe_tools()
        prompt = self._try([_QUESTION], add_generation_prompt=True) or ""
        for marker in drop:
            if prompt.rstrip().endswith(marker):
                prompt = prompt.rstrip().removesuffix(marker)
        plain = self._try([_QUESTION, {"role": "assistant", "content": _ANSWER}])
        self._prompt = prompt
        self._end = plain.rpartition(_ANSWER)[2] if plain and _ANSWER in plain else ""

    def render(self, turn: Mapping[str, Any]) -> str | None:
        """The turn's own text; None if the template refuses it."""
        text = self._try([_QUESTION, turn])
        if text is None:
            return None
        before = _common_start(text, self._prompt)
        before = before if before == self._prompt else _whole_markers(before)
        text = text[len(before) :]
        text = text.removesuffix(self._end) if self._end else text
        for marker in self._drop:
            if text.lstrip().startswith(marker):
                text = text.lstrip().removeprefix(marker).lstrip()
        return text

    def wants_short_ids(self) -> bool:
        """Whether ids of another form than Mistral's are refused."""
        return self.render(probe_turn([0], ids=(_LONG_ID, _LONG_ID))) is None

    def _try(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str | None:
        try:
            return self._render(messages, self._tools, add_generation_prompt)
        except HeadraceError:
            return None


def _locate(text: str, index: int) -> tuple[_Call, CallBody] | None:
    """Probe call `index` in a turn: as an object, or as a name followed by JSON."""
    at = text.find(_NAMES[index])
    if at < 0:
        return None
    name = (at, at + len(_NAMES[index]))
    start, end = _find_json(text, name[1], _ARGUMENTS[index])
    if start < 0:
        return None
    for opening in _positions(text, "{", name[0]):
        value, closing = _decode(text, opening)
        if isinstance(value, dict) and closing >= end and _NAMES[index] in value.values():
            keys = {json.dumps(content): key for key, content in value.items()}
            body = ObjectCall(
                before_name=text[opening : name[0]],
                after_name=text[name[1] : start],
                after_arguments=_mark_id(text[end:closing], index),
                name_key=keys[json.dumps(_NAMES[index])],
                arguments_key=keys.get(json.dumps(_ARGUMENTS[index]), ""),
            )
            return (_Call((opening, name[1]), (start, closing)), body) if body.arguments_key else None
    after_name = _mark_id(text[name[1] : start], index)
    if text[: name[0]].endswith(_BEFORE_NAME) and after_name.startswith(f":{index}"):
        after_name = after_name.replace(f":{index}", f":{ID_MARK}", 1)
    return _Call(name, (start, end)), NamedCall(after_name)


def _find_json(text: str, start: int, expected: Any) -> tuple[int, int]:
    for at in _positions(text, "{", len(text)):
        if at >= start:
            value, end = _decode(text, at)
            if value == expected:
                return at, end
    return -1, -1


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except ValueError:
        return None, -1


def _positions(text: str, character: str, end: int) -> list[int]:
    """Where a character stands before `end`, the last first: the innermost object is looked at first."""
    return [at for at in range(min(end, len(text)) - 1, -1, -1) if text[at] == character]


def _mark_id(literal: str, index: int) -> str:
    return literal.replace(_IDS[index], ID_MARK)


def _assemble(turns: _Turns, body: CallBody, before: str, middle: str | None, after: str) -> ToolFormat:
    """`middle` is what stands between two calls; what it shares with the ends opens and closes a call."""
    if middle is None:
        format_ = ToolFormat(body=body, section_open=before, section_close=after, separator="; ")
        return _with_ids(format_, turns, has_parallel_calls=False)
    close = _whole_markers(_common_start(middle, after))
    rest = middle[len(close) :]
    call_open = _common_start(rest[::-1], before[::-1])[::-1]
    return _with_ids(
        ToolFormat(
            body=body,
            section_open=before[: len(before) - len(call_open)],
            call_open=call_open,
            call_close=close,
            separator=rest[: len(rest) - len(call_open)],
            section_close=after[len(close) :],
        ),
        turns,
        has_parallel_calls=True,
    )


def _with_ids(format_: ToolFormat, turns: _Turns, *, has_parallel_calls: bool) -> ToolFormat:
    ids = IdForm.SHORT if turns.wants_short_ids() else IdForm.ANY
    body = format_.body
    if isinstance(body, NamedCall) and body.after_name.startswith(f":{ID_MARK}"):
        ids = IdForm.NAMED
    return replace(format_, ids=ids, has_parallel_calls=has_parallel_calls)


def _python(turns: _Turns, one: str, two: str | None) -> ToolFormat | None:
    """NAME(KEY=VALUE, KEY=VALUE)"""
    pieces = _between(one, (_NAMES[0], _KEYS[0], "Bremen", _KEYS[1], "731"))
    if pieces is None or not all(map(re.fullmatch, _PYTHON, pieces[1:-1])):
        return None
    end = _PYTHON_END.match(pieces[-1])
    both = None if two is None else _between(two, (_NAMES[0], "731", _NAMES[1], "519"))
    if end is None:
        return None
    if both is None:
        return _assemble(turns, PythonCall(), pieces[0], None, pieces[-1][end.end() :])
    before, _, middle, _, last = both
    return _assemble(turns, PythonCall(), before, _PYTHON_END.sub("", middle, 1), _PYTHON_END.sub("", last, 1))


def _tagged(turns: _Turns, one: str, two: str | None) -> ToolFormat | None:
    """Arguments one by one: KEY, VALUE, KEY, VALUE between tags."""
    none = turns.render(probe_turn([0], has_arguments=False))
    pieces = _between(one, (_NAMES[0], _KEYS[0], "Bremen", _KEYS[1], "731"))
    if pieces is None or none is None or _NAMES[0] not in none:
        return None
    before, to_key, to_value, to_next, to_last, after = pieces
    if to_value != to_last or not to_value:
        return None
    open_ = _common_start(to_key[::-1], to_next[::-1])[::-1]
    open_ = open_[max(open_.find("<"), 0) :]
    close = to_next[: len(to_next) - len(open_)]
    after_name = to_key[: len(to_key) - len(open_)]
    if not open_ or not close or not after.startswith(close.rstrip()):
        return None
    body = TaggedCall(after_name, open_, to_value, close)
    middle, last = None, after
    if two is not None:
        found = _between(two, (_NAMES[0], "731", _NAMES[1], "519"))
        if found is None:
            return None
        before, _, middle, _, last = found
    trim = len(close) if after.startswith(close) else len(close.rstrip())
    return _assemble(turns, body, before, None if middle is None else middle[trim:], last[trim:])


def _common_start(one: str, other: str) -> str:
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return one[:size]


def _whole_markers(start: str) -> str:
    """What two texts begin with, less the start of two markers that begin with the same letters."""
    return start[: start.rfind("<")] if start.rfind("<") > start.rfind(">") else start


def _between(text: str, needles: Sequence[str]) -> list[str] | None:
    """The text before, between and after needles that follow each other."""
    pieces: list[str] = []
    for needle in needles:
        piece, found, text = text.partition(needle)
        if not found:
            return None
        pieces.append(piece)
    return [*pieces, text]
