"""TGI's paths over HTTP against the stand-in engine: shapes, parameters, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken, serving

from headrace.errors import EngineError, Overloaded
from headrace.structured_output import StructuredOutput

IDS = FakeTokenizer().encode("hello")


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]


def post(base: str, path: str = "/generate", inputs: str = "hello", **parameters: Any) -> httpx.Response:
    return httpx.post(f"{base}{path}", json={"inputs": inputs, "parameters": parameters})


def test_whole(quick: str) -> None:
    response = post(quick, max_new_tokens=7)
    assert response.json() == {"generated_text": answer(IDS, 0, 7)}


def test_compatible_path_streams_or_answers_in_a_list(quick: str) -> None:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 4}}
    assert httpx.post(f"{quick}/", json=body).json() == [{"generated_text": answer(IDS, 0, 4)}]
    streamed = events(httpx.post(f"{quick}/", json={**body, "stream": True}))
    assert streamed[-1]["generated_text"] == answer(IDS, 0, 4)


def test_stream_has_an_event_for_each_token_and_the_text_in_the_last(quick: str) -> None:
    found = events(post(quick, "/generate_stream", max_new_tokens=5, details=True, top_n_tokens=2))
    assert [event["index"] for event in found] == [1, 2, 3, 4, 5]
    assert "".join(event["token"]["text"] for event in found) == answer(IDS, 0, 5)
    assert [event["generated_text"] for event in found] == [None] * 4 + [answer(IDS, 0, 5)]
    assert [event["details"] for event in found[:-1]] == [None] * 4
    assert found[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 5,
        "seed": None,
        "input_length": len(IDS),
    }
    assert all(len(event["top_tokens"]) == 2 and event["token"]["logprob"] == -1.5 for event in found)


def test_details_are_the_stream_put_together(quick: str) -> None:
    details = post(quick, max_new_tokens=5, details=True, decoder_input_details=True, top_n_tokens=2).json()["details"]
    streamed = events(post(quick, "/generate_stream", max_new_tokens=5, top_n_tokens=2))
    assert details["tokens"] == [event["token"] for event in streamed]
    assert details["top_tokens"] == [event["top_tokens"] for event in streamed]
    assert [token["id"] for token in details["prefill"]] == IDS
    assert details["prefill"][0]["logprob"] is None
    assert details["prefill"][1] == {"id": ord("h"), "text": "h", "logprob": -1.5}
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 5, None)


def test_full_text_begins_with_the_prompt(quick: str) -> None:
    assert post(quick, max_new_tokens=3, return_full_text=True).json()["generated_text"] == "hello" + answer(IDS, 0, 3)
    last = events(post(quick, "/generate_stream", max_new_tokens=3, return_full_text=True))[-1]
    assert last["generated_text"] == "hello" + answer(IDS, 0, 3)


def test_best_of_answers_with_one_and_shows_the_others(quick: str) -> None:
    found = post(quick, max_new_tokens=3, details=True, best_of=3, do_sample=True).json()
    others = found["details"]["best_of_sequences"]
    texts = {found["generated_text"], *(other["generated_text"] for other in others)}
    assert texts == {answer(IDS, index, 3) for index in range(3)}
    assert isinstance(found["details"]["seed"], int)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, {"temperature": 0.0, "seed": None, "top_k": 0, "logprobs": None}),
        ({"temperature": 1.0, "seed": 3}, {"temperature": 0.0}),
        ({"temperature": 0.5, "seed": 3}, {"temperature": 0.5, "seed": 3}),
        ({"do_sample": True, "seed": 3}, {"temperature": 1.0, "seed": 3}),
        ({"top_k": 4}, {"temperature": 1.0, "top_k": 4}),
        ({"typical_p": 0.4}, {"temperature": 1.0, "typical_p": 0.4}),
        ({"top_p": 1.0}, {"temperature": 0.0}),
        ({"frequency_penalty": 0.5, "repetition_penalty": 1.2}, {"frequency_penalty": 0.5, "repetition_penalty": 1.2}),
        ({"stop": ["a"]}, {"stop": ("a",), "include_stop_str_in_output": True}),
        ({"grammar": {"type": "regex", "value": "a+"}}, {"structured": StructuredOutput(regex="a+")}),
        ({"grammar": {"type": "json", "value": "{}"}}, {"structured": StructuredOutput(json="{}")}),
        (
            {"grammar": {"type": "json_schema", "value": {"name": "x", "schema": {"type": "null"}}}},
            {"structured": StructuredOutput(json={"type": "null"})},
        ),
    ],
    ids=str,
)
def test_parameters_reach_the_sampler(quick: str, quick_llm: FakeLLM, asked: dict, got: dict) -> None:
    assert post(quick, max_new_tokens=2, **asked).status_code == 200
    params = quick_llm.streams[-1].params
    assert {name: getattr(params, name) for name in got} == got


def test_the_prompt_is_truncated_to_its_last_tokens(quick: str, quick_llm: FakeLLM) -> None:
    assert post(quick, max_new_tokens=2, truncate=3).status_code == 200
    assert quick_llm.streams[-1].prompt_token_ids == list(b"llo")


def test_as_many_tokens_as_there_is_room_for_unless_a_number_is_sent(quick_llm: FakeLLM) -> None:
    with serving(FakeLLM(max_context=20)) as base:
        assert len(post(base).json()["generated_text"]) == 20 - len(IDS)
        assert post(base, max_new_tokens=None).status_code == 200
        refused = post(base, max_new_tokens=100)
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"temperature": 0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"best_of": 2}, "do_sample"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "seed"),
        ({"best_of": 5000, "do_sample": True}, "best_of"),
        ({"truncate": 0}, "truncate"),
        ({"watermark": True}, "watermark"),
        ({"decoder_input_details": True}, "details"),
        ({"top_n_tokens": 50, "details": True}, "top_n_tokens"),
        ({"top_n_tokens": 2}, "details"),
        ({"adapter_id": "nobody"}, "nobody"),
        ({"grammar": {"type": "xml", "value": "a"}}, "json, json_schema or regex"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"stop": "a"}, "stop"),
        ({"stop": ["a"] * 257}, "stop"),
        ({"seed": 2**70}, "seed"),
    ],
    ids=str,
)
def test_mistakes_are_named(quick: str, parameters: dict, word: str) -> None:
    response = post(quick, **parameters)
    assert response.status_code in (422, 404)
    assert set(response.json()) == {"error", "error_type"}
    assert response.json()["error_type"] == "validation"
    assert word in response.json()["error"]


def test_mistakes_of_streams_and_bodies(quick: str) -> None:
    assert "best_of" in post(quick, "/generate_stream", best_of=2, do_sample=True).json()["error"]
    assert "/generate" in post(quick, "/generate_stream", details=True, decoder_input_details=True).json()["error"]
    assert "inputs is empty" in post(quick, inputs="").json()["error"]
    refused = httpx.post(f"{quick}/generate", json={"inputs": "a", "stream": True})
    assert "/generate_stream" in refused.json()["error"]
    assert (
        httpx.post(f"{quick}/generate", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    )


def test_failures_have_tgis_statuses() -> None:
    for error, status, kind in (
        (EngineError("it fell over"), 424, "generation"),
        (Overloaded("too many"), 429, "overloaded"),
    ):
        with serving(broken(error)) as base:
            response = post(base, max_new_tokens=3)
            assert (response.status_code, response.json()["error_type"]) == (status, kind)
            assert str(error) in response.json()["error"]


def test_a_stream_that_breaks_says_so_in_its_last_event() -> None:
    with serving(broken(EngineError("it fell over"), after=2)) as base:
        found = events(post(base, "/generate_stream", max_new_tokens=5))
        assert [event["token"]["id"] for event in found[:-1]] == list(answer(IDS, 0, 2).encode())
        assert found[-1] == {"error": "Request failed during generation: it fell over", "error_type": "generation"}
