"""Bodies of TGI's generating paths into Calls. Every mistake is a RequestError that names its field."""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, Incoming, JsonObject, Served, TextPrompt, Truncation
from headrace.server.dialects.decode import Unsupported, Words, decode
from headrace.server.dialects.tgi.render import GenerationRenderer, RenderOptions
from headrace.server.dialects.tgi.requests import (
    CompatibleFields,
    GenerateFields,
    Grammar,
    JsonSchemaGrammar,
    Parameters,
    RegexGrammar,
)
from headrace.structured_output import StructuredOutput
from headrace.types import draw_seed

DEFAULT_MAX_TOKENS = 1024
MOST_SEQUENCES = 1024
"""Of best_of"""

_NO_STREAM: Unsupported = {"stream": (False,)}
_NO_WHOLE: Unsupported = {"stream": (True,)}
_WORDS = Words(
    expected={"type": "json, json_schema or regex"},
    instead={"stream": "leave it out: /generate answers whole, /generate_stream streams, / does as stream says"},
)
_PARAM_NAMES = {
    "prompt": "inputs",
    "max_tokens": "max_new_tokens",
    "structured": "grammar",
    "logprobs": "top_n_tokens",
    "model": "adapter_id",
}


def parse_generate(incoming: Incoming, served: Served) -> Call:
    """Parse POST /generate.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    return _call(decode(incoming.body, GenerateFields, _NO_STREAM, _WORDS), served)


def parse_stream(incoming: Incoming, served: Served) -> Call:
    """Parse POST /generate_stream.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    return _call(decode(incoming.body, GenerateFields, _NO_WHOLE, _WORDS), served, stream=True)


def parse_compatible(incoming: Incoming, served: Served) -> Call:
    """Parse POST /, of which `stream` says how it is answered; as a whole, in a list.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields = decode(incoming.body, CompatibleFields, {}, _WORDS)
    return _call(fields, served, stream=bool(fields.stream), in_list=True)


def _call(fields: GenerateFields, served: Served, *, stream: bool = False, in_list: bool = False) -> Call:
    if not fields.inputs:
        raise RequestError("inputs is empty, expected text", param="inputs")
    asked = Parameters() if fields.parameters is None else fields.parameters
    _check(asked, stream=stream)
    params, is_default = _sampling_params(asked), asked.max_new_tokens is UNSET
    options = RenderOptions(
        details=bool(asked.details),
        prefill=bool(asked.decoder_input_details),
        num_top=asked.top_n_tokens or 0,
        full_text=bool(asked.return_full_text),
        seed=params.seed if _draws(asked) else None,
        in_list=in_list,
    )
    shows_logprobs = stream or options.details or params.n > 1
    return Call(
        model=asked.adapter_id,
        prompts=(TextPrompt(prompt=fields.inputs),),
        params=replace(
            params,
            logprobs=options.num_top if shows_logprobs else None,
            prompt_logprobs=0 if options.prefill else None,
        ),
        stream=stream,
        renderer=lambda served: GenerationRenderer(served, options),
        param_names=_PARAM_NAMES,
        needs_prompt_text=options.full_text,
        truncation=None if asked.truncate is None else Truncation(asked.truncate),
        max_context=served.max_context if is_default else None,
    )


def _check(asked: Parameters, *, stream: bool) -> None:
    """What TGI's own validation refuses, beside the ranges of SamplingParams."""
    if asked.watermark:
        raise UnsupportedParameter("watermark is not supported here; leave it out (or send false)", param="watermark")
    for name, most in (("best_of", MOST_SEQUENCES), ("truncate", None), ("max_new_tokens", None)):
        value = getattr(asked, name)
        if isinstance(value, int) and (value < 1 or (most is not None and value > most)):
            raise RequestError(f"{name} is {value}, expected {f'1 to {most:,}' if most else '1 or more'}", param=name)
    if asked.temperature is not None and asked.temperature <= 0:
        message = f"temperature is {asked.temperature}, expected above 0; do_sample=false takes the likeliest token"
        raise RequestError(message, param="temperature")
    if asked.top_k is not None and asked.top_k < 1:
        raise RequestError(f"top_k is {asked.top_k}, expected 1 or more", param="top_k")
    if asked.decoder_input_details and not asked.details:
        raise RequestError("decoder_input_details needs details=true, which shows them", param="decoder_input_details")
    if asked.top_n_tokens and not (asked.details or stream):
        raise RequestError("top_n_tokens needs details=true or a stream, which show them", param="top_n_tokens")
    if stream and asked.decoder_input_details:
        message = "decoder_input_details cannot be streamed; use /generate"
        raise RequestError(message, param="decoder_input_details")
    if (asked.best_of or 1) > 1:
        _check_best_of(asked, stream=stream)


def _check_best_of(asked: Parameters, *, stream: bool) -> None:
    if stream:
        raise RequestError("best_of cannot be streamed; use /generate", param="best_of")
    if asked.seed is not None:
        raise RequestError("seed and best_of exclude each other: send one of them", param="best_of")
    if not _draws(asked):
        raise RequestError("best_of needs do_sample=true: without it all sequences are the same", param="best_of")


def _draws(asked: Parameters) -> bool:
    """TGI's rule."""
    warps = asked.temperature not in (None, 1) or asked.top_k is not None
    return bool(asked.do_sample) or warps or asked.top_p not in (None, 1) or asked.typical_p not in (None, 1)


def _sampling_params(asked: Parameters) -> SamplingParams:
    draws = _draws(asked)
    named: JsonObject = {
        "top_k": asked.top_k,
        "top_p": asked.top_p,
        "typical_p": asked.typical_p,
        "frequency_penalty": asked.frequency_penalty,
        "repetition_penalty": asked.repetition_penalty,
        "n": asked.best_of,
        "stop": asked.stop,
    }
    temperature = 1.0 if asked.temperature is None else asked.temperature
    max_tokens = DEFAULT_MAX_TOKENS if asked.max_new_tokens is UNSET else asked.max_new_tokens
    seed = draw_seed() if draws and asked.seed is None else asked.seed
    return SamplingParams(
        **{name: value for name, value in named.items() if value is not None},
        temperature=temperature if draws else 0.0,
        seed=seed,
        max_tokens=max_tokens,
        include_stop_str_in_output=True,
        structured=None if asked.grammar is None else _structured(asked.grammar),
    )


def _structured(grammar: Grammar) -> StructuredOutput:
    try:
        if isinstance(grammar, RegexGrammar):
            return StructuredOutput(regex=grammar.value)
        schema = grammar.value.schema if isinstance(grammar, JsonSchemaGrammar) else grammar.value
        return StructuredOutput(json=schema)
    except RequestError as error:
        error.param = "grammar"
        raise
