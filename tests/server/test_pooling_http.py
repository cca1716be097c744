"""Embeddings, rankings, scores and classes over HTTP: the official client, vLLM's and Cohere's shapes, errors."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fake_llm import serving
from tiny_encoders import make_tiny_encoder, save_tokenizer
from waiting import wait_until

from headrace import LLM, AsyncLLM

TEXTS = ["the cat sat on the mat", "dogs", "what is blue? the sky is blue."]
KINDS = {"embedder": ("bert", None), "reranker": ("bert", 1), "classifier": ("modernbert", 3)}

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    return {
        name: save_tokenizer(make_tiny_encoder(family, tmp_path_factory.mktemp(name), labels))
        for name, (family, labels) in KINDS.items()
    }


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> Iterator[dict[str, str]]:
    """A server for each of the models."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(AsyncLLM(folder), name)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def ask(bases: dict[str, str]) -> Ask:
    """ask(model, path, **body)"""
    return lambda model, path, **body: httpx.post(f"{bases[model]}{path}", json={"model": model, **body}, timeout=60)


def refusal(response: httpx.Response) -> tuple[str, str]:
    """The parameter and the message of a 400."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


def test_the_official_client(bases: dict[str, str], folders: dict[str, Path]) -> None:
    client = openai.OpenAI(base_url=f"{bases['embedder']}/v1", api_key="none", max_retries=0)
    expected = [output.outputs.embedding for output in LLM(folders["embedder"]).embed(TEXTS)]
    answer = client.embeddings.create(model="embedder", input=TEXTS)  # asks for base64, and decodes it
    assert [one.embedding for one in answer.data] == expected
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model, answer.data[0].object) == ("list", "embedder", "embedding")
    counts = [len(output.prompt_token_ids) for output in LLM(folders["embedder"]).embed(TEXTS)]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(counts)
    plain = client.embeddings.create(model="embedder", input=TEXTS[1], encoding_format="float", user="someone")
    assert plain.data[0].embedding == expected[1]
    short = client.embeddings.create(model="embedder", input=TEXTS[1], dimensions=16).data[0].embedding
    np.testing.assert_allclose(short, np.array(expected[1][:16]) / np.linalg.norm(expected[1][:16]), atol=1e-6)


def test_encodings_and_token_ids(ask: Ask) -> None:
    of_text = ask("embedder", "/v1/embeddings", input="dogs").json()["data"][0]["embedding"]
    coded = ask("embedder", "/v1/embeddings", input="dogs", encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == of_text
    ids = [2, 9, 15, 3]  # [CLS] dog ##s [SEP]
    assert ask("embedder", "/v1/embeddings", input=ids).json()["data"][0]["embedding"] == of_text
    both = ask("embedder", "/v1/embeddings", input=[ids, [2, 3]]).json()
    assert [len(one["embedding"]) for one in both["data"]] == [64, 64]
    assert both["data"][0]["embedding"] == of_text
    assert both["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [1, 96]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": 65}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "prompt_name": "query"}, "prompt_name"),
        ({"input": "x", "normalize": False}, "normalize"),
        ({"input": "x", "truncation_side": "left"}, "truncation_side"),
        ({"input": "x", "embed_dtype": "float16"}, "embed_dtype"),
        ({"input": "x", "priority": 3}, "priority"),
        ({"input": "x", "tempature": 1}, "tempature"),
        ({"messages": []}, "messages"),
        ({"input": "the cat " * 200}, "input"),
    ],
)
def test_what_embeddings_refuse(ask: Ask, body: dict[str, Any], param: str) -> None:
    named, message = refusal(ask("embedder", "/v1/embeddings", **body))
    assert named == param
    assert "\n" not in message


def test_an_empty_text_is_what_the_tokenizer_adds_to_it(ask: Ask) -> None:
    assert ask("embedder", "/v1/embeddings", input="").json()["usage"]["prompt_tokens"] == 2


def test_long_inputs(ask: Ask) -> None:
    text = "the cat " * 200
    response = ask("embedder", "/v1/embeddings", input=["x", text])
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "402 tokens" in refusal(response)[1]
    for asked, count in ((-1, 256), (20, 20)):
        cut = ask("embedder", "/v1/embeddings", input=text, truncate_prompt_tokens=asked).json()
        assert cut["usage"]["prompt_tokens"] == count


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_rankings(ask: Ask, folders: dict[str, Path], path: str) -> None:
    query, documents = "what is blue?", [*TEXTS, "green"]
    expected = LLM(folders["reranker"]).rerank(query, documents)
    answer = ask("reranker", path, query=query, documents=documents).json()
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "reranker"
    assert answer["usage"]["total_tokens"] == expected.num_tokens
    assert answer["results"] == [
        {"index": one.index, "document": {"text": one.document}, "relevance_score": one.relevance_score}
        for one in expected.results
    ]
    objects = [{"text": text} for text in documents]
    short = ask("reranker", path, query=query, documents=objects, top_n=2, return_documents=False).json()
    assert short["results"] == [{k: v for k, v in one.items() if k != "document"} for one in answer["results"][:2]]


def test_scores_by_every_name(ask: Ask, folders: dict[str, Path]) -> None:
    expected = [output.outputs.score for output in LLM(folders["reranker"]).score("blue", TEXTS)]
    for path in ("/v1/score", "/score"):
        for first, second in (
            ("text_1", "text_2"),
            ("queries", "documents"),
            ("data_1", "data_2"),
            ("queries", "items"),
        ):
            answer = ask("reranker", path, **{first: "blue", second: TEXTS}).json()
            assert [one["score"] for one in answer["data"]] == expected
            assert [(one["index"], one["object"]) for one in answer["data"]] == [(i, "score") for i in range(3)]
    cosine = ask("embedder", "/v1/score", text_1=TEXTS[0], text_2=TEXTS[0]).json()["data"][0]["score"]
    assert cosine == pytest.approx(1)
    assert refusal(ask("reranker", "/v1/score", text_1="a"))[0] == "text_1"
    assert refusal(ask("reranker", "/v1/score", text_1="a", documents="b"))[0] == "text_1"
    assert refusal(ask("reranker", "/v1/score", queries=["a", "b"], documents=["c"]))[0] == "queries"


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
def test_classes(ask: Ask, folders: dict[str, Path], path: str) -> None:
    expected = LLM(folders["classifier"]).classify(TEXTS)
    answer = ask("classifier", path, input=TEXTS).json()
    assert answer["object"] == "list"
    assert answer["data"] == [
        {"index": i, "label": one.outputs.label, "probs": one.outputs.probs, "num_classes": 3}
        for i, one in enumerate(expected)
    ]


def test_the_wrong_kind_of_model_says_what_it_is(ask: Ask) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for model, path, body, says in (
        ("embedder", "/v1/chat/completions", chat, "chat template"),
        ("embedder", "/v1/completions", {"prompt": "x"}, "does not generate text: it gives embeddings of 64 numbers"),
        ("embedder", "/v1/classify", {"input": "x"}, "has no classifier: it is a model that embeds"),
        ("reranker", "/v1/embeddings", {"input": "x"}, "does not embed: it is a cross-encoder, which scores pairs"),
        ("classifier", "/v1/embeddings", {"input": "x"}, "does not embed: it is a classifier"),
        ("classifier", "/v1/rerank", {"query": "x", "documents": ["y"]}, "3 classes; a score needs"),
    ):
        assert says in refusal(ask(model, path, **body))[1]


def test_every_field_of_the_spec(ask: Ask, spec_schemas: dict[str, Any]) -> None:
    """OpenAI's fields are taken; an answer has all that it requires."""
    fields = spec_schemas["CreateEmbeddingRequest"]["properties"]
    values = {"input": "x", "encoding_format": "float", "dimensions": 8, "user": "u"}
    assert set(fields) == {"model", *values}
    answer = ask("embedder", "/v1/embeddings", **values).json()
    assert set(spec_schemas["CreateEmbeddingResponse"]["required"]) <= set(answer)
    assert set(spec_schemas["Embedding"]["required"]) <= set(answer["data"][0])


def test_routes(bases: dict[str, str]) -> None:
    base = bases["embedder"]
    for path in ("embeddings", "rerank", "score", "classify"):
        for url in (f"{base}/{path}", f"{base}/v1/{path}"):
            if url == f"{base}/embeddings":
                continue  # of OpenAI under /v1 only
            assert httpx.get(url).status_code == 405
            assert httpx.post(url, content=b"{").status_code == 415
            response = httpx.post(url, content=b"{", headers={"content-type": "application/json"})
            assert response.status_code == 400
    assert httpx.get(f"{base}/health").status_code == 200
    assert "vllm:prompt_tokens_total" in httpx.get(f"{base}/metrics").text


def test_embeddings_of_a_model_that_generates(serve: Callable[..., str]) -> None:
    base = serve(AsyncLLM("stories"), "stories")
    body = {"model": "stories", "input": ["Once upon a time", "a cat"]}
    answer = httpx.post(f"{base}/v1/embeddings", json=body, timeout=60).json()
    expected = [output.outputs.embedding for output in LLM("stories").embed(body["input"])]
    assert [one["embedding"] for one in answer["data"]] == expected
    text = httpx.post(
        f"{base}/v1/completions", json={"model": "stories", "prompt": "Once", "max_tokens": 4}, timeout=60
    )
    assert text.status_code == 200


def test_what_an_embedding_took_stands_in_the_log(bases: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace.requests")
    answer = httpx.post(f"{bases['embedder']}/v1/embeddings", json={"model": "embedder", "input": TEXTS}, timeout=60)
    wait_until(lambda: caplog.records)
    facts = caplog.records[0].facts
    assert facts["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"] > 0
    assert "completion_tokens" not in facts
