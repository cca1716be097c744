"""LlamaIndex's class for servers of OpenAI's API, unchanged; test_apart.py runs it with the client it needs."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from fake_llm import FakeLLM, broken
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pets import Pet
from waiting import until

from headrace.errors import QueueFull

MESSAGES = [ChatMessage(role="user", content="A dog")]


def feed(animal: str, is_hungry: bool) -> str:
    """Feed an animal."""
    return f"{animal} ate"


def model_of(base: str, name: str = "stories", **options: Any) -> OpenAILike:
    settings = {"api_key": "none", "temperature": 0, "max_tokens": 30, "context_window": 512, "max_retries": 0}
    # Without `strict` it sends strict=false, with which the arguments of calls may be any JSON object.
    kind = {"is_chat_model": True, "is_function_calling_model": True, "strict": True}
    return OpenAILike(model=name, api_base=f"{base}/v1", **{**settings, **kind, **options})


def test_it_is_the_older_client() -> None:
    assert openai.__version__.startswith("2.")


@pytest.mark.parametrize("is_chat_model", [True, False])
async def test_chat_and_complete(stories: str, is_chat_model: bool) -> None:
    model = model_of(stories, is_chat_model=is_chat_model)
    whole = model.chat(MESSAGES)
    assert len(whole.message.content) > 60
    assert whole.raw.usage.completion_tokens == 30
    assert "".join(part.delta for part in model.stream_chat(MESSAGES)) == whole.message.content
    assert (await model.achat(MESSAGES)).message.content == whole.message.content
    assert "".join([part.delta async for part in await model.astream_chat(MESSAGES)]) == whole.message.content
    text = model.complete("A dog").text
    assert "".join(part.delta for part in model.stream_complete("A dog")) == text
    assert (await model.acomplete("A dog")).text == text


def test_tools(stories: str) -> None:
    model = model_of(stories, max_tokens=90)
    answered = model.chat_with_tools([FunctionTool.from_defaults(feed)], "Feed the dog", tool_required=True)
    [call, *_] = model.get_tool_calls_from_response(answered)
    assert (call.tool_name, set(call.tool_kwargs)) == ("feed", {"animal", "is_hungry"})


def test_structured_output(stories: str) -> None:
    model = model_of(stories, max_tokens=90)
    assert isinstance(model.as_structured_llm(Pet).chat(MESSAGES).raw, Pet)


def test_errors(stories: str, serve: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p") as wrong:
        model_of(stories).chat(MESSAGES, top_p=7)
    assert wrong.value.param == "top_p"
    with pytest.raises(openai.AuthenticationError):
        model_of(serve(FakeLLM(), api_keys=("open-sesame",)), "fake").chat(MESSAGES)
    with pytest.raises(openai.RateLimitError, match="too much waits"):
        model_of(serve(broken(QueueFull("too much waits"))), "fake").chat(MESSAGES)
    fails = broken(RuntimeError("it fell over"), after=3)
    with pytest.raises(openai.APIError, match="log says why"):
        list(model_of(serve(fails), "fake").stream_chat(MESSAGES))


async def test_leaving(slow: tuple[str, FakeLLM]) -> None:
    base, llm = slow
    model = model_of(base, "fake", max_tokens=1900)
    asking = asyncio.create_task(model.achat(MESSAGES))
    await until(lambda: len(llm.streams) == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    parts = await model.astream_chat(MESSAGES)
    await anext(parts)
    await parts.aclose()
    await until(lambda: llm.streams[0].is_cancelled)
