"""Bodies of llama-server's /completion and /infill into Calls. Every mistake is a RequestError that names its field."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, Incoming, Served, TextPrompt
from headrace.server.dialects.decode import Words, decode
from headrace.server.dialects.llama_fields import UNSUPPORTED
from headrace.server.dialects.llama_server.render import CompletionRenderer, RenderOptions
from headrace.server.dialects.llama_server.requests import (
    DEFAULTS,
    CompletionFields,
    InfillFields,
    LogitBias,
    Prompt,
)
from headrace.structured_output import StructuredOutput

PARAM_NAMES = {
    "max_tokens": "n_predict",
    "n": "n_cmpl",
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
    "logprobs": "n_probs",
    "structured": "grammar",
}
_WORDS = Words(
    instead={
        "samplers": "leave it out: the order of the filters is this engine's own",
        "post_sampling_probs": "leave it out: probabilities are the model's own, before any filter",
    }
)
_SAME_NAME = (
    *("dynatemp_range", "dynatemp_exponent", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold"),
    *("presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length"),
    *("dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "stop", "ignore_eos"),
)
_RANDOM_SEEDS = (-1, 2**32 - 1)
_BAN = -1e6


def parse_completion(incoming: Incoming, served: Served) -> Call:
    """Parse POST /completion and /completions.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, CompletionFields, UNSUPPORTED, _WORDS)
    if fields.prompt is None:
        raise RequestError("prompt is required", param="prompt")
    return _call(fields, [TextPrompt(prompt=prompt) for prompt in prompts(fields.prompt, "prompt")], served)


def parse_infill(incoming: Incoming, served: Served) -> Call:
    """Parse POST /infill: what stands between two texts, for models that have tokens for that.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, InfillFields, UNSUPPORTED, _WORDS)
    if served.infill is None:
        raise UnsupportedParameter(f"{served.name} has no tokens to fill in the middle with; use /completion")
    if not isinstance(fields.prompt, str | None):
        raise RequestError("prompt is a list, expected the text that the middle begins with", param="prompt")
    extra = "".join(_extra(one.filename, one.text) for one in fields.input_extra or ())
    parts = served.infill.prompt(extra + fields.input_prefix, fields.input_suffix, fields.prompt or "")
    return _call(fields, [TextPrompt(prompt=parts)], served)


def prompts(given: Prompt, name: str) -> list[str | Sequence[int | str]]:
    """The prompts that a field means: a list with a token id in it is one prompt, any other a list of prompts.

    Raises:
        RequestError: one of them is empty.
    """
    if isinstance(given, str):
        return [given]
    if any(isinstance(part, int) for part in given):
        if any(isinstance(part, list) for part in given):
            raise RequestError(f"{name} mixes token ids with lists, expected one kind", param=name)
        return [[part for part in given if not isinstance(part, list)]]
    found = [part for part in given if not isinstance(part, int)]
    if not found or not all(isinstance(prompt, str) or prompt for prompt in found):
        raise RequestError(f"{name} is empty, expected text, token ids or a list of them", param=name)
    return found  # type: ignore[return-value]


def _extra(name: str | None, text: str) -> str:
    return f"{text}\n" if name is None else f"{name}\n{text}\n"


def _call(fields: CompletionFields, given: Sequence[TextPrompt], served: Served) -> Call:
    settings = _settings(fields)
    num_tokens = settings["n_predict"]
    prompt_only = num_tokens == 0
    params = _sampling_params(fields, settings)
    options = RenderOptions(
        n=params.n,
        num_probs=settings["n_probs"],
        prompt_only=prompt_only,
        return_tokens=bool(fields.return_tokens),
        timings_per_token=bool(fields.timings_per_token),
        fields=None if fields.response_fields is None else tuple(fields.response_fields),
        id_slot=-1 if fields.id_slot is None else fields.id_slot,
        settings=settings | {"n_ctx": served.max_context},
    )
    return Call(
        model=fields.model,
        prompts=given,
        params=params,
        stream=bool(fields.stream),
        renderer=lambda served: CompletionRenderer(served, options),
        param_names=PARAM_NAMES | ({} if fields.json_schema is None else {"structured": "json_schema"}),
        needs_prompt_text=True,
        max_context=served.max_context,
        cache_salt=secrets.token_hex(16) if fields.cache_prompt is False else None,
    )


def _settings(fields: CompletionFields) -> dict[str, Any]:
    """The options that the request asks for, by their first names, and llama-server's defaults for the others.

    Raises:
        RequestError: two names of one option say different things.
    """
    settings = dict(DEFAULTS)
    for name in DEFAULTS:
        if (value := getattr(fields, name, None)) is not None:
            settings[name] = value
    for first, second in (("n_predict", "max_tokens"), ("typical_p", "typ_p"), ("n_cmpl", "n")):
        one, other = getattr(fields, first), getattr(fields, second)
        if one is not None and other is not None and one != other:
            raise RequestError(f"{first} is {one} and {second} is {other}; send one of them", param=second)
        if other is not None and first in DEFAULTS:
            settings[first] = other
    if settings["n_predict"] < -1:
        raise RequestError(f"n_predict is {settings['n_predict']}, expected -1 or more", param="n_predict")
    return settings


def _sampling_params(fields: CompletionFields, settings: Mapping[str, Any]) -> SamplingParams:
    try:
        return _plain_params(fields, settings)
    except RequestError as error:
        theirs = PARAM_NAMES.get(error.param or "")
        if theirs is None:
            raise
        raise RequestError(str(error).replace(str(error.param), theirs, 1), param=theirs) from error


def _plain_params(fields: CompletionFields, settings: Mapping[str, Any]) -> SamplingParams:
    num_tokens = settings["n_predict"]
    return SamplingParams(
        **{name: settings[name] for name in _SAME_NAME},
        n=next((count for count in (fields.n_cmpl, fields.n) if count is not None), 1),
        temperature=settings["temperature"],
        top_k=max(settings["top_k"], 0),
        top_n_sigma=max(settings["top_n_sigma"], 0.0),
        repetition_penalty=settings["repeat_penalty"],
        penalty_last_n=settings["repeat_last_n"],
        seed=None if settings["seed"] in _RANDOM_SEEDS else settings["seed"],
        max_tokens=None if num_tokens == -1 else max(num_tokens, 1),
        logprobs=settings["n_probs"] or None,
        logit_bias=_logit_bias(fields.logit_bias),
        structured=_structured(fields),
    )


def _logit_bias(given: LogitBias | None) -> dict[int, float]:
    pairs = given.items() if isinstance(given, Mapping) else given or ()
    biases: dict[int, float] = {}
    for key, value in pairs:
        if isinstance(key, str) and not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise UnsupportedParameter(
                f"logit_bias has {key[:40]!r}, and only token ids are supported here; /tokenize gives them",
                param="logit_bias",
            )
        if value is True:
            raise RequestError(f"logit_bias of {key} is true, expected a number or false", param="logit_bias")
        biases[int(key)] = _BAN if value is False else float(value)
    return biases


def _structured(fields: CompletionFields) -> StructuredOutput | None:
    if fields.json_schema is not None and fields.grammar:
        raise RequestError("json_schema and grammar exclude each other; send one of them", param="grammar")
    try:
        if fields.json_schema is not None:
            return StructuredOutput(json=fields.json_schema)
        return StructuredOutput(grammar=fields.grammar) if fields.grammar else None
    except RequestError as error:
        error.param = "json_schema" if fields.json_schema is not None else "grammar"
        raise
