"""What a server allows of a call that has been parsed: its settings say so, whatever the dialect."""

from __future__ import annotations

from headrace.errors import RequestError, UnknownModel, UnsupportedParameter
from headrace.sampling_params import ALL_LOGPROBS
from headrace.server.caller import CALLER
from headrace.server.dialects.base import Call, ChatPrompt, Served
from headrace.server.settings import ServerSettings


def check_call(call: Call, settings: ServerSettings) -> None:
    """Whether it may run here; whoever it is run for (CALLER) learns how its answer goes out.

    Raises:
        RequestError: it may not.
    """
    if not settings.trust_request_chat_template:
        _refuse_templates(call)
    _check_logprobs(call, settings.max_logprobs)
    _check_number(call, settings.max_completions)
    if (caller := CALLER.get(None)) is not None:
        caller.is_streamed = call.stream


def adapter_of(model: str | None, served: Served) -> str | None:
    """The adapter that a request means; None for the model itself.

    Raises:
        UnknownModel: neither has this name.
    """
    if model is None or model == served.name:
        return None
    if model in served.adapters():
        return model
    raise UnknownModel(f"The model {model!r} is not served here; {served.name!r} is", param="model")


def _refuse_templates(call: Call) -> None:
    if any(isinstance(prompt, ChatPrompt) and prompt.chat_template is not None for prompt in call.prompts):
        raise UnsupportedParameter(
            "chat_template is not allowed here; leave it out, or start the server with --trust-request-chat-template",
            param="chat_template",
        )


def _check_logprobs(call: Call, most: int) -> None:
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(call.params, name) or 0
        if 0 <= most < asked:
            param = call.param_names.get(name, name)
            raise RequestError(
                f"{param} asks for {'all' if asked == ALL_LOGPROBS else asked} tokens, and this server gives at most"
                f" {most}; it can be started with another --max-logprobs",
                param=param,
            )


def _check_number(call: Call, most: int) -> None:
    if len(call.prompts) * call.params.n > most:
        param = call.param_names.get("prompt", "prompt")
        raise RequestError(
            f"{len(call.prompts):,} prompts with {call.params.n:,} completions each are asked for, expected at most"
            f" {most:,} completions; send several requests, or a batch",
            param=param,
        )
