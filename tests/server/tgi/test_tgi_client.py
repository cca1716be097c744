"""TGI's dialect on the real engine: Hugging Face's own client, TGI's own schemas, tokens and chats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM, broken, serving
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, HfHubHTTPError, OverloadedError, ValidationError
from waiting import wait_until

from headrace import AsyncLLM
from headrace.errors import EngineError, Overloaded

OPENING = "Once upon a time"
MESSAGES = [{"role": "user", "content": "A story about a boat"}]
Check = Callable[[str, Any], None]


@pytest.fixture
def client(base: str) -> InferenceClient:
    return InferenceClient(base)


def test_text_whole_and_streamed(client: InferenceClient) -> None:
    text = client.text_generation(OPENING, max_new_tokens=20)
    assert len(text) > 30
    assert "".join(client.text_generation(OPENING, max_new_tokens=20, stream=True)) == text


def test_details(client: InferenceClient, llm: AsyncLLM) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "details": True, "top_n_tokens": 3}
    found = client.text_generation(OPENING, decoder_input_details=True, **options)
    streamed = list(client.text_generation(OPENING, stream=True, **options))
    assert [token.id for token in found.details.prefill] == llm.tokenizer.encode(OPENING)
    assert [event.token.id for event in streamed] == [token.id for token in found.details.tokens]
    assert "".join(token.text for token in found.details.tokens) == found.generated_text
    assert streamed[-1].generated_text == found.generated_text
    assert streamed[-1].details.finish_reason == found.details.finish_reason == "length"
    likeliest = [tops[0]["id"] for tops in found.details.top_tokens]
    assert likeliest == [token.id for token in found.details.tokens], "nothing was drawn"


def test_sampling_is_repeatable_by_its_seed(client: InferenceClient) -> None:
    first = client.text_generation(OPENING, max_new_tokens=20, do_sample=True, temperature=1.5, details=True)
    again = client.text_generation(
        OPENING, max_new_tokens=20, do_sample=True, temperature=1.5, seed=first.details.seed
    )  # fmt: skip
    assert again == first.generated_text


def test_a_stop_sequence_ends_the_text_and_is_part_of_it(client: InferenceClient) -> None:
    text = client.text_generation(OPENING, max_new_tokens=30)
    stop = re.findall(r"\w+", text)[4]
    found = client.text_generation(OPENING, max_new_tokens=30, stop=[stop], details=True)
    assert found.details.finish_reason == "stop_sequence"
    assert found.generated_text.endswith(stop)
    assert text.startswith(found.generated_text)
    assert "".join(client.text_generation(OPENING, max_new_tokens=30, stop=[stop], stream=True)).startswith(
        found.generated_text
    )


def test_the_end_of_text_is_a_special_token(client: InferenceClient, llm: AsyncLLM) -> None:
    found = client.text_generation(OPENING, details=True, max_new_tokens=480)
    assert found.details.finish_reason == "eos_token"
    assert found.details.tokens[-1].special
    assert found.details.tokens[-1].id in llm.eos_token_ids
    assert not any(token.special for token in found.details.tokens[:-1])
    assert "".join(token.text for token in found.details.tokens[:-1]) == found.generated_text


def test_grammars(client: InferenceClient) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    text = client.text_generation(OPENING, max_new_tokens=60, grammar={"type": "json", "value": schema})
    assert isinstance(json.loads(text)["age"], int)
    assert re.fullmatch("[ab]{5}", client.text_generation(OPENING, grammar={"type": "regex", "value": "[ab]{5}"}))


def test_best_of(client: InferenceClient) -> None:
    found = client.text_generation(OPENING, max_new_tokens=8, best_of=3, do_sample=True, details=True)

    def mean(tokens: Any) -> float:
        return sum(token.logprob for token in tokens) / len(tokens)

    others = [mean(other.tokens) for other in found.details.best_of_sequences]
    assert len(others) == 2
    assert mean(found.details.tokens) >= max(others)


def test_chat_completion_needs_no_model_name(client: InferenceClient) -> None:
    found = client.chat_completion(MESSAGES, max_tokens=12, temperature=0)
    text = found.choices[0].message.content
    assert len(text) > 10
    assert client.chat_completion(MESSAGES, max_tokens=12, temperature=0, model="stories").choices == found.choices
    stream = client.chat_completion(MESSAGES, max_tokens=12, temperature=0, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in stream if event.choices) == text
    with pytest.raises(HfHubHTTPError, match="404"):
        client.chat_completion(MESSAGES, model="someone-elses")


def test_chat_completion_with_a_schema(client: InferenceClient) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = client.chat_completion(MESSAGES, max_tokens=60, response_format=format_)
    assert isinstance(json.loads(found.choices[0].message.content)["age"], int)


def test_errors_are_the_clients_own(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        client.text_generation(OPENING, temperature=-1)
    for error, kind in ((EngineError("it fell over"), GenerationError), (Overloaded("full"), OverloadedError)):
        with serving(broken(error)) as base, pytest.raises(kind, match=str(error)):
            InferenceClient(base).text_generation("a", max_new_tokens=3)
    with serving(broken(EngineError("it fell over"), after=2)) as base:
        broken_client = InferenceClient(base)
        stream = broken_client.text_generation("a", max_new_tokens=5, stream=True)
        with pytest.raises(GenerationError, match="it fell over"):
            list(stream)


def test_leaving_a_stream_cancels_it() -> None:
    llm = FakeLLM(step_seconds=0.01)
    with serving(llm) as base:
        client = InferenceClient(base)
        stream = client.text_generation("a", max_new_tokens=1900, stream=True)
        next(iter(stream))
        stream.close()
        wait_until(lambda: llm.streams[0].is_cancelled)


def test_answers_are_what_tgis_document_says(base: str, check: Check) -> None:
    parameters = {"max_new_tokens": 4, "details": True, "decoder_input_details": True, "top_n_tokens": 2}
    body = {"inputs": OPENING, "parameters": parameters}
    check("GenerateResponse", httpx.post(f"{base}/generate", json=body).json())
    check("GenerateResponse", httpx.post(f"{base}/", json=body).json()[0])
    best = {**parameters, "best_of": 2, "do_sample": True}
    check("GenerateResponse", httpx.post(f"{base}/generate", json={"inputs": OPENING, "parameters": best}).json())
    del parameters["decoder_input_details"]
    lines = httpx.post(f"{base}/generate_stream", json=body).text.splitlines()
    events = [json.loads(line[5:]) for line in lines if line]
    assert len(events) == 4
    for event in events:
        check("StreamResponse", event)
    check("Info", httpx.get(f"{base}/info").json())
    check("ErrorResponse", httpx.post(f"{base}/generate", json={"inputs": ""}).json())
    check("TokenizeResponse", httpx.post(f"{base}/tokenize", json={"inputs": OPENING}).json())
    check("ChatTokenizeResponse", httpx.post(f"{base}/chat_tokenize", json={"messages": MESSAGES}).json())


def test_what_the_document_lets_a_client_send_is_known(base: str, shared: Any) -> None:
    document = json.loads((shared / "data/specs/tgi.json").read_text())["components"]["schemas"]
    for name, parameter in document["GenerateParameters"]["properties"].items():
        value = {"boolean": False, "array": []}.get(parameter.get("type"))
        body = {"inputs": OPENING, "parameters": {"max_new_tokens": 1, name: value} | {"max_new_tokens": 1}}
        response = httpx.post(f"{base}/generate", json=body)
        assert response.status_code == 200, (name, response.text)


def test_info(base: str) -> None:
    info = InferenceClient(provider="hf-inference").get_endpoint_info(model=base)
    assert info == httpx.get(f"{base}/info").json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == ("stories", 512, 511)


def test_tokenize(base: str, llm: AsyncLLM) -> None:
    text = "Zoë — a boat"
    tokens = httpx.post(f"{base}/tokenize", json={"inputs": text}).json()
    assert [token["id"] for token in tokens] == llm.tokenizer.encode(text)
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)
    bare = httpx.post(f"{base}/tokenize", json={"inputs": text, "add_special_tokens": False}).json()
    assert tokens[0]["text"] == ""
    assert tokens[1:] == bare


def test_chat_tokenize(base: str, llm: AsyncLLM) -> None:
    found = httpx.post(f"{base}/chat_tokenize", json={"messages": MESSAGES}).json()
    chat = llm.encode_chat(MESSAGES)
    assert found["templated_text"] == chat.text
    assert [token["id"] for token in found["tokenize_response"]] == chat.token_ids
    wrong = httpx.post(f"{base}/chat_tokenize", json={"messages": MESSAGES, "chat_template": "x"})
    assert (wrong.status_code, wrong.json()["error_type"]) == (422, "validation")
