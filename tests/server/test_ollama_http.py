"""Ollama's dialect on the wire: what curl sends, what browsers may not, and every option."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fake_llm import CARD, FakeLLM

from headrace.errors import RequestError
from headrace.model_card import ModelCard
from headrace.pooled import EmbeddingOutput, EmbeddingRequestOutput
from headrace.sampling_params import SamplingParams
from headrace.server.dialects.base import Call, ChatPrompt, Incoming, Served, TextPrompt
from headrace.server.dialects.ollama.models import show_model
from headrace.server.dialects.ollama.parse import parse_chat, parse_generate
from headrace.server.dialects.ollama.render import ChatRenderer, RenderOptions, render_failure
from headrace.server.errors import describe
from headrace.text.infill import Infill
from headrace.types import CompletionOutput, RequestOutput, Times

SERVED = Served(
    name="org/Model",
    version="1",
    fingerprint="fp",
    created=0,
    max_context=100,
    defaults=SamplingParams(),
    card=ModelCard(chat_template="{{ messages }}", recommended={"temperature": 0.6}),
    adapters=lambda: {"tuned": "folder"},
    token_text=chr,
    token_bytes=lambda _: None,
)
USER = {"role": "user", "content": "x"}


def generate(served: Served = SERVED, **fields: Any) -> Call:
    call = parse_generate(_incoming({"model": "org/Model", "prompt": "x", **fields}), served)
    assert isinstance(call, Call)
    return call


def chat(**fields: Any) -> Call:
    call = parse_chat(_incoming({"model": "org/Model", "messages": [USER], **fields}), SERVED)
    assert isinstance(call, Call)
    return call


def _incoming(fields: Any) -> Incoming:
    return Incoming(method="POST", path="/", body=json.dumps(fields).encode())


def refusal(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        generate(**fields)
    return caught.value


def test_what_a_request_leaves_out_is_the_models_or_ollamas() -> None:
    params = generate().params
    assert params == SamplingParams(temperature=0.6, top_k=40, top_p=0.9, max_tokens=None)
    assert generate().max_context == 100
    assert generate().stream
    assert not generate(stream=False).stream


def test_options() -> None:
    options = {
        **{"num_predict": 7, "num_ctx": 50, "temperature": 0.1, "top_k": 3, "top_p": 0.5, "min_p": 0.2},
        **{"typical_p": 0.7, "repeat_penalty": 1.1, "repeat_last_n": 30, "presence_penalty": 0.3},
        **{"frequency_penalty": 0.4, "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "seed": 11},
        "stop": ["a", "b"],
    }
    call = generate(options=options)
    assert call.max_context == 50
    assert call.params == SamplingParams(
        max_tokens=7,
        temperature=0.1,
        top_k=3,
        top_p=0.5,
        min_p=0.2,
        typical_p=0.7,
        repetition_penalty=1.1,
        penalty_last_n=30,
        presence_penalty=0.3,
        frequency_penalty=0.4,
        mirostat=2,
        mirostat_tau=4.0,
        mirostat_eta=0.2,
        seed=11,
        stop=["a", "b"],
    )


NO_EFFECT = {
    **{"num_keep": 4, "num_thread": 8, "num_gpu": 0, "main_gpu": 0, "num_batch": 512, "low_vram": True, "numa": False},
    **{"use_mmap": True, "use_mlock": False, "draft_num_predict": 4, "logits_all": False, "tfs_z": 1.0},
    **{"penalize_newline": True, "f16_kv": True, "vocab_only": False, "embedding_only": False, "seed": -1},
    **{"num_predict": -1, "num_ctx": 8192, "repeat_last_n": -1, "top_p": None},
}


@pytest.mark.parametrize("name", NO_EFFECT)
def test_options_without_effect(name: str) -> None:
    assert generate(options={name: NO_EFFECT[name]}) == generate(options={}) or _same_but_renderer(
        generate(options={name: NO_EFFECT[name]}), generate()
    )


def _same_but_renderer(one: Call, other: Call) -> bool:
    return (one.params, one.max_context, one.prompts) == (other.params, other.max_context, other.prompts)


@pytest.mark.parametrize(
    "options",
    [
        {"num_predict": 0},
        {"num_predict": -3},
        {"num_ctx": -1},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"repeat_penalty": 0},
        {"repeat_last_n": -2},
        {"mirostat": 1},
        {"tfs_z": 0.5},
        {"penalize_newline": False},
        {"f16_kv": False},
        {"vocab_only": True},
        {"embedding_only": True},
        {"stop": [""]},
        {"seed": 2**64},
        {"num_gqa": 8},
    ],
    ids=str,
)
def test_options_that_are_refused_by_name(options: dict[str, Any]) -> None:
    error = refusal(options=options)
    name = next(iter(options))
    assert error.param == f"options.{name}"
    said = json.loads(render_failure(describe(error)))
    assert set(said) == {"error"}
    assert said["error"].startswith(f"options.{name}")


def test_a_requests_penalties_see_64_tokens_and_the_models_all() -> None:
    assert generate(options={"repeat_penalty": 1.5}).params.penalty_last_n == 64
    assert generate(options={"repeat_penalty": 1.5, "repeat_last_n": 0}).params.penalty_last_n == 0
    assert generate().params.penalty_last_n == -1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"format": "xml"}, "format"),
        ({"format": []}, "format"),
        ({"think": "deep"}, "think"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"raw": True, "system": "y"}, "system"),
        ({"raw": True, "context": [1]}, "context"),
        ({"raw": True, "think": True}, "think"),
        ({"suffix": "y", "system": "z"}, "system"),
        ({"suffix": "y", "raw": True}, "raw"),
        ({"truncate": True}, "truncate"),
        ({"shift": True}, "shift"),
        ({"suffix": "y"}, "suffix"),
        ({"template": "y"}, "template"),
        ({"images": ["aGk="]}, "images"),
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"model": "other"}, "model"),
        ({"_debug_render_only": True}, "_debug_render_only"),
    ],
    ids=str,
)
def test_fields_that_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert param in json.loads(render_failure(describe(error)))["error"]


def test_what_asks_for_nothing_is_taken() -> None:
    neutral = {"suffix": "", "template": "", "system": "", "images": [], "format": "", "truncate": False}
    assert _same_but_renderer(generate(**neutral, shift=False, think=None, keep_alive="-1m", context=[]), generate())


@pytest.mark.parametrize(
    ("think", "effort"), [(None, None), (True, "default"), (False, "none"), ("low", "low"), ("max", "max")]
)
def test_think(think: Any, effort: str | None) -> None:
    for [prompt] in (generate(think=think).prompts, chat(think=think).prompts):
        assert prompt.reasoning_effort == effort


def test_suffix() -> None:
    coder = replace(SERVED, infill=Infill(1, 2, 3))
    assert generate(coder, prompt="a(", suffix=")").prompts == (TextPrompt(prompt=["", 1, "a(", 2, ")", 3]),)
    assert generate(coder, prompt="", suffix=")").prompts == (TextPrompt(prompt=["", 1, "", 2, ")", 3]),)
    shown = show_model(_incoming({"model": "org/Model"}), coder)
    assert json.loads(shown.body)["capabilities"] == ["completion", "insert"]


def test_prompts() -> None:
    [prompt] = generate(system="Be brief", context=[1, 2]).prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == [{"role": "system", "content": "Be brief"}, USER]
    assert prompt.context == (1, 2)
    assert generate(raw=True).prompts == (TextPrompt(prompt="x"),)
    bare = replace(SERVED, card=ModelCard())
    assert generate(bare, context=[5]).prompts == (TextPrompt(prompt="x", context=(5,)),)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("org/Model", "org/Model"),
        ("org/model:latest", "org/Model"),
        ("TUNED", "tuned"),
        ("tuned:latest", "tuned"),
    ],
)
def test_names(name: str, meant: str) -> None:
    assert generate(model=name).model == meant


def test_tagged_names() -> None:
    tagged = replace(SERVED, name="qwen3:8b")
    assert generate(tagged, model="qwen3:8b").model == "qwen3:8b"
    for other in ("qwen3", "qwen3:latest", "qwen3:4b"):
        with pytest.raises(RequestError, match=f"^model '{other}' not found$"):
            generate(tagged, model=other)


def test_messages() -> None:
    call = {"function": {"name": "f", "arguments": {"a": [1]}}}
    messages = [
        {"role": "System", "content": "s"},
        USER,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call, call | {"id": "mine"}]},
        {"role": "tool", "content": "1", "tool_name": "f"},
        {"role": "tool", "content": "2", "tool_call_id": "mine"},
        {"role": "tool", "content": "3"},
    ]
    [prompt] = chat(messages=messages).prompts
    system, user, called, first, second, third = prompt.messages
    assert (system["role"], user) == ("system", USER)
    assert called["reasoning_content"] == "hm"
    ids = [each["id"] for each in called["tool_calls"]]
    assert [each["function"]["arguments"] for each in called["tool_calls"]] == [{"a": [1]}] * 2
    assert ids == ["call00200", "mine"]
    assert (first["tool_call_id"], second["tool_call_id"]) == tuple(ids)
    assert (first["name"], second["name"]) == ("f", "f")
    assert third == {"role": "tool", "content": "3"}
    assert prompt.add_generation_prompt
    [opened] = chat(messages=[USER, {"role": "assistant", "content": "Once"}]).prompts
    assert (opened.add_generation_prompt, opened.continue_final_message) == (False, True)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "developer", "content": "x"}], "messages[0].role"),
        ([USER, USER | {"images": ["aGk="]}], "messages[1].images"),
        ([USER | {"name": "x"}], "messages[0].name"),
        ([{"content": "x"}], "messages[0].role"),
        ([USER | {"content": [{"type": "text", "text": "x"}]}], "messages[0].content"),
    ],
)
def test_messages_that_are_refused(messages: list[Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(messages=messages)
    assert caught.value.param == param


# On the wire


def test_curls_own_content_type_is_taken(quick: str) -> None:
    body = {"model": "fake", "prompt": "x", "options": {"num_predict": 3}}
    form = {"content-type": "application/x-www-form-urlencoded"}
    answered = httpx.post(f"{quick}/api/generate", content=json.dumps(body), headers=form)
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answered.text.splitlines()]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert list(lines[0]) == ["model", "created_at", "response", "done"]
    assert lines[-1]["response"] == ""
    assert {"total_duration", "load_duration", "eval_count", "context"} < set(lines[-1])
    whole = httpx.post(f"{quick}/api/generate", content=json.dumps(body | {"stream": False}))
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["response"] == "".join(line["response"] for line in lines)


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "show", "pull"])
def test_pages_of_other_sites_are_refused(quick: str, path: str) -> None:
    body = json.dumps({"model": "fake"})
    for origin in ("http://evil.example", "null", f"{quick}.evil.example"):
        answered = httpx.post(f"{quick}/api/{path}", content=body, headers={"origin": origin})
        assert answered.status_code == 403
        assert "Content-Type: application/json" in answered.json()["error"]
    assert httpx.post(f"{quick}/api/{path}", content=body, headers={"origin": quick}).status_code != 403


def test_bodies_that_are_no_requests(quick: str) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b'{"model": 5}', b"[" * 100_000):
        answered = httpx.post(f"{quick}/api/chat", content=body)
        assert answered.status_code == 400
        assert set(answered.json()) == {"error"}


def test_paths_without_a_body(quick: str) -> None:
    for method in ("GET", "HEAD"):
        answered = httpx.request(method, f"{quick}/")
        assert answered.status_code == 200
        assert answered.text == ("Ollama is running" if method == "GET" else "")
        for path in ("tags", "version", "ps"):
            assert httpx.request(method, f"{quick}/api/{path}").status_code == 200
    assert httpx.get(f"{quick}/api/version").json()["version"].count(".") == 2
    assert httpx.head(f"{quick}/api/blobs/sha256:00").status_code == 404


def test_errors_of_the_paths_are_ollamas(quick: str) -> None:
    for method, path, status in (("GET", "generate", 405), ("POST", "nothing", 404), ("POST", "delete", 405)):
        answered = httpx.request(method, f"{quick}/api/{path}")
        assert answered.status_code == status
        assert set(answered.json()) == {"error"}


def test_adapters_are_models(serve) -> None:
    class Adapter:
        path = "folder"

    base = serve(FakeLLM(adapters={"tuned": Adapter()}))
    listed = httpx.get(f"{base}/api/tags").json()["models"]
    assert [(each["name"], each["details"]["parent_model"]) for each in listed] == [
        ("fake:latest", ""),
        ("tuned:latest", "fake:latest"),
    ]
    assert listed[0]["digest"] != listed[1]["digest"]
    body = {"model": "tuned:latest", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
    assert httpx.post(f"{base}/api/generate", json=body).json()["model"] == "tuned:latest"
    refused = httpx.post(f"{base}/api/embed", json={"model": "tuned", "input": "x"})
    assert refused.status_code == 400
    assert "adapter" in refused.json()["error"]


def test_the_card_is_shown(quick: str) -> None:
    details = httpx.post(f"{quick}/api/show", json={"name": "fake"}).json()["details"]
    assert (details["family"], details["parameter_size"]) == (CARD.family.lower(), "1.50M")


def test_every_field_of_the_spec_is_known(shared: Path) -> None:
    """It is taken, or refused by name."""
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load((shared / "data/specs/ollama.yaml").read_text())
    from headrace.server.dialects.ollama.requests import (
        UNSUPPORTED,
        ChatFields,
        EmbedFields,
        GenerateFields,
        NameFields,
        PullFields,
        ShowFields,
    )

    kinds = {
        "GenerateRequest": GenerateFields,
        "ChatRequest": ChatFields,
        "EmbedRequest": EmbedFields,
        "ShowRequest": ShowFields,
        "PullRequest": PullFields,
        "DeleteRequest": NameFields,
    }
    for name, kind in kinds.items():
        known_fields = {*kind.__struct_fields__, *UNSUPPORTED.get(kind, {})}
        assert set(spec["components"]["schemas"][name]["properties"]) <= known_fields


def test_vectors_of_embed_have_length_one_and_those_of_embeddings_are_the_models(serve) -> None:
    class Embedding(FakeLLM):
        async def embed(self, inputs: list[str], **_: Any) -> list[EmbeddingRequestOutput]:
            vector = np.array([3, 4], np.float32)
            return [EmbeddingRequestOutput("e", EmbeddingOutput(vector), [1, 2]) for _ in inputs]

    base = serve(Embedding())
    answered = httpx.post(f"{base}/api/embed", json={"model": "fake", "input": ["a", "b"]}).json()
    assert answered["embeddings"] == [pytest.approx([0.6, 0.8])] * 2
    assert answered["prompt_eval_count"] == 4
    old = httpx.post(f"{base}/api/embeddings", json={"model": "fake", "prompt": "a"}).json()
    assert old == {"embedding": [3, 4]}


def test_num_ctx_bounds_what_is_embedded(serve) -> None:
    class Embedding(FakeLLM):
        pooler = SimpleNamespace(max_tokens=8)

        async def embed(
            self, inputs: list[str], *, truncate_prompt_tokens: int | None = None, **_: Any
        ) -> list[EmbeddingRequestOutput]:
            most = 8 if truncate_prompt_tokens in (None, -1) else truncate_prompt_tokens
            vector = EmbeddingOutput(np.array([3, 4], np.float32))
            return [EmbeddingRequestOutput("e", vector, [1] * min(len(each), most)) for each in inputs]

    base = serve(Embedding())

    def post(path: str, **fields: Any) -> httpx.Response:
        return httpx.post(f"{base}/api/{path}", json={"model": "fake", **fields})

    for path, name in (("embed", "input"), ("embeddings", "prompt")):
        assert post(path, **{name: "abc"}, options={"num_ctx": 3}).status_code == 200
        refused = post(path, **{name: "abcd"}, options={"num_ctx": 3})
        assert refused.status_code == 400
        assert "4 tokens and options.num_ctx is 3" in refused.json()["error"]
        assert post(path, **{name: "abcd"}, options={"num_ctx": -1}).status_code == 400
    for num_ctx, count in ((3, 3), (1000, 8), (0, 8)):
        cut = post("embed", input="a" * 20, truncate=True, options={"num_ctx": num_ctx}).json()
        assert cut["prompt_eval_count"] == count


def test_durations_are_those_between_the_times() -> None:
    times = Times(time.perf_counter() - 10, time.perf_counter() - 9, time.perf_counter() - 7, time.perf_counter() - 3)
    output = RequestOutput("r", None, [1, 2], [CompletionOutput(0, "x", [3], finish_reason="stop")], times=times)
    answered = json.loads(ChatRenderer(SERVED, RenderOptions(model="m")).whole([output]))
    seconds = [round(answered[f"{name}_duration"] / 1e9) for name in ("total", "load", "prompt_eval", "eval")]
    assert seconds == [10, 1, 2, 4]
    assert (answered["prompt_eval_count"], answered["eval_count"]) == (2, 1)
