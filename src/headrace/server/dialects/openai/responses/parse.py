"""A /v1/responses body into a Call. Every mistake is a RequestError that names its field."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from msgspec.json import encode

from headrace.errors import RequestError, UnsupportedParameter
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Answer, Call, ChatPrompt, Incoming, JsonObject, Later, Served
from headrace.server.dialects.decode import Words, convert, decode
from headrace.server.dialects.openai.parse import INHERITED, logit_bias
from headrace.server.dialects.openai.responses.fields import (
    EXPECTED,
    INSTEAD,
    UNSUPPORTED,
    Function,
    ObjectFormat,
    ResponseFields,
    SchemaFormat,
)
from headrace.server.dialects.openai.responses.items import as_messages, read_items, stored_items
from headrace.server.dialects.openai.responses.render import ResponsePlan, ResponseRenderer, response_object
from headrace.server.stored.responses import ResponseStore, StoredResponse, response_id
from headrace.structured_output import StructuredOutput

_WORDS = Words(expected=EXPECTED, instead=INSTEAD)
_COPIED = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output"),
)
_PARAM_NAMES: Mapping[str, str] = {
    "prompt": "input",
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "structured": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_CHOICES = ("none", "auto", "required")
_MOST_LOGPROBS = 20
_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tools that may be called, and whether one has to be."""

    tools: list[JsonObject]
    """As chat templates get them"""
    choice: str | JsonObject | None
    shown: list[JsonObject]
    """As they were sent"""


def parse_response(incoming: Incoming, served: Served, store: ResponseStore) -> Call | Later:
    """Parse POST /v1/responses.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    fields = decode(incoming.body, ResponseFields, UNSUPPORTED, _WORDS)
    check_metadata(fields.metadata)
    is_stored = fields.store is not False
    items = read_items(fields.input)
    tools = _tools(fields)
    params = _sampling_params(fields, served.defaults)
    plan = ResponsePlan(
        id=response_id(),
        created_at=int(time.time()),
        echo=_echo(fields, params, tools),
        is_background=bool(fields.background),
        logprobs=params.logprobs,
        is_encoded="reasoning.encrypted_content" in (fields.include or ()),
        obfuscation=bool(fields.stream_options and fields.stream_options.include_obfuscation),
    )
    stored = StoredResponse(
        id=plan.id,
        tenant=incoming.tenant,
        created_at=plan.created_at,
        previous=fields.previous_response_id,
        input=stored_items(items),
        response={},
    )
    if is_stored:
        plan = replace(plan, keep=partial(_keep, store, stored, is_background=plan.is_background))
    call = Call(
        model=fields.model,
        prompts=(_prompt(fields, _messages(fields, items, store, incoming.tenant), tools),),
        params=params,
        stream=bool(fields.stream),
        renderer=lambda served: ResponseRenderer(served, plan),
        param_names={**_PARAM_NAMES, **_tool_params(tools)},
        priority=fields.priority or 0,
        cache_salt=fields.cache_salt,
        settle=partial(store.settle, plan.id) if is_stored else None,
    )
    return _later(fields, call, plan, stored, store) if fields.background else call


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """Raise RequestError for more metadata than the API allows."""
    if len(metadata or ()) > _MOST_METADATA:
        raise RequestError(f"metadata has {len(metadata or ())} keys, expected at most 16", param="metadata")
    for key, value in (metadata or {}).items():
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            message = f"metadata: the key {key[:64]!r} or its value is too long, expected at most 64 and 512 characters"
            raise RequestError(message, param="metadata")


def _keep(store: ResponseStore, stored: StoredResponse, response: JsonObject, *, is_background: bool) -> None:
    """What has been cancelled or deleted meanwhile stays so."""
    if not is_background or store.is_running(stored.id, stored.tenant):
        store.put(msgspec.structs.replace(stored, response=response))


def _later(
    fields: ResponseFields, call: Call, plan: ResponsePlan, stored: StoredResponse, store: ResponseStore
) -> Later:
    if fields.store is False:
        raise RequestError("background=true needs store=true: nobody could ask for the response", param="background")
    if fields.stream:
        raise UnsupportedParameter(
            "stream is not supported with background=true; ask for the response until it is completed", param="stream"
        )
    stored = msgspec.structs.replace(stored, response=response_object(plan, "in_progress"))

    def started(cancel: Callable[[], object]) -> None:
        store.put(stored)
        store.runs(plan.id, cancel)

    return Later(call=call, answer=Answer(body=encode(stored.response)), started=started)


def _messages(fields: ResponseFields, items: Sequence[Any], store: ResponseStore, tenant: str) -> list[JsonObject]:
    paths = [f"input[{index}]" for index in range(len(items))]
    before: list[Any] = []
    if fields.previous_response_id is not None:
        before = read_items(store.history(fields.previous_response_id, tenant), "previous_response_id")
    messages = as_messages([*before, *items], ["previous_response_id"] * len(before) + paths)
    if fields.instructions is not None:
        messages.insert(0, {"role": "system", "content": fields.instructions})
    return messages


def _prompt(fields: ResponseFields, messages: Sequence[JsonObject], tools: _Tools) -> ChatPrompt:
    return ChatPrompt(
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        reasoning_effort=None if fields.reasoning is None else fields.reasoning.effort,
        chat_template_kwargs=fields.chat_template_kwargs or {},
    )


def _tools(fields: ResponseFields) -> _Tools:
    functions = [_function(tool, index) for index, tool in enumerate(fields.tools or ())]
    named: JsonObject = {}
    for index, function in enumerate(functions):
        if function.name in named:
            path = f"tools[{index}].name"
            raise RequestError(f"{path}: there are two tools called {function.name!r}", param=path)
        named[function.name] = _as_tool(function)
    allowed, choice = _tool_choice(fields.tool_choice, list(named))
    return _Tools([named[name] for name in allowed], choice, list(fields.tools or ()))


def _function(tool: JsonObject, index: int) -> Function:
    path = f"tools[{index}]"
    if tool.get("type") != "function":
        raise UnsupportedParameter(
            f"{path}.type is {str(tool.get('type'))[:100]!r}: only tools of type function are supported",
            param=f"{path}.type",
        )
    return convert(tool, Function, path, _WORDS)


def _as_tool(function: Function) -> JsonObject:
    read = {name: getattr(function, name) for name in ("name", "description", "parameters", "strict")}
    return {"type": "function", "function": {key: value for key, value in read.items() if value is not None}}


def _tool_choice(choice: str | JsonObject | None, names: list[str]) -> tuple[list[str], str | JsonObject | None]:
    """The tools that may be called, and how."""
    if choice is None or (isinstance(choice, str) and choice in _CHOICES):
        return names, choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind == "function" and choice.keys() == {"type", "name"}:
        _check_named([choice["name"]], names)
        return names, {"type": "function", "function": {"name": choice["name"]}}
    if isinstance(choice, dict) and kind == "allowed_tools" and choice.keys() == {"type", "mode", "tools"}:
        return _allowed_tools(choice, names)
    shown = repr(kind if kind is not None else choice)[:100]
    raise UnsupportedParameter(
        f"tool_choice is {shown}, expected none, auto, required, a function or allowed_tools", param="tool_choice"
    )


def _allowed_tools(choice: JsonObject, names: list[str]) -> tuple[list[str], str]:
    mode, tools = choice["mode"], choice["tools"]
    if mode not in ("auto", "required"):
        raise RequestError("tool_choice.mode: expected auto or required", param="tool_choice.mode")
    is_list = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    if not is_list or not tools or any(tool.get("type") != "function" for tool in tools):
        message = 'tool_choice.tools: expected at least one {"type": "function", "name": …}'
        raise RequestError(message, param="tool_choice.tools")
    allowed = [tool.get("name") for tool in tools]
    _check_named(allowed, names)
    chosen = set(allowed)
    return [name for name in names if name in chosen], mode


def _check_named(wanted: Sequence[object], names: Sequence[str]) -> None:
    known = set(names)
    for name in wanted:
        if not isinstance(name, str) or name not in known:
            message = f"tool_choice names {str(name)[:100]!r}, which is not among the tools"
            raise RequestError(message, param="tool_choice")


def _tool_params(tools: _Tools) -> dict[str, str]:
    """What errors about tools are about: here a tool is its function, and some may not be allowed."""
    sent = {tool["name"]: index for index, tool in enumerate(tools.shown)}
    return {
        f"tools[{index}].function.{rest}": f"tools[{sent[tool['function']['name']]}].{rest}"
        for index, tool in enumerate(tools.tools)
        for rest in ("name", "parameters")
    }


def _sampling_params(fields: ResponseFields, defaults: SamplingParams) -> SamplingParams:
    named: JsonObject = {name: getattr(defaults, name) for name in INHERITED}
    named |= {name: value for name in _COPIED if (value := getattr(fields, name)) is not None}
    if fields.stream_options is not None and not fields.stream:
        raise RequestError("stream_options needs stream=true", param="stream_options")
    return SamplingParams(
        **named,
        structured=_structured(fields),
        logit_bias=logit_bias(fields.logit_bias),
        max_tokens=_max_tokens(fields.max_output_tokens),
        logprobs=_logprobs(fields),
    )


def _max_tokens(count: int | None) -> int | None:
    if count is not None and count < 1:
        raise RequestError(f"max_output_tokens is {count}, expected 1 or more", param="max_output_tokens")
    return count


def _logprobs(fields: ResponseFields) -> int | None:
    count = fields.top_logprobs or 0
    if not 0 <= count <= _MOST_LOGPROBS:
        raise RequestError(f"top_logprobs is {count}, expected from 0 to 20", param="top_logprobs")
    if "message.output_text.logprobs" in (fields.include or ()):
        return count
    if count:
        message = 'top_logprobs needs include=["message.output_text.logprobs"], which shows them'
        raise RequestError(message, param="top_logprobs")
    return None


def _structured(fields: ResponseFields) -> StructuredOutput | None:
    asked = None if fields.text is None else fields.text.format
    try:
        if isinstance(asked, ObjectFormat):
            return StructuredOutput(json_object=True)
        if isinstance(asked, SchemaFormat):
            return StructuredOutput(json=asked.schema_)
    except RequestError as error:
        error.param = "text.format"
        raise
    return None


def _echo(fields: ResponseFields, params: SamplingParams, tools: _Tools) -> JsonObject:
    reasoning = fields.reasoning
    asked = None if fields.text is None or fields.text.format is None else msgspec.to_builtins(fields.text.format)
    return {
        "background": bool(fields.background),
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": fields.max_tool_calls,
        "metadata": fields.metadata or {},
        "model": fields.model,
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": fields.previous_response_id,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": {
            "effort": None if reasoning is None else reasoning.effort,
            "summary": None if reasoning is None else reasoning.summary or reasoning.generate_summary,
        },
        "safety_identifier": fields.safety_identifier,
        "service_tier": "default",
        "store": fields.store is not False,
        "temperature": params.temperature,
        "text": {"format": asked or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": fields.tool_choice or "auto",
        "tools": tools.shown,
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": fields.user,
    }
