"""POST /v1/decisions: OpenAI's shape; typed questions about an input, each answered by probabilities.

A question is put to the model as a message (as plain text, to a model without a chat template), and its options are the
labels of a decision: all that the model could say counts by the whole of its text, not by a letter that stands for it.
`confidence` is 1 less the distribution's entropy in units of the even one's.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec import Struct
from msgspec.json import encode

from headrace.errors import RequestError
from headrace.server.dialects.base import Inquiry, JsonObject, Served
from headrace.server.dialects.decode import Unsupported
from headrace.server.dialects.openai.decode import decode
from headrace.types import Decision

if TYPE_CHECKING:
    from headrace.async_llm import AsyncLLM

_UNSUPPORTED: Unsupported = {"prompt_cache_options": ({}, {"mode": "implicit"})}
_MAX_QUESTIONS, _MAX_CHOICES, _MAX_LEVELS = 400, 255, 255
_YES, _NO = "yes", "no"


class InputText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A piece of text."""

    text: str
    prompt_cache_breakpoint: dict[str, str] | None = None  # no effect: prefixes are always shared


class OutputText(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """What an assistant said."""

    text: str


class InputJson(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="input_json"):
    """Data, shown as JSON."""

    data: dict[str, Any] | list[dict[str, Any]]


Content: TypeAlias = str | list[InputText | OutputText | InputJson]


class InputMessage(Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of the evidence."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] | None = None


class Predicate(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="predicate"):
    """Is a statement true?"""

    instructions: Content
    name: str | None = None


class Option(Struct, kw_only=True, forbid_unknown_fields=True):
    """One of a choice's."""

    value: str | bool
    description: str | None = None


class Choice(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="choice"):
    """Which of several?"""

    instructions: Content
    choices: list[Option]
    name: str | None = None


class Level(Struct, kw_only=True, forbid_unknown_fields=True):
    """One of a score's."""

    label: str
    description: str | None = None


class Score(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="score"):
    """How much, on a scale that begins with the lowest level?"""

    instructions: Content
    levels: list[Level]
    name: str | None = None


Question: TypeAlias = Predicate | Choice | Score


class DecisionFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/decisions."""

    model: str
    input: str | list[InputMessage]
    questions: list[Question]
    safety_identifier: str | None = None  # no effect, as the one below
    prompt_cache_key: str | None = None


def parse_decisions(body: bytes) -> Inquiry:
    """Parse POST /v1/decisions.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, DecisionFields, _UNSUPPORTED)
    evidence = _evidence(fields.input)
    if not evidence.strip():
        raise RequestError("input is empty, expected what the questions are about", param="input")
    if not 1 <= len(fields.questions) <= _MAX_QUESTIONS:
        raise RequestError(
            f"questions has {len(fields.questions)} entries, expected 1 to {_MAX_QUESTIONS}", param="questions"
        )
    for at, question in enumerate(fields.questions):
        _check(question, f"questions[{at}]")
    asked = [(f"{evidence}\n\n{_text_of(question)}", _labels(question)) for question in fields.questions]
    ask = partial(_ask, asked)
    return Inquiry(model=fields.model, ask=ask, ask_adapter=ask, render=partial(_render, fields.questions))


async def _ask(asked: Sequence[tuple[str, Sequence[str]]], llm: AsyncLLM, adapter: str | None = None) -> list[Decision]:
    """Decide about each (text, labels): the first alone, so that the others find the evidence computed."""

    async def one(at: int) -> Decision:
        text, labels = asked[at]
        try:
            if llm.chat_template is None:
                return await llm.decide(f"{text}\nAnswer:", [f" {label}" for label in labels], adapter=adapter)
            message = {"role": "user", "content": text}
            return await llm.decide([message], labels, chat_template_kwargs={"enable_thinking": False}, adapter=adapter)
        except RequestError as error:
            error.param = f"questions[{at}]"
            raise

    first = await one(0)
    tasks = [asyncio.create_task(one(at)) for at in range(1, len(asked))]
    try:
        return [first, *await asyncio.gather(*tasks)]
    finally:
        for task in tasks:
            task.cancel()


def _evidence(given: str | Sequence[InputMessage]) -> str:
    if isinstance(given, str):
        return given
    if all(message.role == "user" for message in given):
        return "\n".join(_plain(message.content) for message in given)
    return "\n".join(f"{message.role}: {_plain(message.content)}" for message in given)


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        json.dumps(part.data, ensure_ascii=False, separators=(",", ":")) if isinstance(part, InputJson) else part.text
        for part in content
    )


def _check(question: Question, path: str) -> None:
    if not _plain(question.instructions).strip():
        raise RequestError(f"{path}.instructions is empty", param=f"{path}.instructions")
    if isinstance(question, Predicate):
        return
    name, most = ("choices", _MAX_CHOICES) if isinstance(question, Choice) else ("levels", _MAX_LEVELS)
    labels = _labels(question)
    if not 2 <= len(labels) <= most:
        raise RequestError(f"{path}.{name} has {len(labels)} entries, expected 2 to {most}", param=f"{path}.{name}")
    seen: set[str] = set()
    for label in labels:
        if not label.strip() or label in seen:
            what = "is there twice (true and false read like their names)" if label.strip() else "is empty"
            raise RequestError(f"{path}.{name}: {label!r} {what}", param=f"{path}.{name}")
        seen.add(label)


def _labels(question: Question) -> list[str]:
    if isinstance(question, Predicate):
        return [_YES, _NO]
    if isinstance(question, Choice):
        return [_shown(option.value) for option in question.choices]
    return [level.label for level in question.levels]


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text_of(question: Question) -> str:
    """The question in words, behind the evidence."""
    instructions = _plain(question.instructions)
    if isinstance(question, Predicate):
        return f"Is this true? {instructions}\nAnswer with {_YES} or {_NO}, and nothing else."
    if isinstance(question, Choice):
        options = [(_shown(option.value), option.description) for option in question.choices]
        task = "Answer with one of these, and nothing else:"
    else:
        options = [(level.label, level.description) for level in question.levels]
        task = "Answer with one of these levels, the lowest first, and nothing else:"
    lines = [f"- {label}: {description}" if description else f"- {label}" for label, description in options]
    return "\n".join([instructions, task, *lines])


def _render(questions: Sequence[Question], decisions: Sequence[Decision], served: Served) -> bytes:
    prompt = sum(decision.usage.prompt_tokens for decision in decisions)
    cached = sum(decision.usage.cached_tokens for decision in decisions)
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt,
    }
    answers = [_answer(question, decision) for question, decision in zip(questions, decisions, strict=True)]
    return encode({"model": served.name, "answers": answers, "usage": usage})


def _answer(question: Question, decision: Decision) -> JsonObject:
    shares = [score.probability for score in decision.scores.values()]
    if isinstance(question, Predicate):
        return {"type": "predicate", "name": question.name, "probability": shares[0]}
    confidence = 1 + math.fsum(share * math.log(share) for share in shares if share > 0) / math.log(len(shares))
    if isinstance(question, Choice):
        values = [option.value for option in question.choices]
        return {
            "type": "choice",
            "name": question.name,
            "choice": values[shares.index(max(shares))],
            "confidence": max(confidence, 0.0),
            "probabilities": [{"value": v, "probability": p} for v, p in zip(values, shares, strict=True)],
        }
    return {
        "type": "score",
        "name": question.name,
        "score": math.fsum(value * share for value, share in enumerate(shares)),
        "confidence": max(confidence, 0.0),
        "probabilities": [
            {"label": level.label, "value": value, "probability": share}
            for value, (level, share) in enumerate(zip(question.levels, shares, strict=True))
        ],
    }
