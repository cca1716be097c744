"""Bodies of OpenAI's two generating endpoints into Calls. Every mistake is a RequestError that names its field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import ALL_LOGPROBS, SamplingParams
from headrace.server.dialects.base import Call, ChatPrompt, JsonObject, TextPrompt
from headrace.server.dialects.openai import functions, llama_names
from headrace.server.dialects.openai.beams import beam_search
from headrace.server.dialects.openai.decode import decode
from headrace.server.dialects.openai.extensions import call_options
from headrace.server.dialects.openai.render import CompletionRenderer, RenderOptions
from headrace.server.dialects.openai.render_chat import ChatRenderer
from headrace.server.dialects.openai.requests import (
    AssistantMessage,
    CalledTool,
    ChatFields,
    CompletionFields,
    Content,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SharedFields,
    StreamOptions,
    Tool,
    ToolMessage,
)
from headrace.server.dialects.openai.structured import structured_name, structured_output
from headrace.server.dialects.openai.unsupported import CHAT, COMPLETION
from headrace.text.infill import Infill

DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions; chat goes on to the end of the context."""
INHERITED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Taken from the model's generation_config where the request names none, as vLLM does."""

_ROLES: Mapping[type[Message], str] = {DeveloperMessage: "system", FunctionMessage: "tool"}
"""What templates see of roles that are not theirs"""

_COPIED = (
    *INHERITED,
    *("n", "presence_penalty", "frequency_penalty", "seed", "stop", "stop_token_ids", "min_tokens", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens", "allowed_token_ids", "bad_words", "no_repeat_ngram_size"),
    *("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
    *("mirostat", "mirostat_tau", "mirostat_eta", "logprob_token_ids"),
)


def parse_chat(body: bytes, defaults: SamplingParams) -> Call:
    """Parse POST /v1/chat/completions.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, ChatFields, CHAT)
    if not fields.messages:
        raise RequestError("messages is empty, expected at least one message", param="messages")
    prompt = _chat_prompt(fields)
    logprobs = _chat_logprobs(fields)
    prompt_logprobs = _prompt_logprobs(fields)
    params = _sampling_params(fields, defaults, _chat_max_tokens(fields), logprobs, prompt_logprobs)
    if fields.thinking_token_budget is not None:
        params = replace(params, thinking_token_budget=fields.thinking_token_budget)
    last_role = prompt.messages[-1]["role"]
    role = "assistant" if prompt.add_generation_prompt else last_role
    options = _render_options(
        fields,
        logprobs=_shown_logprobs(fields, logprobs),
        prompt_logprobs=prompt_logprobs,
        role=role,
        prefix=_plain_text(fields.messages[-1]) if fields.echo and last_role == role else "",
        include_reasoning=fields.include_reasoning is not False,
        has_prediction=fields.prediction is not None,
        is_call_named=isinstance(fields.tool_choice, dict) or isinstance(fields.function_call, dict),
        has_functions=functions.uses_functions(fields),
        prompt_text=bool(fields.return_prompt_text),
    )
    return Call(
        model=fields.model,
        prompts=(prompt,),
        params=params,
        stream=bool(fields.stream),
        renderer=lambda served: ChatRenderer(served, options),
        param_names={
            "prompt": "messages",
            "logprobs": "top_logprobs",
            "max_tokens": "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens",
            "structured": structured_name(fields),
            **(functions.param_names(fields) if options.has_functions else {}),
        },
        needs_prompt_text=options.prompt_text,
        prediction=None if fields.prediction is None else _joined(fields.prediction.content),
        **call_options(fields),
    )


def parse_completion(body: bytes, defaults: SamplingParams, infill: Infill | None = None) -> Call:
    """Parse POST /v1/completions; `infill` is for `suffix`, None for a model that cannot fill in the middle.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(body, CompletionFields, COMPLETION)
    echo = bool(fields.echo)
    max_tokens = DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens
    prompt_only = echo and max_tokens == 0  # scores a prompt: one token is sampled, and thrown away
    logprobs = _num_logprobs("logprobs", fields.logprobs)
    prompt_logprobs = _prompt_logprobs(fields)
    # With echo the prompt's log-probabilities are shown like those of the output; the engine computes the larger ask.
    asked = [count for count in (logprobs if echo else None, prompt_logprobs) if count is not None]
    params = _sampling_params(fields, defaults, 1 if prompt_only else max_tokens, logprobs, max(asked, default=None))
    if prompt_only and fields.logprob_token_ids:
        message = "logprob_token_ids is about the output, and max_tokens is 0; leave it out"
        raise RequestError(message, param="logprob_token_ids")
    shown = _shown_logprobs(fields, logprobs)
    options = _render_options(
        fields, logprobs=shown, prompt_logprobs=prompt_logprobs, echo=echo, prompt_only=prompt_only
    )
    add_special = fields.add_special_tokens is not False
    given = prompts(fields.prompt, "prompt") if not fields.suffix else _with_suffix(fields, fields.suffix, infill)
    return Call(
        model=fields.model,
        prompts=[TextPrompt(prompt=prompt, add_special_tokens=add_special) for prompt in given],
        params=params,
        stream=bool(fields.stream),
        renderer=lambda served: CompletionRenderer(served, options),
        param_names={"structured": structured_name(fields)},
        needs_prompt_text=echo,
        **call_options(fields),
    )


def _num_logprobs(name: str, value: int | None) -> int | None:
    """As SamplingParams means it; the server has a limit of its own."""
    if value is not None and not -1 <= value <= ALL_LOGPROBS:
        raise RequestError(f"{name} is {value}, expected -1 (all) or a count", param=name)
    return ALL_LOGPROBS if value == -1 else value


def _shown_logprobs(fields: SharedFields, logprobs: int | None) -> int | None:
    """How many tokens of a position are shown: all that were asked for by their ids."""
    if not fields.logprob_token_ids:
        return logprobs
    if logprobs is None:
        raise RequestError("logprob_token_ids needs logprobs, which shows them", param="logprob_token_ids")
    return ALL_LOGPROBS


def _prompt_logprobs(fields: SharedFields) -> int | None:
    if fields.prompt_logprobs is not None and fields.stream:
        raise RequestError("prompt_logprobs cannot be streamed; send stream=false", param="prompt_logprobs")
    return _num_logprobs("prompt_logprobs", fields.prompt_logprobs)


def _chat_logprobs(fields: ChatFields) -> int | None:
    top = _num_logprobs("top_logprobs", fields.top_logprobs)
    if not fields.logprobs:
        if top:
            raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
        return None
    return top or 0


def _chat_max_tokens(fields: ChatFields) -> int | None:
    old, new = fields.max_tokens, fields.max_completion_tokens
    if old is not None and new is not None and old != new:
        message = f"max_completion_tokens is {new} and max_tokens is {old}; send only one of them"
        raise RequestError(message, param="max_completion_tokens")
    if new is not None and new < 1:
        raise RequestError(f"max_completion_tokens is {new}, expected 1 or more", param="max_completion_tokens")
    return old if new is None else new


def _sampling_params(
    fields: SharedFields,
    defaults: SamplingParams,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    beams = beam_search(fields)
    named: JsonObject = {} if fields.use_beam_search else {name: getattr(defaults, name) for name in INHERITED}
    named |= {name: value for name in _COPIED if (value := getattr(fields, name)) is not None}
    named |= llama_names.sampling_values(fields)
    try:
        return SamplingParams(
            **named,
            **beams,
            structured=structured_output(fields),
            logit_bias=logit_bias(fields.logit_bias),
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
    except RequestError as error:
        raise llama_names.in_their_names(error, fields) from None


def logit_bias(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    """OpenAI's `logit_bias`, whose keys are token ids as strings.

    Raises:
        RequestError: a key is no id, or a value is out of range.
    """
    for key, value in (bias or {}).items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise RequestError(
                f"logit_bias has the key {key[:40]!r}, expected token ids as strings", param="logit_bias"
            )
        if not -100 <= value <= 100:
            raise RequestError(f"logit_bias for token {key} is {value}, expected from -100 to 100", param="logit_bias")
    return {int(key): value for key, value in bias.items()} if bias else None


def prompts(given: str | Sequence[str | int | Sequence[int]], name: str) -> list[str | Sequence[int]]:
    """The texts and lists of token ids that a field of this name means.

    Raises:
        RequestError: one of them is empty, or ids stand beside texts or lists.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError(f"{name} is empty, expected text, token ids or a list of them", param=name)
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    found = [item for item in given if not isinstance(item, int)]
    if ids:
        raise RequestError(f"{name} mixes token ids with texts or lists, expected one kind", param=name)
    for index, item in enumerate(found):
        if not isinstance(item, str) and not item:
            raise RequestError(f"{name}[{index}] is an empty list, expected token ids", param=f"{name}[{index}]")
    return found


def _with_suffix(fields: CompletionFields, suffix: str, infill: Infill | None) -> list[Sequence[int | str]]:
    if infill is None:
        message = "suffix is not supported by this model, which has no tokens to fill in the middle with; leave it out"
        raise UnsupportedParameter(message, param="suffix")
    if fields.echo:
        raise RequestError("suffix and echo exclude each other; send one of them", param="suffix")
    given = prompts(fields.prompt, "prompt")
    texts = [prompt for prompt in given if isinstance(prompt, str)]
    if len(texts) < len(given):
        raise RequestError("suffix goes with prompts of text only, and one is token ids", param="suffix")
    return [infill.prompt(text, suffix) for text in texts]


def _chat_prompt(fields: ChatFields) -> ChatPrompt:
    add_generation_prompt = fields.add_generation_prompt is not False
    continue_final_message = bool(fields.continue_final_message)
    if add_generation_prompt and continue_final_message:
        message = "continue_final_message=true needs add_generation_prompt=false: a message is continued or opened"
        raise RequestError(message, param="continue_final_message")
    is_older = functions.uses_functions(fields)
    tools = functions.as_tools(fields) if is_older else fields.tools or ()
    return ChatPrompt(
        messages=[
            _template_message(message, index, answered)
            for index, (message, answered) in enumerate(
                zip(fields.messages, functions.answered_calls(fields.messages), strict=True)
            )
        ],
        tools=[_tool(tool, index) for index, tool in enumerate(tools)],
        tool_choice=functions.as_tool_choice(fields) if is_older else fields.tool_choice,
        parallel_tool_calls=fields.parallel_tool_calls is not False and not is_older,
        documents=fields.documents or (),
        chat_template=fields.chat_template,
        reasoning_effort=fields.reasoning_effort,
        chat_template_kwargs=fields.chat_template_kwargs or {},
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        add_special_tokens=bool(fields.add_special_tokens),
    )


def _tool(tool: Tool, index: int) -> JsonObject:
    if tool.type != "function" or tool.function is None:
        path = f"tools[{index}]" + (".function" if tool.type == "function" else ".type")
        raise UnsupportedParameter(f"{path}: only tools of type function are supported", param=path)
    if tool.custom is not None:
        path = f"tools[{index}].custom"
        raise RequestError(f"{path} does not go with type function; leave it out", param=path)
    function = msgspec.to_builtins(tool.function)
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _template_message(message: Message, index: int, answered: str | None) -> JsonObject:
    """What the chat template gets: parts stay parts, it knows whether the model's template reads them.

    `answered` is the id of the call that a function's message answers.
    """
    role = _ROLES.get(type(message)) or str(message.__struct_config__.tag)
    read: JsonObject = {"role": role, "content": _content(message, index)}
    if message.name is not None:
        read["name"] = message.name
    if isinstance(message, ToolMessage):
        read["tool_call_id"] = message.tool_call_id
    if isinstance(message, FunctionMessage):
        read["tool_call_id"] = answered
    if isinstance(message, AssistantMessage):
        thought = message.reasoning if message.reasoning_content is None else message.reasoning_content
        if thought is not None:
            read["reasoning_content"] = thought
        if calls := _calls(message, index):
            read["tool_calls"] = [
                {"id": call.id, "type": call.type, "function": msgspec.to_builtins(call.function)} for call in calls
            ]
    return read


def _calls(message: AssistantMessage, index: int) -> list[CalledTool]:
    if message.function_call is None:
        return message.tool_calls or []
    if message.tool_calls:
        path = f"messages[{index}].function_call"
        raise RequestError(f"{path} is the older form of tool_calls, and both are given; send one", param=path)
    return [functions.called_tool(message.function_call, index)]


def _content(message: Message, index: int) -> str | list[JsonObject] | None:
    content, path = message.content, f"messages[{index}].content"
    if isinstance(content, str):
        return content
    if content:
        return [{"type": "text", "text": part.text} for part in content]
    if content is None and isinstance(message, FunctionMessage):
        return ""
    if content is None and isinstance(message, AssistantMessage) and _calls(message, index):
        return None
    if content is None:
        raise RequestError(f"{path} is required where there are no tool_calls", param=path)
    raise RequestError(f"{path} is an empty list, expected text", param=path)


def _plain_text(message: Message) -> str:
    return _joined(message.content or "")


def _joined(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _render_options(fields: SharedFields, **chosen: Any) -> RenderOptions:
    options = fields.stream_options
    if options is not None and not fields.stream:
        raise RequestError("stream_options needs stream=true", param="stream_options")
    options = options or StreamOptions()
    if fields.return_tokens_as_token_ids and chosen["logprobs"] is None:
        message = "return_tokens_as_token_ids needs logprobs: it is about how they name tokens"
        raise RequestError(message, param="return_tokens_as_token_ids")
    return RenderOptions(
        n=1 if fields.n is None else fields.n,
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        obfuscation=bool(options.include_obfuscation),
        token_ids=bool(fields.return_token_ids),
        tokens_as_ids=bool(fields.return_tokens_as_token_ids),
        request_id=fields.request_id,
        **chosen,
    )
