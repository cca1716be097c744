"""Formats of templates that describe calls and do not write them, by a mark in the template."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.text.tools.format import ObjectCall, ToolFormat

_KNOWN: tuple[tuple[str, ToolFormat], ...] = (
    # Granite 3: "respond only with <|tool_call|> followed by a JSON list of tools used"
    ("<|tool_call|>", ToolFormat(body=ObjectCall(), section_open="<|tool_call|>[", separator=", ", section_close="]")),
)


def find_known(sources: Sequence[str]) -> ToolFormat | None:
    """The format of the first mark that is in one of the templates."""
    return next((format_ for mark, format_ in _KNOWN if any(mark in source for source in sources)), None)
