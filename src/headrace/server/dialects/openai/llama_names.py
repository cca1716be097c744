"""llama-server's own names of what has another one in OpenAI's and vLLM's APIs; it takes them on OpenAI's paths too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import RequestError
from headrace.server.dialects.openai.requests import SharedFields

_OURS: Mapping[str, str] = {
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "penalty_last_n",
    "typ_p": "typical_p",
}


def sampling_values(fields: SharedFields) -> dict[str, Any]:
    """What a request says by these names, by those of SamplingParams.

    Raises:
        RequestError: it says something else by the other name.
    """
    found = {}
    for theirs, ours in _OURS.items():
        value, other = getattr(fields, theirs), getattr(fields, ours, None)
        if value is None:
            continue
        if other is not None and other != value:
            raise RequestError(f"{theirs} is {value:g} and {ours} is {other:g}; send one of them", param=theirs)
        found[ours] = value
    return found


def in_their_names(error: RequestError, fields: SharedFields) -> RequestError:
    """An error of SamplingParams, about the field as the request has it."""
    for theirs, ours in _OURS.items():
        if error.param == ours and getattr(fields, theirs) is not None:
            return RequestError(str(error).replace(ours, theirs, 1), param=theirs)
    return error
