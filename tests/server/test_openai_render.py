"""Rendered answers against OpenAI's own schemas, and the corners that a live server does not show."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fake_llm import FakeTokenizer

from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Incoming, Served
from headrace.server.dialects.logprobs import TokenNames, chat_logprobs, completion_logprobs
from headrace.server.dialects.openai.models import list_models
from headrace.server.dialects.openai.render import CompletionRenderer, RenderOptions, render_failure
from headrace.server.dialects.openai.render_chat import ChatRenderer
from headrace.server.errors import Failure
from headrace.types import Chunk, CompletionOutput, FinishReason, Logprob, RequestOutput

SERVED = Served(
    name='a "quoted" näme',
    version="1",
    fingerprint="fp_1",
    created=5,
    max_context=64,
    defaults=SamplingParams(),
    token_text=FakeTokenizer().token_text,
    token_bytes=FakeTokenizer().token_bytes,
)
LOGPROBS = [{65: Logprob(-0.1, 1, "A"), 66: Logprob(-2.0, 2, "B")}, {67: Logprob(-math.inf, 9, "C")}]
OUTPUT = RequestOutput(
    "r",
    "hi",
    [104, 105],
    [CompletionOutput(0, 'A"\n€', [65, 67], -0.1, LOGPROBS, "stop", "END")],
    prompt_logprobs=[None, {105: Logprob(-1.0, 4, "i")}],
    num_cached_tokens=1,
)
CHUNKS = [
    Chunk(0, 'A"\n', [65], LOGPROBS[:1]),
    Chunk(0, "", []),
    Chunk(0, "€", [67], LOGPROBS[1:], FinishReason.STOP, "END"),
]
EVERY = RenderOptions(logprobs=2, include_usage=True)


def events(*parts: bytes) -> list[Any]:
    frames = b"".join(parts).decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def streamed(renderer: ChatRenderer | CompletionRenderer) -> list[Any]:
    return events(
        renderer.begin([OUTPUT]), *(renderer.chunks(0, [chunk], [OUTPUT]) for chunk in CHUNKS), renderer.end([OUTPUT])
    )


def check(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str = "$") -> list[str]:
    """What of `value` breaks `schema`: the part of JSON Schema that OpenAI's response types use."""
    if value is None and schema.get("nullable"):
        return []
    if "$ref" in schema:
        return check(value, schemas[schema["$ref"].rpartition("/")[2]], schemas, path)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            tries = [check(value, option, schemas, path) for option in schema[key]]
            return [] if [] in tries else tries[0]
    problems = [problem for part in schema.get("allOf", []) for problem in check(value, part, schemas, path)]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema.get("type")
    if kind == "null" and value is not None:
        return [f"{path}: not null"]
    if kind in kinds and not isinstance(value, kinds[kind]):
        return [f"{path}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    if isinstance(value, dict):
        problems += [f"{path}: lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, part in schema.get("properties", {}).items():
            if name in value:
                problems += check(value[name], part, schemas, f"{path}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            problems += check(item, schema.get("items", {}), schemas, f"{path}[{index}]")
    return problems


@pytest.mark.parametrize("options", [RenderOptions(), EVERY], ids=["plain", "everything"])
def test_answers_fit_the_spec(spec_schemas: dict[str, Any], options: RenderOptions) -> None:
    whole = json.loads(ChatRenderer(SERVED, options).whole([OUTPUT]))
    assert check(whole, spec_schemas["CreateChatCompletionResponse"], spec_schemas) == []
    for event in streamed(ChatRenderer(SERVED, options)):
        assert check(event, spec_schemas["CreateChatCompletionStreamResponse"], spec_schemas) == []
    text = json.loads(CompletionRenderer(SERVED, options).whole([OUTPUT]))
    assert check(text, spec_schemas["CreateCompletionResponse"], spec_schemas) == []
    error = json.loads(render_failure(Failure(400, "no", "n", None)))
    assert check(error, spec_schemas["ErrorResponse"], spec_schemas) == []
    models = json.loads(list_models(Incoming(method="GET", path="/v1/models"), SERVED).body)
    assert check(models, spec_schemas["ListModelsResponse"], spec_schemas) == []


def test_the_schema_check_can_fail(spec_schemas: dict[str, Any]) -> None:
    schema = spec_schemas["CreateChatCompletionResponse"]
    whole = json.loads(ChatRenderer(SERVED, EVERY).whole([OUTPUT]))
    whole["choices"][0]["finish_reason"] = "abort"
    del whole["choices"][0]["message"]["refusal"]
    whole["usage"]["prompt_tokens"] = "2"
    assert len(check(whole, schema, spec_schemas)) == 3


def test_a_stream_adds_up_to_the_whole() -> None:
    role, *pieces, usage = streamed(ChatRenderer(SERVED, EVERY))
    whole = json.loads(ChatRenderer(SERVED, EVERY).whole([OUTPUT]))
    [choice] = whole["choices"]
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(pieces) == 2, "a chunk that says nothing is not sent"
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == choice["message"]["content"]
    content = [entry for piece in pieces for entry in piece["choices"][0]["logprobs"]["content"]]
    assert content == choice["logprobs"]["content"]
    assert (pieces[-1]["choices"][0]["finish_reason"], pieces[-1]["choices"][0]["stop_reason"]) == ("stop", "END")
    assert usage["usage"] == whole["usage"]
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert {event["model"] for event in (role, *pieces, usage)} == {SERVED.name}


@pytest.mark.parametrize("renderer", [ChatRenderer, CompletionRenderer])
def test_padded_events_have_one_of_few_sizes(renderer: Any) -> None:
    padded = renderer(SERVED, RenderOptions(obfuscation=True))
    chunks = [Chunk(0, "x" * length, [length]) for length in range(1, 150)]
    for one in chunks:
        event = padded.chunks(0, [one], [OUTPUT])
        assert len(event) % 128 == 0
        body = json.loads(event.removeprefix(b"data: "))
        assert set(body) - {"obfuscation"} == set(
            json.loads(renderer(SERVED, RenderOptions()).chunks(0, [one], [OUTPUT])[6:])
        )
    assert b"obfuscation" not in renderer(SERVED, RenderOptions()).chunks(0, chunks, [OUTPUT])


def test_log_probabilities_that_json_has_no_word_for() -> None:
    shown = chat_logprobs([67], LOGPROBS[1:], 0, TokenNames(SERVED))
    assert shown["content"] == [{"token": "C", "logprob": -9999.0, "bytes": [67], "top_logprobs": []}]


def test_part_of_a_character_keeps_its_bytes() -> None:
    shown = chat_logprobs([0xE2], [{0xE2: Logprob(-1.0, 1, "\ufffd")}], 1, TokenNames(SERVED))
    assert (shown["content"][0]["token"], shown["content"][0]["bytes"]) == ("\ufffd", [0xE2])


def test_completion_logprobs_of_equal_texts_and_of_the_first_token() -> None:
    position = {1: Logprob(-1.0, 1, "x"), 2: Logprob(-2.0, 2, "x"), 3: Logprob(-9.0, 30, "z")}
    shown = completion_logprobs([65, 3], [None, position], 2, 10, TokenNames(SERVED))
    assert shown == {
        "tokens": ["A", "z"],
        "token_logprobs": [None, -9.0],
        "top_logprobs": [None, {"x": -1.0, "z": -9.0}],
        "text_offset": [10, 11],
    }
