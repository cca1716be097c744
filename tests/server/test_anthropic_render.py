"""Chunks → Anthropic's message, whole and as events; what the official client makes of the events is the message."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from headrace.completion import Collector
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.anthropic.broken_json import read_object
from headrace.server.dialects.anthropic.render import MessageRenderer, RenderOptions
from headrace.server.dialects.anthropic.thoughts import reveal
from headrace.server.dialects.base import Served
from headrace.server.errors import Failure
from headrace.types import Chunk, FinishReason, ToolCallDelta, Usage

SERVED = Served(
    name="m",
    version="1",
    fingerprint="fp",
    created=0,
    max_context=100,
    defaults=SamplingParams(),
    token_text=str,
    token_bytes=lambda _: None,
)
USAGE = Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, reasoning_tokens=2)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
CALLS = [
    Chunk(0, "", tool_calls=[ToolCallDelta(0, "call_1", "look", "")]),
    Chunk(0, "", tool_calls=[ToolCallDelta(0, arguments='{"a": '), ToolCallDelta(0, arguments='"é')]),
    Chunk(0, "", tool_calls=[ToolCallDelta(0, arguments='"}'), ToolCallDelta(1, "call_2", "see", "{}")]),
]
STOP = Chunk(0, "", finish_reason=FinishReason.STOP)


def events(chunks: Sequence[Chunk], options: RenderOptions, num_together: int = 1) -> list[dict[str, Any]]:
    renderer = MessageRenderer(SERVED, options)
    progress = [SimpleNamespace(usage=USAGE)]
    data = renderer.begin(progress)
    for start in range(0, len(chunks), num_together):
        data += renderer.chunks(0, chunks[start : start + num_together], progress)
    frames = (data + renderer.end(progress)).decode().removesuffix("\n\n").split("\n\n")
    found = []
    for frame in frames:
        name, line = frame.split("\n")
        found.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def put_together(chunks: Sequence[Chunk], options: RenderOptions) -> dict[str, Any]:
    """As the official client does it."""
    snapshot = None
    buffers: dict[int, bytes] = {}
    for event in events(chunks, options):
        if event["type"] != "ping":
            snapshot = accumulate_event(
                event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
            )  # fmt: skip
    assert snapshot is not None
    return snapshot.model_dump(exclude={"id"}, exclude_none=True)


def whole(chunks: Sequence[Chunk], options: RenderOptions) -> dict[str, Any]:
    request = SimpleNamespace(params=SamplingParams(), id="r", prompt_token_ids=list(range(10)))
    opened = SimpleNamespace(
        request=request, prompt=None, prompt_logprobs=None, num_cached_tokens=4, is_finished=True, predictions=[]
    )  # fmt: skip
    collector = Collector(opened)
    for chunk in chunks:
        collector.push(chunk)
    output = collector.result()
    output.outputs[0].token_ids, output.outputs[0].num_reasoning_tokens = [0] * 7, 2
    message = json.loads(MessageRenderer(SERVED, options).whole([output]))
    del message["id"]
    return message


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("omits", [False, True])
def test_thought_text_and_calls(omits: bool) -> None:
    chunks = [Chunk(0, "", reasoning="why"), Chunk(0, "be", reasoning=" not"), Chunk(0, "cause"), *CALLS, STOP]
    options = RenderOptions(max_tokens=50, omits_thoughts=omits)
    message = whole(chunks, options)
    thinking, text, *calls = message["content"]
    assert thinking["thinking"] == ("" if omits else "why not")
    assert reveal(thinking["signature"], "x") == ("why not" if omits else None)
    assert text == {"type": "text", "text": "because", "citations": None}
    assert calls == [
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": "é"}},
        {"type": "tool_use", "id": "call_2", "name": "see", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    usage = {"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 7}
    assert message["usage"] == {**usage, "output_tokens_details": {"thinking_tokens": 2}, "service_tier": "standard"}
    assert put_together(chunks, options) == without_nulls(message)


def test_each_thought_has_a_signature_of_its_own() -> None:
    chunks = [Chunk(0, "", reasoning="a"), Chunk(0, "so"), Chunk(0, "", reasoning="b"), STOP]
    content = put_together(chunks, RenderOptions(max_tokens=50, omits_thoughts=True))["content"]
    assert [reveal(block.get("signature"), "") for block in content] == ["a", None, "b"]


def test_the_order_of_events() -> None:
    chunks = [Chunk(0, "", reasoning="why"), Chunk(0, "so"), *CALLS, STOP]
    seen = [
        (event["type"].removeprefix("content_block_"), event["index"], event.get("delta", {}).get("type"))
        for event in events(chunks, RenderOptions(max_tokens=50))
        if "index" in event
    ]
    assert seen == [
        ("start", 0, None),
        ("delta", 0, "thinking_delta"),
        ("delta", 0, "signature_delta"),
        ("stop", 0, None),
        ("start", 1, None),
        ("delta", 1, "text_delta"),
        ("stop", 1, None),
        ("start", 2, None),
        *[("delta", 2, "input_json_delta")] * 3,
        ("stop", 2, None),
        ("start", 3, None),
        ("delta", 3, "input_json_delta"),
        ("stop", 3, None),
    ]
    assert (
        events(chunks, RenderOptions(max_tokens=50), num_together=3)[1:]
        == events(chunks, RenderOptions(max_tokens=50))[1:]
    )  # but for the id in the first


@pytest.mark.parametrize(
    ("last", "max_tokens", "expected"),
    [
        (STOP, 50, ("end_turn", None)),
        (Chunk(0, "", finish_reason=FinishReason.STOP, stop_reason="END"), 50, ("stop_sequence", "END")),
        (Chunk(0, "", finish_reason=FinishReason.LENGTH), 7, ("max_tokens", None)),
        (Chunk(0, "", finish_reason=FinishReason.LENGTH), 8, ("model_context_window_exceeded", None)),
    ],
)
def test_stop_reasons(last: Chunk, max_tokens: int, expected: tuple[str, str | None]) -> None:
    chunks, options = [Chunk(0, "x"), last], RenderOptions(max_tokens=max_tokens)
    message = whole(chunks, options)
    assert (message["stop_reason"], message["stop_sequence"]) == expected
    assert put_together(chunks, options) == without_nulls(message)


def test_calls_that_a_stop_sequence_or_the_limit_ends() -> None:
    stopped = Chunk(0, "", finish_reason=FinishReason.STOP, stop_reason="END")
    assert whole([*CALLS, stopped], RenderOptions(max_tokens=50))["stop_reason"] == "stop_sequence"
    cut = [*CALLS[:2], Chunk(0, "", finish_reason=FinishReason.LENGTH)]
    message = whole(cut, RenderOptions(max_tokens=7))
    assert (message["stop_reason"], message["content"][0]["input"]) == ("max_tokens", {})
    assert put_together(cut, RenderOptions(max_tokens=7))["content"] == message["content"]


def test_nothing_said_is_no_block() -> None:
    assert whole([STOP], RenderOptions(max_tokens=5))["content"] == []
    assert [event["type"] for event in events([STOP], RenderOptions(max_tokens=5))] == [
        *("message_start", "ping", "message_delta", "message_stop")
    ]


def test_an_error_in_mid_stream_has_the_request_id() -> None:
    renderer = MessageRenderer(SERVED, RenderOptions(max_tokens=5, request_id="req_7"))
    name, line = renderer.failure(Failure(503, "no room")).decode().strip().split("\n")
    assert name == "event: error"
    assert json.loads(line.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no room"},
        "request_id": "req_7",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a": 1', {}),
        ('{"a": 1, "b": "x', {"a": 1}),
        ('{"a": "x, y", "b": [1, 2, 3', {"a": "x, y", "b": [1, 2]}),
        ('{"a": "q\\"}, {", "b": {"c": {}, "d": tr', {"a": 'q"}, {', "b": {"c": {}}}),
        ('{"a": [{"b": "\\\\"}', {"a": [{"b": "\\"}]}),
        ("nonsense", {}),
        ('{"a": ' + "[" * 100_000, {}),
        (r'{"a": "\ud83d", "b": "\ud83d\ude00\u00e9"}', {"a": "?", "b": "😀é"}),
    ],
)
def test_arguments_that_were_broken_off(text: str, value: object) -> None:
    assert read_object(text) == value


def test_long_arguments_that_were_broken_off_take_no_time() -> None:
    begin = time.thread_time()
    assert read_object('{"a": [' + "1," * 1_000_000) == {"a": [1] * 1_000_000}
    assert time.thread_time() - begin < 10  # a copy of all of it at each comma took 80 s
