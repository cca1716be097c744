"""LangChain's classes for OpenAI's and for Ollama's API, unchanged, against the bundled model."""

from __future__ import annotations

import asyncio
from typing import Any

import langchain_ollama
import langchain_openai
import ollama
import openai
import pytest
from fake_llm import FakeLLM, broken
from langchain_core.exceptions import ModelNotFoundError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pets import Pet
from waiting import until

from headrace.errors import QueueFull

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # LangChain keeps one client for all models of a URL
TURNS = [HumanMessage("A dog"), AIMessage("It ran."), HumanMessage("And then?")]


@tool
def feed(animal: str, is_hungry: bool) -> str:
    """Feed an animal."""
    return f"{animal} ate"


def of_openai(base: str, **options: Any) -> langchain_openai.ChatOpenAI:
    settings = {"model": "stories", "api_key": "none", "max_retries": 0, "temperature": 0, "max_tokens": 30}
    return langchain_openai.ChatOpenAI(**{"base_url": f"{base}/v1", **settings, **options})


def of_ollama(base: str, **options: Any) -> langchain_ollama.ChatOllama:
    settings = {"model": "stories", "temperature": 0, "num_predict": 30, "num_ctx": 512}
    return langchain_ollama.ChatOllama(**{"base_url": base, **settings, **options})


def responses(base: str, **options: Any) -> langchain_openai.ChatOpenAI:
    return of_openai(base, use_responses_api=True, **options)


@IN_ONE_LOOP
@pytest.mark.parametrize("chat", [of_openai, responses, of_ollama])
async def test_invoke_and_stream(stories: str, chat: Any) -> None:
    model = chat(stories, **({"stream_usage": True} if chat is of_openai else {}))
    whole = model.invoke("A dog")
    assert len(whole.text) > 60
    assert whole.usage_metadata["output_tokens"] == 30
    parts = list(model.stream("A dog"))
    assert "".join(part.text for part in parts) == whole.text
    assert len(parts) > 20
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 30
    assert (await model.ainvoke("A dog")).text == whole.text
    assert "".join([part.text async for part in model.astream("A dog")]) == whole.text
    texts = [one.text for one in model.batch(["A dog", "A cat", "A dog"])]
    assert texts[0] == texts[2] == whole.text
    assert model.invoke(TURNS).usage_metadata["input_tokens"] > model.invoke("A dog").usage_metadata["input_tokens"]


def test_why_an_answer_ended(stories: str) -> None:
    assert of_openai(stories).invoke("A dog").response_metadata["finish_reason"] == "length"
    assert of_ollama(stories).invoke("A dog").response_metadata["done_reason"] == "length"
    assert responses(stories).invoke("A dog").response_metadata["status"] == "incomplete"
    stopped = of_openai(stories, stop=["."]).invoke("A dog")
    assert (stopped.response_metadata["finish_reason"], "." in stopped.text) == ("stop", False)


def test_log_probabilities(stories: str) -> None:
    answered = of_openai(stories).bind(logprobs=True, top_logprobs=2).invoke("A dog")
    shown = answered.response_metadata["logprobs"]["content"]
    assert "".join(one["token"] for one in shown) == answered.text
    assert all(len(one["top_logprobs"]) == 2 for one in shown)


@pytest.mark.parametrize("chat", [of_openai, responses])
@pytest.mark.parametrize("choice", ["any", "feed"])
def test_tools(stories: str, chat: Any, choice: str) -> None:
    model = chat(stories, max_tokens=90).bind_tools([feed], tool_choice=choice, strict=True)
    asked = HumanMessage("Feed the dog")
    called = model.invoke([asked])
    [call, *_] = called.tool_calls
    assert (call["name"], set(call["args"])) == ("feed", {"animal", "is_hungry"})
    first, *rest = model.stream([asked])
    assert sum(rest, start=first).tool_calls[0]["args"] == call["args"]
    given = [ToolMessage(feed.invoke(one["args"]), tool_call_id=one["id"]) for one in called.tool_calls]
    assert chat(stories).bind_tools([feed], tool_choice="none").invoke([asked, called, *given]).text


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of what LangChain itself put into the answer
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("chat", [of_openai, responses])
def test_structured_output_of_openais_api(stories: str, chat: Any, method: str) -> None:
    model = chat(stories, max_tokens=90).with_structured_output(Pet, method=method)
    assert isinstance(model.invoke("A pet"), Pet)
    *_, last = model.stream("A pet")
    assert isinstance(last, Pet)


def test_structured_output_of_ollamas_api(stories: str) -> None:
    model = of_ollama(stories, num_predict=90)
    assert isinstance(model.with_structured_output(Pet, method="json_schema").invoke("A pet"), Pet)
    whole = model.bind(format="json", options={"num_predict": 90, "seed": 1}).invoke("A pet, as JSON")
    assert whole.text.startswith("{")


def test_texts(stories: str) -> None:
    model = langchain_openai.OpenAI(
        model="stories", base_url=f"{stories}/v1", api_key="none", temperature=0, max_tokens=20
    )
    assert "".join(model.stream("A dog")) == model.invoke("A dog")
    both = model.generate(["A dog", "A cat"])
    assert both.generations[0][0].text == model.invoke("A dog")
    assert both.llm_output["token_usage"]["completion_tokens"] == 40
    other = langchain_ollama.OllamaLLM(model="stories", base_url=stories, seed=3, num_predict=20, stop=["."])
    assert "".join(other.stream("A dog")) == other.invoke("A dog")


@IN_ONE_LOOP
async def test_embeddings(stories: str) -> None:
    for model in (
        # Unless told not to it sends the token ids of OpenAI's own tokenizer, which it downloads.
        langchain_openai.OpenAIEmbeddings(
            model="stories", base_url=f"{stories}/v1", api_key="none", check_embedding_ctx_length=False
        ),
        langchain_ollama.OllamaEmbeddings(model="stories", base_url=stories),
    ):
        dog, cat = model.embed_documents(["A dog", "A cat"])
        assert (len(dog), len(cat)) == (192, 192)
        assert dog != cat
        assert model.embed_query("A dog") == pytest.approx(dog, abs=1e-4)
        assert await model.aembed_query("A dog") == pytest.approx(dog, abs=1e-4)


@pytest.mark.parametrize("chat", [of_openai, responses])
def test_errors_of_openais_api(stories: str, serve: Any, chat: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p") as wrong:
        chat(stories, top_p=7).invoke("A dog")
    assert wrong.value.param == "top_p"
    with pytest.raises(openai.BadRequestError, match="context"):
        chat(stories).invoke("A dog " * 1000)
    with pytest.raises(ModelNotFoundError, match="'stories' is"):
        chat(stories, model="gpt").invoke("A dog")
    with pytest.raises(openai.AuthenticationError):
        chat(serve(FakeLLM(), api_keys=("open-sesame",)), model="fake").invoke("A dog")
    full = broken(QueueFull("too much waits", retry_after=1))
    with pytest.raises(openai.RateLimitError):
        chat(serve(full), model="fake", max_retries=1).invoke("A dog")
    assert len(full.streams) == 2, "a try, and another one"
    fails = broken(RuntimeError("it fell over"), after=3)
    with pytest.raises((openai.APIError, ValueError), match="log says why"):  # the latter is theirs, of a response
        list(chat(serve(fails), model="fake").stream("A dog"))


def test_errors_of_ollamas_api(stories: str, serve: Any) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options\.temperature is -1"):
        of_ollama(stories, temperature=-1).invoke("A dog")
    with pytest.raises(ValueError, match="not found"):
        of_ollama(stories, model="mine", validate_model_on_init=True)
    of_ollama(stories, validate_model_on_init=True)
    with pytest.raises(ollama.ResponseError) as full:
        of_ollama(serve(broken(QueueFull("too much waits"))), model="fake").invoke("A dog")
    assert (full.value.status_code, full.value.error) == (429, "too much waits")


@IN_ONE_LOOP
@pytest.mark.parametrize("chat", [of_openai, responses, of_ollama])
async def test_leaving(slow: tuple[str, FakeLLM], chat: Any) -> None:
    base, llm = slow
    length = {"num_predict": 1900} if chat is of_ollama else {"max_tokens": 1900}
    model = chat(base, model="fake", **length)
    asking = asyncio.create_task(model.ainvoke("A dog"))
    await until(lambda: len(llm.streams) == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    parts = model.astream("A dog")
    await anext(parts)
    await parts.aclose()
    await until(lambda: all(one.is_cancelled for one in llm.streams))
    assert len(llm.streams) == 2
