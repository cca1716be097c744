"""Every field of the spec's CreateResponse, with values of every kind: taken, or a 400 that names it; and answers of
the shape that the official client's types have."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM
from features.asking import names
from features.openapi import Walk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Incoming, Served
from headrace.server.dialects.openai.responses.parse import parse_response
from headrace.server.stored.responses import ResponseStore

TAKEN = {
    *("background=true", "background=false", "include=message.output_text.logprobs", "instructions", "metadata"),
    *("include=reasoning.encrypted_content", "max_output_tokens", "max_tool_calls", "parallel_tool_calls=true"),
    *("parallel_tool_calls=false", "prompt_cache_key", "prompt_cache_options", "prompt_cache_options.mode=implicit"),
    *("prompt_cache_retention=in_memory", "prompt_cache_retention=24h", "reasoning", "reasoning.context=auto"),
    *(f"reasoning.effort={effort}" for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    *("reasoning.generate_summary=auto", "reasoning.mode=standard", "reasoning.summary=auto", "safety_identifier"),
    *("service_tier=auto", "service_tier=default", "store=true", "store=false", "stream=true", "stream=false"),
    *("stream_options", "stream_options.include_obfuscation=true", "stream_options.include_obfuscation=false"),
    *("temperature", "text", "text.format[text]", "text.format[json_object]", "text.verbosity=medium", "top_logprobs"),
    *("text.format[json_schema]", "text.format[json_schema].description", "text.format[json_schema].strict=true"),
    *("text.format[json_schema].strict=false", "text.format[json_schema].name", "text.format[json_schema].schema"),
    *("tool_choice=none", "tool_choice=auto", "tool_choice=required", "tool_choice[allowed_tools]", "top_p", "user"),
    *("tool_choice[function]", "tool_choice[function].name", "truncation=disabled", "input"),
    *("tools[function]", "tools[function].description", "tools[function].strict=true", "tools[function].strict=false"),
    *("tools[function].name", "tools[function].defer_loading=false", "tools[function].parameters"),
}
"""Labels of Walk; all else is refused, but for the items below."""
ITEMS = ("input[message]", "input[function_call]", "input[function_call_output]", "input[reasoning]")
NOT_IN_ITEMS = (
    "[input_image]",
    "[input_file]",
    "cache_breakpoint",
    ".phase",
    ".caller",
    ".namespace",
    ".encrypted_content",
)
NEEDS: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"include": ["message.output_text.logprobs"]},
    "tool_choice": {"tools": [{"type": "function", "name": "text"}]},
}
CALL = {"type": "function_call", "call_id": "text", "name": "text", "arguments": "{}"}
SERVED = Served(
    name="fake",
    version="0",
    fingerprint="fp",
    created=0,
    max_context=100,
    defaults=SamplingParams(),
    token_text=str,
    token_bytes=lambda _: None,
    card=None,
)


def refused_as(field: str, value: Any) -> str | None:
    """None for what is taken; else the parameter that the error names."""
    if field == "input" and isinstance(value, list):
        value = [{"role": "user", "content": "Hi."}, CALL, *({"call_id": "text", **item} for item in value)]
        for item in value:
            if item.get("type") not in ("function_call", "function_call_output"):
                item.pop("call_id", None)
    if field == "tool_choice" and isinstance(value, dict) and value.get("tools") == [{}]:
        value = {**value, "tools": [{"type": "function", "name": "text"}]}
    body = {"model": "fake", "input": "Hi.", **NEEDS.get(field, {}), field: value}
    try:
        parse_response(
            Incoming(method="POST", path="/v1/responses", body=json.dumps(body).encode()),
            SERVED,
            ResponseStore(10, 10**6, 1000),
        )
    except RequestError as error:
        return error.param or ""
    return None


def is_taken(label: str) -> bool:
    if label in TAKEN or label.startswith("tool_choice[allowed_tools]"):
        return True
    return label.startswith(ITEMS) and not any(part in label for part in NOT_IN_ITEMS)


def test_every_parameter(spec_schemas: Any) -> None:
    wrong, taken = [], set()
    samples = [sample for sample in Walk(spec_schemas).fields("CreateResponse") if sample[0] != "model"]
    for field, label, value in samples:
        found = refused_as(field, value)
        if is_taken(label) and not (label == "input" and isinstance(value, list)):  # items of no one type
            taken.add(label)
            if found is not None:
                wrong.append(f"{label} = {value!r}: refused as {found}")
        elif found is None or not names(found, field):
            wrong.append(f"{label} = {value!r}: taken" if found is None else f"{label}: the error names {found!r}")
    assert not wrong
    assert len(samples) > 1000
    assert taken >= TAKEN


@pytest.mark.parametrize("fields", [{}, {"background": True}, {"include": ["message.output_text.logprobs"]}])
def test_answers_have_the_clients_types(quick: str, fields: dict[str, Any]) -> None:
    tool = {"type": "function", "name": "look", "strict": True, "parameters": {"type": "object"}}
    body = {"model": "fake", "input": "Hi.", "tools": [tool], "max_output_tokens": 4, **fields}
    made = httpx.post(f"{quick}/v1/responses", json=body).json()
    Response.model_validate(made)
    if fields.get("background"):
        return
    events = httpx.post(f"{quick}/v1/responses", json={**body, "stream": True}).text.split("\n\n")[:-1]
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        kind, data = event.split("\n")
        read = adapter.validate_json(data.removeprefix("data: "))
        assert read.type == kind.removeprefix("event: ")


def test_tools_reach_the_template(serve: Any) -> None:
    llm = FakeLLM()
    tools = [{"type": "function", "name": name, "strict": False} for name in ("look", "go")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "go"}]}
    body = {"model": "fake", "input": "Hi.", "tools": tools, "tool_choice": choice}
    assert httpx.post(f"{serve(llm)}/v1/responses", json=body).status_code == 200
    assert llm.chats[-1]["tools"] == [{"type": "function", "function": {"name": "go", "strict": False}}]


def test_reasoning_effort_reaches_the_template(serve: Any) -> None:
    llm = FakeLLM()
    httpx.post(f"{serve(llm)}/v1/responses", json={"model": "fake", "input": "Hi.", "reasoning": {"effort": "low"}})
    assert llm.chats[-1]["reasoning_effort"] == "low"
