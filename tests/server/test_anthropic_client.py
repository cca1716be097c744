"""The real `anthropic` client against a live server, with an engine that answers at once."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace

import anthropic
import httpx
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo
from anthropic.types.shared import ErrorResponse
from fake_llm import FakeLLM, answer, broken
from waiting import until, wait_until

from headrace.errors import EngineError, Overloaded
from headrace.server.dialects.anthropic.errors import render_failure
from headrace.server.errors import Failure

MESSAGES = [{"role": "user", "content": "Tell me a story."}]
IDS = list(b"user: Tell me a story.\n")
ASK = {"model": "fake", "messages": MESSAGES}


def client_of(base: str, **options: object) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base, **{"api_key": "none", "max_retries": 0, **options})


@pytest.fixture
def client(quick: str) -> anthropic.Anthropic:
    return client_of(quick)


def test_whole(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASK, max_tokens=12)
    assert (message.type, message.role, message.model) == ("message", "assistant", "fake")
    assert message.id.startswith("msg_")
    [block] = message.content
    assert (block.type, block.text) == ("text", answer(IDS, 0, 12))
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (20, 3, 0)
    assert (usage.output_tokens, usage.service_tier) == (12, "standard")
    assert re.fullmatch("req_[0-9a-f]{24}", message._request_id or "")
    assert client.messages.create(**ASK, max_tokens=12).id != message.id


def test_an_answer_can_be_sent_back_as_it_came(client: anthropic.Anthropic, quick_llm: FakeLLM) -> None:
    message = client.messages.create(**ASK, max_tokens=5)
    sent = [message.to_param(), {"role": "assistant", "content": message.content}]
    sent.append({"role": "assistant", "content": [block.model_dump() for block in message.content]})
    for turn in sent:
        client.messages.create(model="fake", messages=[*MESSAGES, turn, *MESSAGES], max_tokens=5)
        assert quick_llm.chats[-1]["messages"][1] == {"role": "assistant", "content": answer(IDS, 0, 5)}


def test_events_of_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.create(**ASK, max_tokens=3, stream=True) as stream:
        events = list(stream)
    deltas = ["content_block_delta"] * 3
    kinds = ["message_start", "content_block_start", *deltas, "content_block_stop", "message_delta", "message_stop"]
    assert [event.type for event in events] == kinds
    start = events[0].message
    assert (start.content, start.stop_reason, start.usage.input_tokens) == ([], None, 20)
    assert start.usage.cache_read_input_tokens == 3
    assert [event.delta.text for event in events[2:5]] == list(answer(IDS, 0, 3))
    assert events[-2].delta.stop_reason == "max_tokens"
    assert (events[-2].usage.output_tokens, events[-2].usage.input_tokens) == (3, 20)


def test_events_have_their_names_and_there_is_a_ping(quick: str) -> None:
    body = {**ASK, "max_tokens": 2, "stream": True}
    with httpx.stream("POST", f"{quick}/v1/messages", json=body) as response:
        text = response.read().decode()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["request-id"].startswith("req_")
    events = re.findall(r"event: (.*)\ndata: (.*)\n\n", text)
    assert "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events) == text
    assert all(json.loads(data)["type"] == name for name, data in events)
    assert [name for name, _ in events][:2] == ["message_start", "ping"]


def test_the_streaming_helper_gives_what_comes_whole(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASK, max_tokens=12) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    whole = client.messages.create(**ASK, max_tokens=12)
    assert "".join(texts) == whole.content[0].text
    ignored = {"id"}
    assert final.model_dump(exclude=ignored, exclude_none=True) == whole.model_dump(exclude=ignored, exclude_none=True)


async def test_many_at_once_get_what_they_get_alone(quick: str) -> None:
    client = anthropic.AsyncAnthropic(base_url=quick, api_key="none", max_retries=0)

    async def told(number: int) -> str:
        ask = {"model": "fake", "messages": [{"role": "user", "content": f"story {number}"}], "max_tokens": 20}
        if number % 2:
            return (await client.messages.create(**ask)).content[0].text
        async with client.messages.stream(**ask) as stream:
            return await stream.get_final_text()

    texts = await asyncio.gather(*(told(number) for number in range(32)))
    assert texts == [answer(list(f"user: story {number}\n".encode()), 0, 20) for number in range(32)]
    await client.close()


def test_leaving_a_stream_cancels_it(serve) -> None:
    llm = FakeLLM(step_seconds=0.01)
    client = client_of(serve(llm))
    with client.messages.stream(**ASK, max_tokens=1500) as stream:
        assert next(stream.text_stream)
    wait_until(lambda: llm.streams[0].is_cancelled)
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.create(**ASK, max_tokens=1500, timeout=0.2)
    wait_until(lambda: llm.streams[1].is_cancelled)
    assert all(stream.num_steps < 1000 for stream in llm.streams)


def test_stop_sequences_reach_the_engine(client: anthropic.Anthropic, quick_llm: FakeLLM) -> None:
    client.messages.create(**ASK, max_tokens=5, stop_sequences=["fox", "dog"])
    assert quick_llm.streams[-1].params.stop_strings == ("fox", "dog")


def test_a_tokens_limit_above_the_context_ends_with_the_context(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASK, max_tokens=20_000)
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.output_tokens == 2000 - len(IDS)
    with pytest.raises(anthropic.BadRequestError, match=r"messages: .*2,000"):
        client.messages.create(model="fake", messages=[{"role": "user", "content": "x" * 2000}], max_tokens=1)


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_read_the_prompt_and_show_nothing(client: anthropic.Anthropic, stream: bool) -> None:
    with client.messages.stream(**ASK, max_tokens=0) as helper:
        streamed = helper.get_final_message()
    message = streamed if stream else client.messages.create(**ASK, max_tokens=0)
    assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)


def test_count_tokens_counts_what_the_message_costs(client: anthropic.Anthropic) -> None:
    ask = {**ASK, "system": "Be brief."}
    usage = client.messages.create(**ask, max_tokens=3).usage
    count = client.messages.count_tokens(**ask).input_tokens
    assert count == usage.input_tokens + usage.cache_read_input_tokens == len("system: Be brief.\n") + len(IDS)
    long = [{"role": "user", "content": "x" * 100_000}]
    assert client.messages.count_tokens(model="fake", messages=long).input_tokens > 100_000
    assert client.beta.messages.count_tokens(**ask).input_tokens == count
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="other", messages=MESSAGES)


def test_the_beta_resource_is_the_same(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(**ASK, max_tokens=4, betas=["context-1m-2025-08-07"])
    assert message.content[0].text == answer(IDS, 0, 4)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-beta has 'telepathy-2027-01-01'"):
        client.beta.messages.create(**ASK, max_tokens=4, betas=["telepathy-2027-01-01"])


def test_models_have_anthropics_shape_for_its_clients_only(client: anthropic.Anthropic, quick: str) -> None:
    page = client.models.list()
    assert (page.first_id, page.last_id, page.has_more) == ("fake", "fake", False)
    [model] = page.data
    assert (model.id, model.type, model.lifecycle, model.max_input_tokens) == ("fake", "model", "active", 2000)
    assert client.models.retrieve("fake") == model
    with pytest.raises(anthropic.NotFoundError, match="'fake' is") as missing:
        client.models.retrieve("org/other")
    assert missing.value.type == "not_found_error"
    assert httpx.get(f"{quick}/v1/models").json()["object"] == "list"


def test_models_come_in_pages(serve) -> None:
    names = [f"lora-{number}" for number in range(5)]
    client = client_of(serve(FakeLLM(adapters={name: SimpleNamespace(path="/x") for name in names})))
    assert client.messages.count_tokens(model="lora-3", messages=MESSAGES).input_tokens == len(IDS)
    assert client.models.retrieve("lora-3").id == "lora-3"
    everything = ["fake", *names]
    assert [model.id for model in client.models.list(limit=2)] == everything
    page = client.models.list(limit=2, after_id="fake")
    assert ([model.id for model in page.data], page.has_more) == (everything[1:3], True)
    page = client.models.list(limit=2, before_id="lora-4")
    assert ([model.id for model in page.data], page.has_more) == (everything[3:5], True)
    assert not client.models.list(before_id="lora-0", limit=1).has_more
    assert client.models.list(after_id="lora-4").data == []
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "nobody"}, {"after_id": "fake", "before_id": "fake"}):
        with pytest.raises(anthropic.BadRequestError, match=next(reversed(wrong))):
            client.models.list(**wrong)
    with pytest.raises(anthropic.BadRequestError, match="colour is not a known query parameter"):
        client.models.list(extra_query={"colour": "red"})


def test_answers_have_every_field_that_the_clients_types_require(quick: str) -> None:
    """The client itself reads leniently."""
    ask = {**ASK, "max_tokens": 3}
    Message.model_validate(httpx.post(f"{quick}/v1/messages", json=ask).json())
    MessageTokensCount.model_validate(httpx.post(f"{quick}/v1/messages/count_tokens", json=ASK).json())
    head = {"anthropic-version": "2026-10-21"}
    for model in (
        httpx.get(f"{quick}/v1/models", headers=head).json()["data"][0],
        httpx.get(f"{quick}/v1/models/fake", headers=head).json(),
    ):
        ModelInfo.model_validate(model)
    refused = httpx.post(f"{quick}/v1/messages", json={**ask, "model": "other"}).json()
    assert ErrorResponse.model_validate(refused).request_id


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (501, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_kinds_of_errors(status: int, kind: str) -> None:
    assert json.loads(render_failure(Failure(status, "x")))["error"]["type"] == kind


async def test_a_cancelled_task_cancels_its_message(serve) -> None:
    llm = FakeLLM(step_seconds=0.01)
    async with anthropic.AsyncAnthropic(base_url=serve(llm), api_key="none", max_retries=0) as client:
        asking = asyncio.create_task(client.messages.create(**ASK, max_tokens=1500))
        async with client.messages.stream(**ASK, max_tokens=1500) as stream:
            async for _ in stream.text_stream:
                break
        await until(lambda: len(llm.streams) == 2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: all(one.is_cancelled for one in llm.streams))


def test_keys(serve) -> None:
    base = serve(FakeLLM(), api_keys=("open-sesame",))
    assert client_of(base, api_key="open-sesame").messages.create(**ASK, max_tokens=1)
    assert httpx.get(f"{base}/v1/models", headers={"x-api-key": "open-sesame"}).status_code == 200
    for ask in (lambda one: one.messages.create(**ASK, max_tokens=1), lambda one: one.models.list()):
        with pytest.raises(anthropic.AuthenticationError) as refused:
            ask(client_of(base, api_key="other"))
        assert refused.value.type == "authentication_error"


def test_errors_reach_the_client_by_kind(client: anthropic.Anthropic, quick: str) -> None:
    with pytest.raises(anthropic.NotFoundError, match="'fake' is") as missing:
        client.messages.create(model="claude", messages=MESSAGES, max_tokens=1)
    assert missing.value.type == "not_found_error"
    assert missing.value.body["request_id"] == missing.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="temperature is 2") as wrong:
        client.messages.create(**ASK, max_tokens=1, extra_body={"temperature": 2})
    assert wrong.value.type == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError, match="one by one") as batches:
        client.messages.batches.list()
    assert batches.value.type == "not_found_error"
    lost = httpx.post(f"{quick}/v1/messages/other", json={})
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "not_found_error")
    plain = httpx.post(f"{quick}/v1/messages", content=b"{}", headers={"content-type": "text/plain"})
    assert (plain.status_code, plain.json()["error"]["type"]) == (415, "invalid_request_error")
    assert httpx.get(f"{quick}/v1/messages").status_code == 405


def test_too_large_a_body(serve) -> None:
    client = client_of(serve(FakeLLM(), max_body_bytes=1000))
    with pytest.raises(anthropic.ContentTooLargeError) as large:
        client.messages.create(model="fake", messages=[{"role": "user", "content": "x" * 2000}], max_tokens=1)
    assert large.value.body["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_full_is_overloaded(serve, stream: bool) -> None:
    client = client_of(serve(broken(Overloaded("no room now"))))
    with pytest.raises(anthropic.OverloadedError, match="no room") as full:
        client.messages.create(**ASK, max_tokens=5, stream=stream)
    assert (full.value.status_code, full.value.type) == (529, "overloaded_error")
    assert full.value.response.headers["retry-after"] == "1"


def test_a_failure_in_mid_stream_is_an_error_event(serve) -> None:
    client = client_of(serve(broken(EngineError("the engine failed; restart it"), after=3)))
    with client.messages.create(**ASK, max_tokens=9, stream=True) as stream:
        assert [next(stream).type for _ in range(4)][-1] == "content_block_delta"
        with pytest.raises(anthropic.APIStatusError, match="restart it") as failed:
            list(stream)
    assert failed.value.type == "api_error"
    assert failed.value.body["request_id"] == stream.response.headers["request-id"]


def test_an_unexpected_error_tells_the_client_nothing(serve) -> None:
    client = client_of(serve(broken(RuntimeError("/secret/path"))))
    with pytest.raises(anthropic.InternalServerError, match="its log says why") as failed:
        client.messages.create(**ASK, max_tokens=5)
    assert failed.value.type == "api_error"
    assert "secret" not in str(failed.value.body)
