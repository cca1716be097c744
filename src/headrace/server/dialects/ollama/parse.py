"""Bodies of /api/generate and /api/chat into Calls. Every mistake is a RequestError that names its field."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.json import encode

from headrace.errors import RequestError, UnsupportedParameter
from headrace.server.dialects.base import Answer, Call, ChatPrompt, Incoming, JsonObject, Served, TextPrompt
from headrace.server.dialects.ollama.decode import asks_to_unload, decode, refuse_to_unload, served_model
from headrace.server.dialects.ollama.messages import template_messages, template_tools
from headrace.server.dialects.ollama.options import PARAM_NAMES, check_options, context_of, sampling_params
from headrace.server.dialects.ollama.render import ChatRenderer, GenerateRenderer, RenderOptions, created_at
from headrace.server.dialects.ollama.requests import ChatFields, GenerateFields, GeneratingFields, Options
from headrace.structured_output import StructuredOutput

_MOST_LOGPROBS = 20


def parse_generate(incoming: Incoming, served: Served) -> Call | Answer:
    """Parse POST /api/generate. Without a prompt it asks for the model to be loaded, which it is.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(incoming, GenerateFields)
    model = served_model(fields.model, served)
    unloads = asks_to_unload(fields.keep_alive)
    prompt = _prompt(fields, served)
    if not (fields.prompt or fields.suffix):
        if unloads:
            refuse_to_unload(fields.model)
        return _loaded(fields.model, {"response": ""})
    options = RenderOptions(model=fields.model, logprobs=_logprobs(fields), has_context=not fields.raw)
    return Call(
        model=model,
        prompts=(prompt,),
        stream=fields.stream is not False,
        renderer=lambda answering: GenerateRenderer(answering, options),
        param_names={**PARAM_NAMES, "messages": "prompt"},
        **_shared(fields, served, options),
    )


def parse_chat(incoming: Incoming, served: Served) -> Call | Answer:
    """Parse POST /api/chat. Without messages it asks for the model to be loaded, which it is.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(incoming, ChatFields)
    model = served_model(fields.model, served)
    unloads = asks_to_unload(fields.keep_alive)
    if not fields.messages:
        if unloads:
            refuse_to_unload(fields.model)
        return _loaded(fields.model, {"message": {"role": "assistant", "content": ""}})
    last = fields.messages[-1]
    goes_on = last.role.lower() == "assistant" and not last.tool_calls
    prompt = ChatPrompt(
        messages=template_messages(fields.messages),
        tools=template_tools(fields.tools) if fields.tools else None,
        reasoning_effort=_effort(fields),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )
    options = RenderOptions(model=fields.model, logprobs=_logprobs(fields))
    return Call(
        model=model,
        prompts=(prompt,),
        stream=fields.stream is not False,
        renderer=lambda answering: ChatRenderer(answering, options),
        param_names={**PARAM_NAMES, "prompt": "messages"},
        **_shared(fields, served, options),
    )


def _shared(fields: GeneratingFields, served: Served, options: RenderOptions) -> JsonObject:
    given = fields.options or Options()
    check_options(given)
    params = sampling_params(given, served, structured=_structured(fields), logprobs=options.logprobs)
    return {"params": params, "max_context": context_of(given, served)}


def _prompt(fields: GenerateFields, served: Served) -> ChatPrompt | TextPrompt:
    """A model without a template gets the text alone, as in Ollama."""
    text, context = fields.prompt or "", tuple(fields.context or ())
    if fields.suffix:
        _refuse_beside(fields, "suffix", "system", "context", "raw", "think")
        if served.infill is None:
            message = f"suffix: {served.name} has no tokens to fill in the middle with; leave it out"
            raise UnsupportedParameter(message, param="suffix")
        return TextPrompt(prompt=served.infill.prompt(text, fields.suffix))
    if fields.raw:
        _refuse_beside(fields, "raw", "system", "context", "think")
        return TextPrompt(prompt=text)
    if served.card.chat_template is None:
        for name in ("system", "think"):
            if getattr(fields, name):
                message = f"{name} needs a chat template, and the model has none; leave it out"
                raise UnsupportedParameter(message, param=name)
        return TextPrompt(prompt=text, context=context)
    system = [{"role": "system", "content": fields.system}] if fields.system else []
    return ChatPrompt(
        messages=[*system, {"role": "user", "content": text}], reasoning_effort=_effort(fields), context=context
    )


def _refuse_beside(fields: GenerateFields, given: str, *names: str) -> None:
    """Raise for fields that belong to the chat template, beside one that goes past it."""
    for name in names:
        if getattr(fields, name):
            raise RequestError(f"{name} has no meaning beside {given}; leave one of them out", param=name)


def _effort(fields: GeneratingFields) -> str | None:
    if isinstance(fields.think, bool):
        return "default" if fields.think else "none"
    return fields.think


def _structured(fields: GeneratingFields) -> StructuredOutput | None:
    asked = fields.format
    if asked is None or asked == "":
        return None
    if isinstance(asked, str):
        if asked == "json":
            return StructuredOutput(json_object=True)
        raise RequestError(f'format is {asked[:100]!r}, expected "json" or a JSON schema', param="format")
    try:
        return StructuredOutput(json=asked)
    except RequestError as error:
        error.param = "format"
        raise


def _logprobs(fields: GeneratingFields) -> int | None:
    top = fields.top_logprobs or 0
    if not 0 <= top <= _MOST_LOGPROBS:
        raise RequestError(f"top_logprobs must be between 0 and {_MOST_LOGPROBS}", param="top_logprobs")
    if top and not fields.logprobs:
        raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
    return top if fields.logprobs else None


def _loaded(model: str, said: JsonObject) -> Answer:
    answer = {"model": model, "created_at": created_at(datetime.now(UTC)), **said, "done": True, "done_reason": "load"}
    return Answer(body=encode(answer))
