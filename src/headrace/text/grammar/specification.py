"""StructuredOutput → the text of a grammar, checked: what cannot be enforced is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput
from headrace.text.grammar import gbnf, regex, structural_tag, tag_format
from headrace.text.grammar.endless import endless_rules
from headrace.text.grammar.json_schema import checked_schema

_MOST_HINTS = 100
_MOST_OF_CHOICES = 50_000
_LONGEST_HINT = 200
_JSON_TEXT = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"')
_TEXT, _NOT_GRAMMAR = re.compile('"'), re.compile(r"""["'\[\#]|//""")
"""Where a text begins; or any quoted part or comment"""
_QUOTED = {
    '"': re.compile(r'(?:[^"\\\n]|\\.)*'),
    "'": re.compile(r"(?:[^'\\\n]|\\.)*"),
    "[": re.compile(r"(?:[^\]\\\n]|\\.)*"),
    "#": re.compile(r"[^\n]*"),
    "//": re.compile(r"[^\n]*"),
}
"""What may stand behind an opening sign, up to the closing one"""
_CLOSING = {'"': '"', "'": "'", "[": "]", "#": "", "//": ""}
_LARK_START = re.compile(r"^[ \t]*[?!]?start[ \t]*:", re.MULTILINE)
_LARK_RULE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*[ \t]*:", re.MULTILINE)
_LARK_ATTRIBUTES = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*\[([^\]\n]*)\][ \t]*:", re.MULTILINE)
_KNOWN_ATTRIBUTES = ("lazy", "capture", "suffix")
"""stop goes back over tokens, max_tokens takes away taking back, and temperature is the sampler's"""
_TOKEN_IDS = re.compile(r"<[ \t]*\[|<[ \t]*>")
"""The brackets are gone where quoted parts are"""
_INLINE_JSON = re.compile(r"%json\s*")
_LONGEST_GRAMMAR = 50_000
_MOST_RULES = 1_000
_ANY_OBJECT = {"type": "object"}


def grammar_text(structured: StructuredOutput) -> str:
    """The grammar of what a request asks for, as text: all that has to be known to compile it.

    Raises:
        RequestError: a keyword or construct cannot be enforced (the message names it), or it is malformed.
    """
    if structured.schema is not None:
        return json_grammar(_parse_json("json", structured.schema), structured)
    if structured.json_object:
        return json_grammar(_ANY_OBJECT, structured)
    if structured.regex is not None:
        return regex_grammar(structured.regex)
    if structured.choice is not None:
        if sum(map(len, structured.choice)) > _MOST_OF_CHOICES:
            raise _wrong(f"choice has more than {_MOST_OF_CHOICES:,} characters; make it smaller")
        texts = map(regex.spelled, structured.choice)
        return _as_text({"lark_grammar": f"start: /{'|'.join(texts)}/"}, structured.choice[:_MOST_HINTS])
    if structured.grammar is not None:
        return _written_grammar(structured.grammar)
    assert structured.tag is not None
    return _tag_grammar(_parse_json("structural_tag", structured.tag))


def json_grammar(schema: Any, options: StructuredOutput | None = None) -> str:
    """The text of a grammar of JSON that satisfies a schema.

    Raises:
        RequestError: a keyword cannot be enforced or is malformed; the message has its path.
    """
    checked, hints = _library_schema(schema, options)
    return _as_text({"json_schema": checked}, hints)


def inline_json(schema: Any) -> str:
    """JSON that satisfies a schema, as an expression inside of a Lark rule.

    Raises:
        RequestError: as for `json_grammar`.
    """
    return f"%json {json.dumps(_library_schema(schema, None)[0], ensure_ascii=False)}"


def _library_schema(schema: Any, options: StructuredOutput | None) -> tuple[dict[str, Any], list[str]]:
    """The schema as the library enforces it in full, and texts that match its patterns."""
    close_objects = options is not None and options.disable_additional_properties
    checked = checked_schema(schema, close_objects=close_objects)
    found = checked.schema
    if isinstance(found, bool):
        found = {} if found else {"allOf": [False]}
    writing = _white_space(options)
    if checked.has_escaped_names:
        writing["json_allowed_escapes"] = 'nrbtf\\"'
    hints = [json.dumps(example, ensure_ascii=False)[1:-1] for example in checked.examples]
    return {**found, "x-guidance": writing}, hints


def regex_grammar(expression: str) -> str:
    """The text of a grammar of what matches a regular expression as a whole.

    Raises:
        RequestError: it is malformed, cannot be enforced or stands for too much.
    """
    found = _expression("regex", expression)
    return _as_text({"lark_grammar": f"start: /{found.text}/"}, [found.example])


def lark_grammar(lark: str, *, is_written: bool = False) -> str:
    """The text of a grammar in llguidance's Lark; a client wrote it, or we did.

    Raises:
        RequestError: one of its rules never ends.
    """
    _refuse_endless(lark)
    texts = (lark[start:end] for start, end in _quoted(lark, _TEXT))
    hints = [json.loads(text) for text in islice(filter(_JSON_TEXT.fullmatch, texts), _MOST_HINTS)]
    return _as_text({"lark_grammar": lark}, hints, is_written=is_written)


def _written_grammar(text: str) -> str:
    """Whichever of the three it is: only GBNF and EBNF have ::=, and Lark begins rules with a colon."""
    if len(text) > _LONGEST_GRAMMAR:
        raise _wrong(f"grammar has {len(text):,} characters, more than {_LONGEST_GRAMMAR:,}; make it smaller")
    outside = _outside(text)
    if "::=" in outside:
        try:
            lark, literals = gbnf.as_lark(text)
        except gbnf.GbnfError as error:
            raise _wrong(f"grammar: {error}") from error
        _refuse_endless(lark)
        return _as_text({"lark_grammar": lark}, literals[:_MOST_HINTS], is_written=True)
    if _LARK_START.search(outside) is None:
        raise _wrong(
            'grammar: expected Lark, with a rule "start: …", or GBNF or EBNF, with "root ::= …"; there is neither'
        )
    if len(_LARK_RULE.findall(outside)) > _MOST_RULES:
        raise _wrong(f"grammar has more than {_MOST_RULES:,} rules; make it smaller")
    for attributes in _LARK_ATTRIBUTES.findall(text):
        for name in (each.partition("=")[0].strip() for each in attributes.split(",")):
            if name not in _KNOWN_ATTRIBUTES:
                raise _wrong(f"grammar: the attribute {name!r} of a rule is not supported; leave it out")
    if _TOKEN_IDS.search(outside) is not None:
        raise _wrong("grammar: token ids <[…]> are not supported; name special tokens as <|name|>")
    return lark_grammar(_with_checked_schemas(text), is_written=True)


def _outside(text: str) -> str:
    """What is neither quoted nor a comment."""
    parts = []
    at = 0
    for start, end in _quoted(text, _NOT_GRAMMAR):
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])


def _quoted(text: str, opening: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends that one of `opening` begins; on a line.

    A part that does not end is none, and nor are those in it: to look for the end of each of many takes minutes.
    """
    at = 0
    failed: dict[str, int] = {}
    while (found := opening.search(text, at)) is not None:
        at, sign = found.end(), found[0]
        if found.start() < failed.get(sign, 0):
            continue
        body = _QUOTED[sign].match(text, at)
        assert body is not None
        if text.startswith(_CLOSING[sign], body.end()):
            at = body.end() + len(_CLOSING[sign])
            yield found.start(), at
        else:
            failed[sign] = body.end()


def _refuse_endless(lark: str) -> None:
    if endless := endless_rules(lark):
        raise _wrong(f"grammar: no text satisfies the rule {endless[0]}: it always holds itself again; let it end")


def _tag_grammar(tag: Any) -> str:
    """Either form: with structures and triggers, or with a format."""
    if not isinstance(tag, dict) or "format" not in tag:
        lark, literals = structural_tag.as_lark(tag, inline_json)
        return _as_text({"lark_grammar": lark}, literals)
    if tag.keys() - {"type"} != {"format"} or tag.get("type", "structural_tag") != "structural_tag":
        raise _wrong("structural_tag: expected type structural_tag and format, and nothing beside")
    others: list[dict[str, Any]] = []
    hints: list[str] = []

    def written(text: str) -> str:
        found = json.loads(_written_grammar(text))
        hints.extend(found["hints"])
        others.append({**found["grammar"]["grammars"][0], "name": f"grammar_{len(others)}"})
        return f"@grammar_{len(others) - 1}"

    def matching(expression: str) -> str:
        found = _expression("structural_tag: pattern", expression)
        hints.append(found.example)
        return f"/{found.text}/"

    inner = tag_format.Inner(json=inline_json, regex=matching, grammar=written)
    lark, literals = tag_format.as_lark(tag["format"], inner)
    return _as_text({"lark_grammar": lark}, [*hints, *literals], others, is_written=bool(others))


def _with_checked_schemas(lark: str) -> str:
    """Every `%json {…}` checked as a schema of its own."""
    parts: list[str] = []
    at = 0
    while (found := _INLINE_JSON.search(lark, at)) is not None:
        try:
            schema, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError) as error:
            raise _wrong(f"grammar: %json is not followed by JSON ({error})") from error
        parts += [lark[at : found.start()], inline_json(schema)]
        at = end
    return "".join([*parts, lark[at:]])


def _wrong(message: str) -> RequestError:
    return RequestError(f"structured output: {message}", param="structured")


def _white_space(options: StructuredOutput | None) -> dict[str, Any]:
    """The library's options: as json.dumps writes, without choice, where nothing else is asked for."""
    if options is not None and options.whitespace_pattern is not None:
        return {"whitespace_pattern": _expression("whitespace_pattern", options.whitespace_pattern).text}
    if options is not None and options.disable_any_whitespace:
        return {"whitespace_flexible": False}
    return {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _as_text(
    grammar: dict[str, Any], hints: Sequence[str], others: Sequence[dict[str, Any]] = (), *, is_written: bool = False
) -> str:
    """What `compiler.Grammars` takes: the library's grammar, others that it names, texts that help to find endings, and
    whether a client wrote a part of it."""
    hints = [hint for hint in dict.fromkeys(hints) if 0 < len(hint) <= _LONGEST_HINT]
    parts = {"grammar": {"grammars": [grammar, *others]}, "hints": hints, "is_written": is_written}
    text = json.dumps(parts, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start : error.end].encode("unicode_escape").decode()
        raise _wrong(f"{half} is half a character, which no output can have; leave it out") from None
    return text


def _expression(name: str, expression: str) -> regex.Expression:
    try:
        return regex.whole(expression)
    except regex.RegexError as error:
        raise _wrong(f"{name}: {error}") from error


def _parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{name} is not JSON ({error})") from error
