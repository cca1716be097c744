"""Whether and how long a model thinks: what reasoning_effort means to it, and a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import RequestError
from headrace.text.answer import AnswerFormat, Reading
from headrace.text.channels import HARMONY
from headrace.text.chat import ChatTemplate
from headrace.types import Thinking

EFFORTS: Mapping[str, int | None] = {
    "none": 0,
    "auto": None,
    "default": None,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}
"""Most tokens of a thought, for models whose template knows no efforts; "default" thinks as the model does by itself,
"auto" too, and not at all where the model does not"""

_HARMONY_EFFORTS = ("low", "medium", "high")
_BY_ITSELF = ("auto", "default")
_SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates are told whether to think"""


def effort_means(
    effort: str | None, template: ChatTemplate, format_: AnswerFormat
) -> tuple[Mapping[str, Any], int | None]:
    """What a reasoning_effort means to a model: (variables of its template, most tokens of a thought or None).

    Raises:
        RequestError: there is no such effort, or the model does not think.
    """
    if effort is None:
        return {}, None
    if effort not in EFFORTS:
        raise RequestError(f"reasoning_effort is {effort!r}, expected {', '.join(EFFORTS)}", param="reasoning_effort")
    if template.reads("reasoning_effort") and effort not in _BY_ITSELF:
        if format_.channels is HARMONY and effort not in _HARMONY_EFFORTS:
            raise RequestError(
                f"reasoning_effort is {effort!r}; this model knows {', '.join(_HARMONY_EFFORTS)}",
                param="reasoning_effort",
            )
        return {"reasoning_effort": effort}, None
    switches = {name: effort != "none" for name in _SWITCHES if template.reads(name)}
    if not format_.has_thoughts and not switches:
        if effort in ("none", "auto"):
            return {}, None
        raise RequestError(
            "reasoning_effort: as far as its chat template shows, this model does not think; leave it out",
            param="reasoning_effort",
        )
    return switches, EFFORTS[effort]


def thinking_of(reading: Reading, most: int | None) -> Thinking | None:
    """How thoughts of at most so many tokens are told from the answers to a request; None where none can come.

    Raises:
        RequestError: the model's format leaves no room for such a bound.
    """
    channels, marks = reading.format.channels, reading.format.reasoning
    if channels is not None and channels.has_thoughts:
        if reading.asked is not None:  # the grammar of calls has the thought's message in it
            if most is None:
                return None
            raise RequestError(
                "thinking_token_budget cannot be used with tools for a model that answers in channels; leave it out",
                param="thinking_token_budget",
            )
        close = channels.closing[channels.closing.rindex("<|channel|>") :]
        return Thinking(open="", close=close, closing=channels.closing, behind="", is_open=True, most=most)
    if marks is None or reading.has_closed:
        return None
    return Thinking(
        open="" if reading.in_thought else marks.open,
        close=marks.close,
        closing=marks.closing,
        behind=marks.closing.partition(marks.close)[2],
        is_open=reading.in_thought,
        most=most,
    )
