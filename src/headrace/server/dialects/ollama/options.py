"""`options` → SamplingParams: Ollama's names, and its defaults where the model recommends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import JsonObject, Served
from headrace.server.dialects.ollama.requests import Options
from headrace.structured_output import StructuredOutput

DEFAULTS: Mapping[str, float] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's, by the names of SamplingParams, where a request and the model's generation_config say nothing"""

LAST_N = 64
"""How many of the last tokens a request's penalties see, if it does not say: Ollama's default. A penalty that the model
recommends sees all, as its maker means it."""
_PENALTIES = ("repeat_penalty", "presence_penalty", "frequency_penalty")

_SAME = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "seed", "stop"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)
PARAM_NAMES: Mapping[str, str] = {
    **{name: f"options.{name}" for name in _SAME},
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "penalty_last_n": "options.repeat_last_n",
    "structured": "format",
    "logprobs": "top_logprobs",
    "reasoning_effort": "think",
}
"""What this dialect calls the engine's parameters"""

_ONLY: Mapping[str, tuple[Any, str]] = {
    "tfs_z": (1.0, "tail-free sampling is not implemented; leave it out, or use min_p"),
    "penalize_newline": (True, "line breaks are penalised like all tokens; leave it out"),
    "f16_kv": (True, "the type of the KV cache is said when the server starts (--kv-dtype); leave it out"),
    "vocab_only": (False, "the model is loaded; leave it out"),
    "embedding_only": (False, "leave it out"),
}
"""Options that are refused unless they ask for what happens anyway"""


def check_options(options: Options) -> None:
    """Refuse what is not implemented.

    Raises:
        UnsupportedParameter: an option asks for it.
    """
    for name, (neutral, hint) in _ONLY.items():
        if getattr(options, name) not in (None, neutral):
            param = f"options.{name}"
            raise UnsupportedParameter(f"{param} is not supported here: {hint}", param=param)


def context_of(options: Options, served: Served) -> int:
    """Most tokens of prompt and output.

    Raises:
        RequestError: num_ctx is negative.
    """
    asked = options.num_ctx or served.max_context
    if asked < 0:
        raise RequestError(f"options.num_ctx is {asked}, expected a number of tokens", param="options.num_ctx")
    return min(asked, served.max_context)


def sampling_params(
    options: Options, served: Served, *, structured: StructuredOutput | None, logprobs: int | None
) -> SamplingParams:
    """The parameters of a request.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    values: JsonObject = {**DEFAULTS, **served.card.recommended}
    values |= {name: value for name in _SAME if (value := getattr(options, name)) is not None}
    if options.repeat_penalty is not None:
        values["repetition_penalty"] = options.repeat_penalty
    if options.repeat_last_n is not None:
        values["penalty_last_n"] = options.repeat_last_n
    elif any(getattr(options, name) is not None for name in _PENALTIES):
        values["penalty_last_n"] = LAST_N
    try:
        return SamplingParams(**values, max_tokens=_max_tokens(options), structured=structured, logprobs=logprobs)
    except RequestError as error:
        error.param = PARAM_NAMES.get(error.param or "", error.param)
        raise


def effective_defaults(served: Served) -> Mapping[str, float]:
    """What a request that says nothing gets, by Ollama's names."""
    values = {**DEFAULTS, **served.card.recommended}
    return {{"repetition_penalty": "repeat_penalty"}.get(name, name): value for name, value in values.items()}


def _max_tokens(options: Options) -> int | None:
    asked = options.num_predict
    if asked in (None, -1, -2):
        return None
    if asked < 1:
        message = f"options.num_predict is {asked}, expected 1 or more, or -1 (until the end)"
        raise RequestError(message, param="options.num_predict")
    return asked
