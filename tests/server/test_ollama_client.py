"""The official `ollama` client against a live server: the real engine's stories, and a fake that fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from fake_llm import FakeLLM, FakeStream, answer, broken, serving
from pydantic import BaseModel
from waiting import until, wait_until

from headrace import AsyncLLM, EngineConfig
from headrace.errors import EngineError, Overloaded
from headrace.types import Chunk, FinishReason, ToolCallDelta

ollama = pytest.importorskip("ollama")

QUESTION = [{"role": "user", "content": "Tell me a story."}]
CHAT_IDS = list(b"user: Tell me a story.\n")


@pytest.fixture
def client(quick: str) -> ollama.Client:
    return ollama.Client(quick)


@pytest.fixture(scope="module")
def stories() -> Iterator[str]:
    with serving(AsyncLLM("stories", EngineConfig(kv_memory=8 * 2**20, threads=1)), "stories") as base:
        yield base


@dataclass
class ScriptedLLM(FakeLLM):
    """Says the given chunks, however a request asks."""

    script: Sequence[Chunk] = field(default=())

    def submit(self, prompt: Any, params: Any, **options: Any) -> FakeStream:
        stream = super().submit(prompt, params, **options)
        rest = iter(self.script)

        async def next_chunks(*_: object) -> list[Chunk]:
            found = next(rest, None)
            stream.num_made += len(found.token_ids) if found else 0
            return [found] if found else []

        stream.next_chunks = next_chunks  # type: ignore[method-assign]
        return stream


def test_chat_whole(client: ollama.Client) -> None:
    result = client.chat("fake", QUESTION, options={"num_predict": 12})
    assert (result.model, result.done, result.done_reason) == ("fake", True, "length")
    assert (result.message.role, result.message.content) == ("assistant", answer(CHAT_IDS, 0, 12))
    assert (result.prompt_eval_count, result.eval_count) == (len(CHAT_IDS), 12)
    assert result.message.thinking is None
    assert result.message.tool_calls is None
    assert result.logprobs is None
    assert abs(datetime.fromisoformat(result.created_at).timestamp() - datetime.now().timestamp()) < 60


def test_chat_stream(client: ollama.Client) -> None:
    parts = list(client.chat("fake:latest", QUESTION, stream=True, options={"num_predict": 9}))
    assert "".join(part.message.content for part in parts) == answer(CHAT_IDS, 0, 9)
    assert {part.model for part in parts} == {"fake:latest"}
    assert [part.done for part in parts] == [False] * 9 + [True]
    assert all(part.eval_count is None and part.done_reason is None for part in parts[:-1])
    assert (parts[-1].done_reason, parts[-1].eval_count, parts[-1].message.content) == ("length", 9, "")
    stamps = [datetime.fromisoformat(part.created_at) for part in parts]
    assert stamps == sorted(stamps)
    assert all(abs(stamp.timestamp() - datetime.now().timestamp()) < 60 for stamp in stamps)


def test_durations_are_measured(serve) -> None:
    client = ollama.Client(serve(FakeLLM(step_seconds=0.01)))
    streamed = list(client.generate("fake", "x", stream=True, options={"num_predict": 6}))[-1]
    for result in (streamed, client.generate("fake", "x", options={"num_predict": 6})):
        assert 40e6 < result.eval_duration < result.total_duration
        assert 9e6 < result.prompt_eval_duration < result.total_duration
        assert result.load_duration > 0
        parts = result.load_duration + result.prompt_eval_duration + result.eval_duration
        assert parts <= result.total_duration < 20e9


def test_generate_streamed_equals_whole(stories: str) -> None:
    client = ollama.Client(stories)
    options = {"num_predict": 30, "seed": 5, "temperature": 1.2}
    whole = client.generate("stories", "A dog in the park", options=options)
    parts = list(client.generate("stories", "A dog in the park", options=options, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert len(whole.response) > 60
    assert parts[-1].context == whole.context
    assert client.generate("stories", "A dog in the park", options=options | {"seed": 6}).response != whole.response
    chat = client.chat("stories", [{"role": "user", "content": "A dog in the park"}], options=options)
    assert chat.message.content == whole.response


def test_context_goes_on_where_the_last_answer_ended(stories: str) -> None:
    client = ollama.Client(stories)
    options = {"num_predict": 25, "temperature": 0}
    first = client.generate(
        "stories", "A cat", options={"temperature": 0.7, "top_p": 0.9, "seed": 2, "repeat_penalty": 1}
    )
    assert first.done_reason == "stop"
    assert len(first.context) == first.prompt_eval_count + first.eval_count
    second = client.generate("stories", "And then?", context=first.context, options=options)
    turns = [("user", "A cat"), ("assistant", first.response), ("user", "And then?")]
    chat = client.chat("stories", [{"role": role, "content": text} for role, text in turns], options=options)
    assert second.response == chat.message.content
    assert second.prompt_eval_count == chat.prompt_eval_count
    assert second.context[: len(first.context)] == first.context
    raw = client.generate("stories", "Once upon", raw=True, options=options)
    assert raw.context is None


def test_raw_is_text_to_go_on_with(stories: str) -> None:
    client = ollama.Client(stories)
    options = {"num_predict": 20, "temperature": 0, "stop": ["."]}
    raw = client.generate("stories", "Once upon a", raw=True, options=options)
    assert raw.response.startswith(" time")
    assert raw.done_reason == "stop"
    assert "." not in raw.response
    message = {"role": "assistant", "content": "Once upon a"}
    opened = client.chat("stories", [{"role": "user", "content": "A cat"}, message], options=options)
    assert opened.message.content.startswith(" time")


class Pet(BaseModel):
    name: str
    age: int
    is_good: bool


def test_format_is_a_pydantic_schema(stories: str) -> None:
    client = ollama.Client(stories)
    for seed in range(3):
        options = {"seed": seed, "num_predict": 80}
        result = client.chat("stories", QUESTION, format=Pet.model_json_schema(), options=options)
        assert Pet.model_validate_json(result.message.content)
        assert result.done_reason == "stop"
    parts = client.generate("stories", "A pet", format="json", stream=True, options={"num_predict": 60, "seed": 1})
    assert isinstance(json.loads("".join(part.response for part in parts)), dict)


def test_logprobs(client: ollama.Client) -> None:
    options = {"num_predict": 4}
    whole = client.generate("fake", "x", logprobs=True, top_logprobs=2, options=options)
    parts = list(client.generate("fake", "x", logprobs=True, top_logprobs=2, options=options, stream=True))
    assert [entry for part in parts for entry in part.logprobs or []] == whole.logprobs
    assert "".join(entry.token for entry in whole.logprobs) == whole.response
    assert [[top.logprob for top in entry.top_logprobs] for entry in whole.logprobs] == [[-0.5, -1.0]] * 4
    [entry] = client.chat("fake", QUESTION, logprobs=True, options={"num_predict": 1}).logprobs
    assert entry.logprob == -1.5
    assert entry.top_logprobs is None


CALLS = (
    Chunk(0, "", [1], reasoning="Hm, "),
    Chunk(0, "", [2], reasoning="rain."),
    Chunk(0, "I look.", [3]),
    Chunk(0, "", [4], tool_calls=[ToolCallDelta(0, "call_1", "weather", '{"city"')]),
    Chunk(0, "", [5], tool_calls=[ToolCallDelta(0, arguments=': "Bonn"}')]),
    Chunk(0, "", [6], tool_calls=[ToolCallDelta(1, "call_2", "clock", "{}")]),
    Chunk(0, "", [7], finish_reason=FinishReason.STOP),
)


def weather(city: str) -> str:
    """Say the weather.

    Args:
        city: Where
    """
    return f"Rain in {city}"


def test_calls_come_whole_and_thoughts_apart(serve) -> None:
    llm = ScriptedLLM(script=CALLS)
    client = ollama.Client(serve(llm))
    whole = client.chat("fake", QUESTION, tools=[weather], think=True)
    assert whole.message.thinking == "Hm, rain."
    assert whole.message.content == "I look."
    called = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls]
    assert called == [("weather", {"city": "Bonn"}), ("clock", {})]
    assert llm.chats[0]["reasoning_effort"] == "default"
    [tool] = llm.chats[0]["tools"]
    assert tool["function"]["name"] == "weather"
    assert tool["function"]["parameters"]["required"] == ["city"]

    parts = list(client.chat("fake", QUESTION, tools=[weather], stream=True))
    assert [part.message.thinking for part in parts] == ["Hm, ", "rain.", None, None, None, None]
    assert [len(part.message.tool_calls or []) for part in parts] == [0, 0, 0, 1, 1, 0]
    assert [call.function.name for part in parts for call in part.message.tool_calls or []] == ["weather", "clock"]
    assert [part.done for part in parts] == [False] * 5 + [True]
    assert parts[-1].done_reason == "stop"

    sent_back = [*QUESTION, whole.message, {"role": "tool", "tool_name": "weather", "content": weather("Bonn")}]
    client.chat("fake", sent_back, tools=[weather])
    _, called, said = llm.chats[-1]["messages"]
    assert called["reasoning_content"] == "Hm, rain."
    assert said["tool_call_id"] == called["tool_calls"][0]["id"]
    assert said["name"] == "weather"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_is_shown_as_text(serve, stream: bool) -> None:
    script = [
        Chunk(0, "", [4], tool_calls=[ToolCallDelta(0, "call_1", "weather", '{"city": "Bo')]),
        Chunk(0, "", [5], finish_reason=FinishReason.LENGTH),
    ]
    client = ollama.Client(serve(ScriptedLLM(script=script)))
    result = client.chat("fake", QUESTION, tools=[weather], stream=stream)
    parts = list(result) if stream else [result]
    assert "".join(part.message.content for part in parts) == '{"name": "weather", "arguments": {"city": "Bo'
    assert all(part.message.tool_calls is None for part in parts)
    assert parts[-1].done_reason == "length"


def test_thoughts_of_generate(serve) -> None:
    script = [Chunk(0, "", [1], reasoning="Hm"), Chunk(0, "Yes", [2], finish_reason=FinishReason.STOP)]
    client = ollama.Client(serve(ScriptedLLM(script=script)))
    whole = client.generate("fake", "x")
    assert (whole.thinking, whole.response) == ("Hm", "Yes")
    parts = list(client.generate("fake", "x", stream=True))
    assert [(part.thinking, part.response) for part in parts] == [("Hm", ""), (None, "Yes"), (None, "")]


def test_embed(stories: str) -> None:
    client = ollama.Client(stories)
    result = client.embed("stories", ["A dog", "A cat and a dog"])
    assert [len(vector) for vector in result.embeddings] == [192, 192]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in result.embeddings)
    assert result.prompt_eval_count > 4
    assert result.total_duration > 0
    [alone] = client.embed("stories", "A dog").embeddings
    assert alone == result.embeddings[0]
    old = client.embeddings("stories", "A dog").embedding
    length = sum(x * x for x in old) ** 0.5
    assert [x / length for x in old] == pytest.approx(list(alone), abs=1e-6)
    assert client.embed("stories", "").embeddings == []
    assert client.embeddings("stories", "").embedding == []
    assert len(client.embed("stories", "A dog", dimensions=8).embeddings[0]) == 8


def test_long_inputs_are_cut_only_when_asked(stories: str) -> None:
    client = ollama.Client(stories)
    long = "a dog and " * 400
    with pytest.raises(ollama.ResponseError, match="512") as caught:
        client.embed("stories", long)
    assert caught.value.status_code == 400
    assert client.embed("stories", long, truncate=True).prompt_eval_count == 512


def test_models(stories: str) -> None:
    client = ollama.Client(stories)
    [listed] = client.list().models
    [running] = client.ps().models
    assert listed.model == running.model == running.name == "stories:latest"
    assert listed.size == running.size > 4_000_000
    assert listed.digest == running.digest
    assert len(listed.digest) == len(hashlib.sha256().hexdigest())
    assert running.context_length == 512
    assert running.expires_at.year > 2100
    assert (listed.details.format, listed.details.family) == ("safetensors", "llama")
    assert (listed.details.parameter_size, listed.details.quantization_level) == ("2.36M", "F16")
    shown = client.show(listed.model)
    assert shown.details == listed.details
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["llama.context_length"] == 512
    assert shown.modelinfo["general.parameter_count"] == 2_361_408
    assert "<|story|>" in shown.template
    assert "repeat_penalty" in shown.parameters
    assert shown.modelfile.startswith("FROM stories\n")


def test_pulling_what_is_there_succeeds(client: ollama.Client) -> None:
    assert client.pull("fake").status == "success"
    assert [part.status for part in client.pull("fake:latest", stream=True)] == ["success"]


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda client: client.pull("llama3.2"), 404, "model 'llama3.2' is not served here"),
        (lambda client: list(client.pull("llama3.2", stream=True)), 404, "headrace serve"),
        (lambda client: client.push("fake"), 400, "push is not supported here"),
        (lambda client: list(client.push("fake", stream=True)), 400, "push is not supported here"),
        (lambda client: client.create("mine", from_="fake", system="x"), 400, "create is not supported here"),
        (lambda client: client.copy("fake", "mine"), 400, "--name"),
        (lambda client: client.delete("fake"), 400, "model 'fake' was not deleted"),
        (lambda client: client.delete("mine"), 404, "model 'mine' not found"),
        (lambda client: client.create_blob(__file__), 400, "blobs is not supported here"),
        (lambda client: client.show("mine"), 404, "model 'mine' not found"),
        (lambda client: client.chat("mine", QUESTION), 404, "model 'mine' not found"),
        (lambda client: client.embed("mine", "x"), 404, "model 'mine' not found"),
        (lambda client: list(client.generate("mine", "x", stream=True)), 404, "model 'mine' not found"),
        (lambda client: client.generate("fake", keep_alive=0), 400, "model 'fake' was not unloaded"),
        (lambda client: client.chat("fake", [], keep_alive="0s"), 400, "model 'fake' was not unloaded"),
        (lambda client: client.generate("fake", "x" * 3000), 400, "3,001 tokens, which leaves none of a context of 2"),
        (lambda client: client.chat("fake", QUESTION, options={"num_ctx": 9}), 400, "ask for more context"),
        (
            lambda client: client.generate("fake", "x", suffix="y"),
            400,
            "suffix: fake has no tokens to fill in the middle with",
        ),
        (lambda client: client.generate("fake", "x", images=["aGk="]), 400, "images is not supported here"),
        (lambda client: client.generate("fake", "x", template="{{ .Prompt }}"), 400, "--chat-template"),
        (lambda client: client.generate("fake", "x", system="y"), 400, "system needs a chat template"),
        (lambda client: client.generate("fake", "x", width=5), 400, "width is not supported here"),
    ],
)
def test_errors(client: ollama.Client, call: Any, status: int, said: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert caught.value.status_code == status
    assert said in caught.value.error
    assert "\n" not in caught.value.error


def test_an_empty_request_finds_the_model_loaded(client: ollama.Client) -> None:
    result = client.generate("fake", keep_alive="5m")
    assert (result.done_reason, result.response) == ("load", "")
    assert client.chat("fake", []).done_reason == "load"


@pytest.mark.parametrize("stream", [False, True])
def test_failures_before_the_first_token(serve, stream: bool) -> None:
    client = ollama.Client(serve(broken(Overloaded("no room; try again"))))
    with pytest.raises(ollama.ResponseError, match="no room") as caught:
        list(client.generate("fake", "x", stream=stream))
    assert caught.value.status_code == 503


def test_a_failure_in_the_midst_of_a_stream(serve) -> None:
    client = ollama.Client(serve(broken(EngineError("it broke; restart it"), after=3)))
    parts = client.chat("fake", QUESTION, stream=True)
    assert [next(parts).done for _ in range(3)] == [False] * 3
    with pytest.raises(ollama.ResponseError, match="it broke; restart it"):
        next(parts)


def test_leaving_a_stream_cancels_it(serve) -> None:
    llm = FakeLLM(step_seconds=0.01)
    client = ollama.Client(serve(llm))
    stream = client.generate("fake", "x", stream=True, options={"num_predict": 1500})
    next(stream)
    stream.close()
    wait_until(lambda: llm.streams[0].is_cancelled)
    assert llm.streams[0].num_steps < 1000


async def test_the_async_client(serve) -> None:
    llm = FakeLLM(step_seconds=0.005)
    client = ollama.AsyncClient(serve(llm))
    parts = [part async for part in await client.chat("fake", QUESTION, stream=True, options={"num_predict": 5})]
    assert "".join(part.message.content for part in parts) == answer(CHAT_IDS, 0, 5)
    whole = await client.generate("fake", "x", options={"num_predict": 5})
    assert whole.response == answer([256, ord("x")], 0, 5)
    assert (await client.list()).models[0].model == "fake:latest"
    with pytest.raises(ollama.ResponseError) as caught:
        await client.chat("mine", QUESTION)
    assert caught.value.status_code == 404
    task = asyncio.create_task(client.generate("fake", "x", options={"num_predict": 1500}))
    await until(lambda: len(llm.streams) == 3)
    task.cancel()
    await until(lambda: llm.streams[2].is_cancelled)
