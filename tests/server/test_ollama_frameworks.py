"""LangChain's and LlamaIndex's classes for Ollama, unchanged. They are not in the test extra: too heavy for most."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_llm import serving
from pydantic import BaseModel

from headrace import AsyncLLM, EngineConfig


@pytest.fixture(scope="module")
def stories() -> Iterator[str]:
    with serving(AsyncLLM("stories", EngineConfig(kv_memory=8 * 2**20, threads=1)), "stories") as base:
        yield base


class Pet(BaseModel):
    """A pet."""

    name: str
    age: int


async def test_langchain_chat(stories: str) -> None:
    langchain_ollama = pytest.importorskip("langchain_ollama")
    options = {"seed": 3, "num_predict": 30, "num_ctx": 512, "repeat_penalty": 1.0, "keep_alive": "5m"}
    model = langchain_ollama.ChatOllama(model="stories", base_url=stories, validate_model_on_init=True, **options)
    whole = model.invoke("A dog")
    assert len(whole.content) > 60
    assert whole.usage_metadata["output_tokens"] == 30
    assert whole.response_metadata["done_reason"] == "length"
    assert "".join(part.content for part in model.stream("A dog")) == whole.content
    assert (await model.ainvoke("A dog")).content == whole.content
    assert "".join([part.content async for part in model.astream("A dog")]) == whole.content
    turns = [("human", "A dog"), ("ai", whole.content), ("human", "And then?")]
    assert model.invoke(turns).usage_metadata["input_tokens"] > 30
    pet = model.bind(options={"num_predict": 60, "seed": 1}).with_structured_output(Pet, method="json_schema")
    assert isinstance(pet.invoke("A pet"), Pet)
    with pytest.raises(ValueError, match="not found"):
        langchain_ollama.ChatOllama(model="mine", base_url=stories, validate_model_on_init=True)


def test_langchain_text_and_embeddings(stories: str) -> None:
    langchain_ollama = pytest.importorskip("langchain_ollama")
    model = langchain_ollama.OllamaLLM(model="stories", base_url=stories, seed=3, num_predict=20, stop=["."])
    assert "".join(model.stream("A dog")) == model.invoke("A dog")
    embeddings = langchain_ollama.OllamaEmbeddings(model="stories", base_url=stories)
    assert [len(vector) for vector in embeddings.embed_documents(["A dog", "A cat"])] == [192, 192]
    assert len(embeddings.embed_query("A dog")) == 192


async def test_llama_index(stories: str) -> None:
    ollama = pytest.importorskip("llama_index.llms.ollama")
    from llama_index.core.llms import ChatMessage

    model = ollama.Ollama(
        model="stories", base_url=stories, temperature=0, request_timeout=30, additional_kwargs={"num_predict": 30}
    )
    messages = [ChatMessage(role="user", content="A dog")]
    whole = model.chat(messages)
    assert len(whole.message.content) > 60
    assert model.metadata.context_window == 512
    assert "".join(part.delta for part in model.stream_chat(messages)) == whole.message.content
    assert (await model.achat(messages)).message.content == whole.message.content
    assert model.complete("A dog").text == whole.message.content
    assert whole.raw["usage"]["completion_tokens"] == 30
