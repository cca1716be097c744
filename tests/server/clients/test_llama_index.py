"""LlamaIndex's classes for Ollama's API and for embeddings, unchanged. Those that generate by OpenAI's API need an
older `openai`: see test_apart.py.
"""

from __future__ import annotations

import asyncio

import ollama
import pytest
from fake_llm import FakeLLM, broken
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.ollama import Ollama
from pets import Pet
from waiting import until

from headrace.errors import QueueFull

MESSAGES = [ChatMessage(role="user", content="A dog")]


def model_of(base: str, length: int = 30, name: str = "stories") -> Ollama:
    return Ollama(
        model=name, base_url=base, temperature=0, request_timeout=60, additional_kwargs={"num_predict": length}
    )


async def test_chat_and_complete(stories: str) -> None:
    model = model_of(stories)
    whole = model.chat(MESSAGES)
    assert len(whole.message.content) > 60
    assert whole.raw["usage"]["completion_tokens"] == 30
    assert model.metadata.context_window == 512
    assert "".join(part.delta for part in model.stream_chat(MESSAGES)) == whole.message.content
    assert (await model.achat(MESSAGES)).message.content == whole.message.content
    assert "".join([part.delta async for part in await model.astream_chat(MESSAGES)]) == whole.message.content
    assert model.complete("A dog").text == whole.message.content


def test_structured_output(stories: str) -> None:
    assert isinstance(model_of(stories, 90).as_structured_llm(Pet).chat(MESSAGES).raw, Pet)


@pytest.mark.parametrize("kind", [OllamaEmbedding, OpenAILikeEmbedding])
async def test_embeddings(stories: str, kind: type[BaseEmbedding]) -> None:
    where = {"base_url": stories} if kind is OllamaEmbedding else {"api_base": f"{stories}/v1", "api_key": "none"}
    model = kind(model_name="stories", **where)
    dog, cat = model.get_text_embedding_batch(["A dog", "A cat"])
    assert (len(dog), len(cat)) == (192, 192)
    assert model.get_query_embedding("A dog") == pytest.approx(dog, abs=1e-4)
    assert await model.aget_text_embedding("A cat") == pytest.approx(cat, abs=1e-4)


def test_errors(stories: str, serve) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options\.num_predict is -7") as wrong:
        model_of(stories, length=-7).chat(MESSAGES)
    assert wrong.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="too much waits") as full:
        model_of(serve(broken(QueueFull("too much waits"))), name="fake").chat(MESSAGES)
    assert full.value.status_code == 429
    fails = broken(RuntimeError("it fell over"), after=3)
    with pytest.raises(ollama.ResponseError, match="log says why"):
        list(model_of(serve(fails), name="fake").stream_chat(MESSAGES))


async def test_leaving(slow: tuple[str, FakeLLM]) -> None:
    base, llm = slow
    model = model_of(base, 1900, "fake")
    asking = asyncio.create_task(model.achat(MESSAGES))
    await until(lambda: len(llm.streams) == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    parts = await model.astream_chat(MESSAGES)
    await anext(parts)
    await parts.aclose()
    await until(lambda: all(one.is_cancelled for one in llm.streams))
    assert len(llm.streams) == 2
