"""llama-server's paths: completions of all kinds of prompts, probabilities, timings, its facts and its mistakes."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken, serving

from headrace import AsyncLLM
from headrace.errors import EngineError
from headrace.server.dialects.llama_server.requests import SAMPLERS
from headrace.structured_output import StructuredOutput
from headrace.text.infill import Infill, infill_of

IDS = FakeTokenizer().encode("hello")
MESSAGES = [{"role": "user", "content": "A boat"}]
OPENING = "Once upon a time"


def complete(base: str, path: str = "/completion", **fields: Any) -> Any:
    response = httpx.post(f"{base}{path}", json={"prompt": "hello", "n_predict": 5} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]


def test_whole(quick: str) -> None:
    found = complete(quick, return_tokens=True)
    assert found["content"] == answer(IDS, 0, 5)
    assert found["tokens"] == list(answer(IDS, 0, 5).encode())
    assert (found["tokens_predicted"], found["tokens_evaluated"], found["tokens_cached"]) == (5, len(IDS), 3)
    assert (found["stop"], found["stop_type"], found["stopping_word"], found["truncated"]) == (
        True,
        "limit",
        "",
        False,
    )
    assert (found["model"], found["prompt"], found["index"], found["id_slot"]) == ("fake", "hello", 0, -1)
    assert found["generation_settings"]["n_predict"] == 5
    assert found["generation_settings"]["top_k"] == 40
    assert (found["timings"]["prompt_n"], found["timings"]["cache_n"], found["timings"]["predicted_n"]) == (3, 3, 5)
    assert found["timings"]["prompt_ms"] > 0
    assert complete(quick, "/completions")["content"] == found["content"]
    assert complete(quick)["tokens"] == []


def test_stream(quick: str) -> None:
    body = {"prompt": "hello", "n_predict": 5, "stream": True, "timings_per_token": True}
    *pieces, last = events(httpx.post(f"{quick}/completion", content=json.dumps(body)))  # no Content-Type, as curl
    assert "".join(piece["content"] for piece in pieces) == answer(IDS, 0, 5)
    assert [piece["tokens"] for piece in pieces] == [[ord(letter)] for letter in answer(IDS, 0, 5)]
    assert [piece["timings"]["predicted_n"] for piece in pieces] == [1, 2, 3, 4, 5]
    assert not any(piece["stop"] for piece in pieces)
    assert (last["content"], last["stop"], last["stop_type"], last["tokens_predicted"]) == ("", True, "limit", 5)
    assert last["generation_settings"]["stream"] is True


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[256, 97, 98]]),
        ([97, 98], [[97, 98]]),
        ([97, "bc", 100], [[97, 98, 99, 100]]),
        (["ab", 99, "d"], [[256, 97, 98, 99, 100]]),
        (["ab", "c"], [[256, 97, 98], [256, 99]]),
        (["ab", [99, "d"], [101]], [[256, 97, 98], [99, 100], [101]]),
    ],
    ids=str,
)
def test_kinds_of_prompts(quick: str, prompt: Any, ids: list[list[int]]) -> None:
    found = complete(quick, prompt=prompt)
    found = found if isinstance(found, list) else [found]
    assert [one["content"] for one in found] == [answer(each, 0, 5) for each in ids]
    assert [one["index"] for one in found] == list(range(len(ids)))


def test_several_completions(quick: str) -> None:
    found = complete(quick, prompt=["hello", "x"], n_cmpl=2)
    expected = [answer(FakeTokenizer().encode(text), index, 5) for text in ("hello", "x") for index in (0, 1)]
    assert [one["content"] for one in found] == expected
    body = {"prompt": ["hello", "x"], "n": 2, "n_predict": 5, "stream": True}
    texts = [""] * 4
    for event in events(httpx.post(f"{quick}/completion", json=body)):
        texts[event["index"]] += event["content"]
    assert texts == expected


def test_only_the_prompt(quick: str) -> None:
    found = complete(quick, n_predict=0, n_probs=1)
    assert (found["content"], found["tokens_predicted"], found["tokens_evaluated"]) == ("", 0, len(IDS))
    [last] = events(httpx.post(f"{quick}/completion", json={"prompt": "a", "n_predict": 0, "stream": True}))
    assert last["stop"]


def test_probabilities(quick: str) -> None:
    found = complete(quick, n_probs=2)["completion_probabilities"]
    assert [one["token"] for one in found] == list(answer(IDS, 0, 5))
    assert all(bytes(one["bytes"]).decode() == one["token"] and one["logprob"] == -1.5 for one in found)
    assert all([top["logprob"] for top in one["top_logprobs"]] == [-0.5, -1.0] for one in found)
    body = {"prompt": "hello", "n_predict": 5, "n_probs": 2, "stream": True}
    *pieces, _ = events(httpx.post(f"{quick}/completion", json=body))
    assert [one for piece in pieces for one in piece["completion_probabilities"]] == found


def test_only_some_fields(quick: str) -> None:
    found = complete(quick, response_fields=["content", "generation_settings/n_predict", "nothing/here"])
    assert found == {"content": answer(IDS, 0, 5), "n_predict": 5}


def test_defaults_are_llama_servers(quick: str, quick_llm: FakeLLM) -> None:
    complete(quick)
    params = quick_llm.streams[-1].params
    found = (params.temperature, params.top_k, params.top_p, params.min_p, params.repetition_penalty)
    assert found == (0.8, 40, 0.95, 0.05, 1.0)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"repeat_penalty": 1.2, "top_k": 0}, {"repetition_penalty": 1.2, "top_k": 0}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, {"repetition_penalty": 1.1, "penalty_last_n": 64}),
        ({"typ_p": 0.5, "top_n_sigma": 2}, {"typical_p": 0.5, "top_n_sigma": 2}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": 4294967295}, {"seed": None}),
        ({"seed": 7}, {"seed": 7}),
        ({"logit_bias": [[97, 1.5], ["98", False]]}, {"logit_bias": {97: 1.5, 98: -1e6}}),
        ({"logit_bias": {"97": -1}}, {"logit_bias": {97: -1.0}}),
        ({"stop": ["x", "y"], "ignore_eos": True}, {"stop": ("x", "y"), "ignore_eos": True}),
        ({"grammar": 'root ::= "a"'}, {"structured": StructuredOutput(grammar='root ::= "a"')}),
        ({"json_schema": {"type": "null"}}, {"structured": StructuredOutput(json={"type": "null"})}),
        ({"mirostat": 2, "mirostat_tau": 3}, {"mirostat": 2, "mirostat_tau": 3}),
        ({"samplers": list(SAMPLERS)}, {}),
        ({"id_slot": 3, "n_keep": 4, "cache_prompt": True, "lora": [], "min_keep": 0, "t_max_predict_ms": 0}, {}),
    ],
    ids=str,
)
def test_parameters_reach_the_sampler(quick: str, quick_llm: FakeLLM, asked: dict, got: dict) -> None:
    complete(quick, **asked)
    params = quick_llm.streams[-1].params
    assert {name: getattr(params, name) for name in got} == got


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"post_sampling_probs": True}, "post_sampling_probs"),
        ({"samplers": ["top_k"]}, "samplers"),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"dry_multiplier": 1.0, "repeat_last_n": 64}, "repeat_last_n"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_predict": 3, "max_tokens": 4}, "max_tokens"),
        ({"n_probs": 100}, "n_probs"),
        ({"n_cmpl": 0}, "n_cmpl"),
        ({"logit_bias": [["hello", 1]]}, "logit_bias"),
        ({"logit_bias": [[1, True]]}, "logit_bias"),
        ({"grammar": "root ::= x", "json_schema": {}}, "grammar"),
        ({"mirostat": 1}, "mirostat"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[], "a"]}, "prompt"),
        ({"prompt": [1, [2]]}, "prompt"),
        ({"prompt": {"prompt_string": "a"}}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"return_progress": True}, "return_progress"),
        ({"nonsense": 1}, "nonsense"),
        ({"n_indent": 2}, "n_indent"),
        ({"model": "other"}, "other"),
    ],
    ids=str,
)
def test_mistakes_are_named(quick: str, fields: dict, word: str) -> None:
    response = httpx.post(f"{quick}/completion", json={"prompt": "hello", "n_predict": 5} | fields)
    error = response.json()["error"]
    assert (error["code"], error["type"]) in [(400, "invalid_request_error"), (404, "not_found_error")]
    assert response.status_code == error["code"]
    assert word in error["message"]


def test_the_output_ends_with_the_context(quick: str) -> None:
    with serving(FakeLLM(max_context=20)) as base:
        for num_tokens in (-1, 100):
            assert len(complete(base, n_predict=num_tokens)["content"]) == 20 - len(IDS)
        response = httpx.post(f"{base}/completion", json={"prompt": "x" * 30})
        assert response.json()["error"]["type"] == "exceed_context_size_error"


def test_failures() -> None:
    with serving(broken(EngineError("it fell over"))) as base:
        response = httpx.post(f"{base}/completion", json={"prompt": "a"})
        assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    with serving(broken(EngineError("it fell over"), after=2)) as base:
        found = events(httpx.post(f"{base}/completion", json={"prompt": "a", "stream": True}))
        assert found[-1]["error"] == {"code": 500, "message": "it fell over", "type": "server_error"}


def test_the_cache_can_be_left_alone(quick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = FakeLLM()
    salts = []
    submit = llm.submit

    def noting(prompt: Any, *args: Any, **options: Any) -> Any:
        salts.append(prompt["cache_salt"])
        return submit(prompt, *args, **options)

    monkeypatch.setattr(llm, "submit", noting)
    with serving(llm) as base:
        for cache_prompt in (True, False, False):
            complete(base, cache_prompt=cache_prompt)
    assert salts[0] is None
    assert len({*salts}) == 3


def test_why_it_stopped(base: str) -> None:
    options: dict[str, Any] = {"prompt": OPENING, "temperature": 0, "n_predict": 40}
    text = complete(base, **options)["content"]
    word = re.findall(r"\w+", text)[5]
    stopped = complete(base, **options, stop=[word])
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", word)
    assert text.startswith(stopped["content"] + word)
    assert complete(base, **options | {"n_predict": -1})["stop_type"] in ("eos", "limit")


def test_structured_output(base: str) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    assert isinstance(
        json.loads(complete(base, prompt=OPENING, n_predict=60, json_schema=schema)["content"])["age"], int
    )
    grammar = 'root ::= ("yes" | "no")'
    assert complete(base, prompt=OPENING, n_predict=9, grammar=grammar)["content"] in ("yes", "no")


def test_props_and_slots(base: str, llm: AsyncLLM) -> None:
    props = httpx.get(f"{base}/props").json()
    assert props["total_slots"] == llm.config.max_sequences
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert (props["bos_token"], props["eos_token"]) == (llm.tokenizer.bos_token, llm.tokenizer.eos_token)
    assert props["chat_template"] == llm.card.chat_template
    assert "/" not in props["model_path"]
    slots = httpx.get(f"{base}/slots?fail_on_no_slot=1").json()
    assert [slot["id"] for slot in slots] == list(range(props["total_slots"]))
    assert not any(slot["is_processing"] for slot in slots)
    response = httpx.post(f"{base}/props", json={})
    assert (response.status_code, "POST /props" in response.json()["error"]["message"]) == (400, True)


def test_tokens(base: str, llm: AsyncLLM) -> None:
    text = "Zoë — a boat"
    ids = llm.tokenizer.encode(text)
    assert httpx.post(f"{base}/tokenize", json={"content": text, "add_special": True}).json() == {"tokens": ids}
    assert httpx.post(f"{base}/tokenize", json={"content": text}).json() == {"tokens": ids[1:]}
    pieces = httpx.post(f"{base}/tokenize", json={"content": text, "with_pieces": True}).json()["tokens"]
    spelled = b"".join(
        bytes(one["piece"]) if isinstance(one["piece"], list) else one["piece"].encode() for one in pieces
    )
    assert spelled.decode() == text
    assert any(isinstance(one["piece"], list) for one in pieces), "a character of several tokens"
    assert httpx.post(f"{base}/detokenize", json={"tokens": ids[1:]}).json() == {"content": text}
    for path, body in (("tokenize", {"content": "a", "parse_special": False}), ("detokenize", {"tokens": [10**9]})):
        response = httpx.post(f"{base}/{path}", json=body)
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_apply_template(base: str, llm: AsyncLLM) -> None:
    found = httpx.post(f"{base}/apply-template", json={"messages": MESSAGES}).json()
    assert found == {"prompt": llm.encode_chat(MESSAGES).text}
    chat = httpx.post(
        f"{base}/v1/chat/completions",
        json={"model": "stories", "messages": MESSAGES, "temperature": 0, "max_tokens": 10, "repetition_penalty": 1},
    ).json()
    same = complete(base, prompt=llm.tokenizer.encode(found["prompt"], False), temperature=0, n_predict=10)
    assert same["content"] == chat["choices"][0]["message"]["content"]


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_embedding(base: str, path: str) -> None:
    one, other = httpx.post(f"{base}{path}", json={"content": ["a boat", "a house"]}).json()
    assert (one["index"], other["index"]) == (0, 1)
    [vector] = one["embedding"]
    assert sum(value * value for value in vector) == pytest.approx(1)
    assert httpx.post(f"{base}{path}", json={"input": "a boat"}).json() == [one]
    assert httpx.post(f"{base}{path}", json={"input": "a", "content": "b"}).status_code == 400
    assert httpx.post(f"{base}{path}", json={"input": "a", "embd_normalize": -1}).status_code == 400


def test_infill_is_refused_without_its_tokens(base: str) -> None:
    body = {"input_prefix": "def a(", "input_suffix": "): pass"}
    response = httpx.post(f"{base}/infill", json=body)
    assert (response.status_code, "fill in the middle" in response.json()["error"]["message"]) == (400, True)


class CodeTokenizer(FakeTokenizer):
    """Knows where a middle goes; its marks are ids of control characters."""

    def token_id(self, name: str) -> int | None:
        return {"<fim_prefix>": 1, "<fim_suffix>": 2, "<fim_middle>": 3}.get(name)


def test_infill() -> None:
    assert infill_of(CodeTokenizer()) == Infill(1, 2, 3)
    assert infill_of(FakeTokenizer()) is infill_of(None) is None
    llm = FakeLLM(tokenizer=CodeTokenizer())
    with serving(llm) as base:
        body = {"input_prefix": "a(", "input_suffix": ")", "n_predict": 4, "prompt": "x"}
        found = httpx.post(f"{base}/infill", json=body).json()
        ids = [256, 1, *b"a(", 2, *b")", 3, *b"x"]
        assert llm.streams[-1].prompt_token_ids == ids
        assert found["content"] == answer(ids, 0, 4)
        extra = {"input_extra": [{"filename": "b.py", "text": "B"}], "prompt": None}
        httpx.post(f"{base}/infill", json=body | extra).raise_for_status()
        assert llm.streams[-1].prompt_token_ids == [256, 1, *b"b.py\nB\na(", 2, *b")", 3]
        assert httpx.post(f"{base}/infill", json=body | {"prompt": [1]}).status_code == 400
