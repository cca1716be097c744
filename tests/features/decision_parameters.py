"""Parameters of /v1/decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from features.asking import Asking, Json
from features.catalogue import DECISIONS, Parameter, no_effect, works

CHOICE: Json = {"type": "choice", "instructions": "Who?", "choices": [{"value": "Lily"}, {"value": "a stone"}]}
PREDICATE: Json = {"type": "predicate", "instructions": "Lily is a girl."}
SCORE: Json = {"type": "score", "instructions": "How big?", "levels": [{"label": "small"}, {"label": "big"}]}


def _answers(ask: Asking, **fields: object) -> list[Json]:
    answers: list[Json] = ask.answer(**fields)["answers"]
    return answers


def _questions(ask: Asking) -> None:
    predicate, choice, score = _answers(ask, questions=[PREDICATE, CHOICE, SCORE])
    assert 0 < predicate["probability"] < 1
    assert sum(one["probability"] for one in choice["probabilities"]) == pytest.approx(1)
    best = max(choice["probabilities"], key=lambda one: one["probability"])
    assert choice["choice"] == best["value"]
    assert 0 < score["score"] < 1
    assert [choice] == _answers(ask, questions=[CHOICE])
    ask.refusal("questions", questions=[{**CHOICE, "choices": [{"value": "one"}]}])


def _input(ask: Asking) -> None:
    messages = [{"role": "user", "content": [{"type": "input_text", "text": "Lily has a ball."}]}]
    assert _answers(ask, input=messages) == _answers(ask, input="Lily has a ball.") != _answers(ask)
    ask.refusal("input", input="")


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, source="OpenAI", endpoints=(DECISIONS,))
    for one in (
        works("input", _input, "text, or messages; data as JSON"),
        works("questions", _questions, "predicate, choice and score; what one says does not depend on the others"),
        no_effect("safety_identifier", "me", why="a name for the provider's records; there are none"),
        no_effect("prompt_cache_key", "key", why="a hint which requests share a prefix; all that do are found"),
        no_effect("prompt_cache_options", {"mode": "implicit"}, why="prefixes are always shared; others are a 400"),
    )
)
