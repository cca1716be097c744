"""Triton's generate and generate_stream into Calls. Every mistake is a RequestError that names its field."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import RequestError, UnknownModel
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, Incoming, Served, TextPrompt
from headrace.server.dialects.decode import NEVER, Unsupported, decode
from headrace.server.dialects.kserve.render import GenerateRenderer, RenderOptions, ShownFacts
from headrace.server.dialects.kserve.requests import GenerateFields, Parameters
from headrace.server.dialects.openai.parse import INHERITED
from headrace.server.json_values import check_values

VERSION = "1"
"""Of every model"""
DEFAULT_MAX_TOKENS = 16

UNSUPPORTED: Unsupported = {
    "beam_width": (1,),
    "end_id": NEVER,
    "image": NEVER,
    "lora_name": NEVER,
    "n": (1,),
    "pad_id": NEVER,
    "return_logprobs": (False,),
    "return_context_logits": (False,),
    "return_generation_logits": (False,),
    "return_log_probs": (False,),
}
"""Parameters that Triton's backends know, and the values that ask for nothing"""
PARAM_NAMES = {"prompt": "text_input", "model": "model"}
_SAMPLING = (
    *("min_tokens", "temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "seed", "stop", "stop_token_ids", "bad_words", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens"),
)
_OTHER_NAMES = {"random_seed": "seed", "stop_words": "stop"}


def parse_generate(incoming: Incoming, served: Served) -> Call:
    """Parse POST …/generate.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields, asked = _read(incoming, served)
    if asked.stream:
        raise RequestError("stream=true is for …/generate_stream; generate gives one answer", param="stream")
    return _call(fields, asked, incoming, served, stream=False)


def parse_generate_stream(incoming: Incoming, served: Served) -> Call:
    """Parse POST …/generate_stream; with stream=false it has one event.

    Raises:
        RequestError: of any kind; `param` is the field at fault.
    """
    fields, asked = _read(incoming, served)
    return _call(fields, asked, incoming, served, stream=True)


def model_of(incoming: Incoming) -> str:
    """The model that a path names.

    Raises:
        UnknownModel: it has no such version.
    """
    model, version = incoming.path_params["model"], incoming.path_params.get("version", VERSION)
    if version != VERSION:
        raise UnknownModel(f"The model {model!r} has no version {version!r}; it has {VERSION}", param="version")
    return model


def call(
    texts: Sequence[str], asked: Parameters, incoming: Incoming, served: Served, options: RenderOptions, *, stream: bool
) -> Call:
    """A generation for each text."""
    return Call(
        model=model_of(incoming),
        prompts=[TextPrompt(prompt=text) for text in texts],
        params=_sampling_params(asked, served.defaults, wants_logprobs=options.facts.cumulative_logprob),
        stream=stream,
        renderer=lambda served: GenerateRenderer(served, options),
        param_names=PARAM_NAMES,
        needs_prompt_text=options.echo,
    )


def render_options(asked: Parameters, request_id: str | None, *, stream: bool, in_tensors: bool) -> RenderOptions:
    """What of a request the answer's shape depends on.

    Raises:
        RequestError: it asks for the prompt in a stream.
    """
    if stream and asked.exclude_input_in_output is False:
        raise RequestError(
            "exclude_input_in_output=false does not go with a stream; leave it out", param="exclude_input_in_output"
        )
    return RenderOptions(
        echo=not (stream or asked.exclude_input_in_output),
        request_id=request_id,
        in_one_event=asked.stream is False,
        in_tensors=in_tensors,
        facts=ShownFacts(
            finish_reason=bool(asked.return_finish_reason),
            cumulative_logprob=bool(asked.return_cumulative_logprob),
            num_input_tokens=bool(asked.return_num_input_tokens),
            num_output_tokens=bool(asked.return_num_output_tokens),
        ),
    )


def merged(given: Sequence[Parameters]) -> Parameters:
    """Parameters that may stand in several places, under two names.

    Raises:
        RequestError: two places say different things.
    """
    found: dict[str, object] = {}
    for one in given:
        for name, value in ((name, getattr(one, name)) for name in Parameters.__struct_fields__):
            if value is None:
                continue
            known = _OTHER_NAMES.get(name, name)
            if found.setdefault(known, value) != value:
                raise RequestError(f"{name} is {value!r} and {found[known]!r}; send it once", param=name)
    return Parameters(**found)  # type: ignore[arg-type]


def parameters_in(text: str, served: Served) -> Parameters:
    """`sampling_parameters`: JSON in a text, which is bounded as a body's is.

    Raises:
        RequestError, BodyTooLarge: of any kind.
    """
    body = text.encode("utf-8", "replace")
    check_values(body, served.max_json_values)
    return decode(body, Parameters, UNSUPPORTED)


def _read(incoming: Incoming, served: Served) -> tuple[GenerateFields, Parameters]:
    fields = decode(incoming.body, GenerateFields, UNSUPPORTED)
    given = [fields, *([] if fields.parameters is None else [fields.parameters])]
    if fields.sampling_parameters is not None:
        given.append(parameters_in(fields.sampling_parameters, served))
    return fields, merged(given)


def _call(fields: GenerateFields, asked: Parameters, incoming: Incoming, served: Served, *, stream: bool) -> Call:
    texts = [fields.text_input] if isinstance(fields.text_input, str) else fields.text_input
    if len(texts) != 1:
        raise RequestError(f"text_input has {len(texts)} texts, expected one; infer takes several", param="text_input")
    options = render_options(asked, fields.id, stream=stream, in_tensors=False)
    return call(texts, asked, incoming, served, options, stream=stream)


def _sampling_params(asked: Parameters, defaults: SamplingParams, *, wants_logprobs: bool) -> SamplingParams:
    named = {name: getattr(defaults, name) for name in INHERITED}
    named |= {name: value for name in _SAMPLING if (value := getattr(asked, name)) is not None}
    if isinstance(asked.bad_words, str):
        named["bad_words"] = [asked.bad_words]
    return SamplingParams(
        **named,
        max_tokens=DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens,
        logprobs=0 if wants_logprobs else None,
    )
