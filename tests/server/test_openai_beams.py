"""Beam search in OpenAI's dialect: what becomes of the fields, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.openai import parse_chat, parse_completion

WARM = SamplingParams(temperature=0.5, top_p=0.9, top_k=40, repetition_penalty=1.1)
"""A model's recommendations, which are for drawing"""


def chat(**fields: Any) -> SamplingParams:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_chat(json.dumps(body).encode(), WARM).params


def completion(**fields: Any) -> SamplingParams:
    return parse_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode(), WARM).params


def test_n_is_the_width_and_nothing_is_inherited() -> None:
    assert chat(use_beam_search=True, n=4, max_tokens=9) == SamplingParams(n=4, beam_width=4, max_tokens=9)
    assert completion(use_beam_search=True) == SamplingParams(n=1, beam_width=1)
    assert completion(use_beam_search=True, n=2, best_of=5) == SamplingParams(n=2, beam_width=5)
    assert chat(use_beam_search=True, n=2, length_penalty=0.5, early_stopping="never") == SamplingParams(
        n=2, beam_width=2, length_penalty=0.5, early_stopping="never", max_tokens=None
    )
    assert chat(use_beam_search=False, n=2).beam_width is None
    assert chat(temperature=0, use_beam_search=True).temperature == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"use_beam_search": True, "temperature": 0.7}, "temperature"),
        ({"use_beam_search": True, "top_p": 0.9}, "top_p"),
        ({"use_beam_search": True, "stop": "x"}, "stop"),
        ({"use_beam_search": True, "frequency_penalty": 0.1}, "frequency_penalty"),
        ({"use_beam_search": True, "response_format": {"type": "json_object"}}, "response_format"),
        ({"use_beam_search": True, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"use_beam_search": True, "n": 300}, "beam_width"),
        ({"use_beam_search": True, "early_stopping": "maybe"}, "early_stopping"),
        ({"use_beam_search": True, "early_stopping": "True"}, "early_stopping"),
        ({"use_beam_search": True, "length_penalty": 11}, "length_penalty"),
        ({"use_beam_search": True, "n": 3, "best_of": 2}, "best_of"),
        ({"use_beam_search": 1}, "use_beam_search"),
        ({"length_penalty": 0.5}, "length_penalty"),
        ({"early_stopping": True}, "early_stopping"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_beams_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        completion(**fields)
    assert refused.value.param == param
