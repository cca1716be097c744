"""Formats of templates that describe calls, or only tools, and do not write calls: by a mark in the template."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.text.tools.format import ID_MARK, IdForm, NamedCall, ObjectCall, PythonCall, ToolFormat

_KNOWN: tuple[tuple[str, ToolFormat], ...] = (
    # Granite 3: "respond only with <|tool_call|> followed by a JSON list of tools used"
    ("<|tool_call|>", ToolFormat(body=ObjectCall(), section_open="<|tool_call|>[", separator=", ", section_close="]")),
    (
        "<|tool_list_start|>",  # LFM2
        ToolFormat(
            body=PythonCall(),
            section_open="<|tool_call_start|>[",
            separator=", ",
            section_close="]<|tool_call_end|>",
        ),
    ),
    (
        "<|im_system|>tool_declare<|im_middle|>",  # Kimi K2's first template
        ToolFormat(
            body=NamedCall(f":{ID_MARK}<|tool_call_argument_begin|>"),
            section_open="<|tool_calls_section_begin|>",
            call_open="<|tool_call_begin|>functions.",
            call_close="<|tool_call_end|>",
            section_close="<|tool_calls_section_end|>",
            ids=IdForm.NAMED,
        ),
    ),
)


def find_known(sources: Sequence[str]) -> ToolFormat | None:
    """The format of the first mark that is in one of the templates."""
    return next((format_ for mark, format_ in _KNOWN if any(mark in source for source in sources)), None)
