"""StructuredOutput → the text of a grammar, checked: what cannot be enforced is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from headrace.errors import RequestError
from headrace.structured_output import StructuredOutput

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions


def grammar_text(structured: StructuredOutput) -> str:
    """The grammar of what a request asks for, as text: all that has to be known to compile it.

    Raises:
        RequestError: a keyword or construct cannot be enforced (the message names it), or it is malformed.
    """
    if structured.schema is not None:
        return _json_grammar(_parse_json("json", structured.schema), structured)
    if structured.json_object:
        return _json_grammar({"type": "object"}, structured)
    if structured.regex is not None:
        return LLMatcher.grammar_from_regex(structured.regex)
    if structured.choice is not None:
        return lark_grammar("start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in structured.choice))
    if structured.grammar is not None:
        return lark_grammar(structured.grammar)
    raise RequestError("structured output: structural_tag is not supported yet; leave it out", param="structured")


def lark_grammar(lark: str) -> str:
    """The text of a grammar in llguidance's Lark."""
    return LLMatcher.grammar_from_lark(lark)


def _json_grammar(schema: Any, structured: StructuredOutput) -> str:
    options: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if structured.whitespace_pattern is not None:
        options = {"whitespace_pattern": structured.whitespace_pattern}
    elif structured.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    return LLMatcher.grammar_from_json_schema(schema, overrides=options)


def _parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"structured output: {name} is not JSON ({error})", param="structured") from error
