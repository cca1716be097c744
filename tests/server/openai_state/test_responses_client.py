"""/v1/responses through the official client: whole, streamed, stored, in the background."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from fake_llm import FakeLLM, answer, broken
from pydantic import BaseModel
from waiting import asked_until, wait_until

from headrace.errors import EngineError, Overloaded
from headrace.types import Chunk, FinishReason, ToolCallDelta

IDS = list(b"user: Hi.\n")


def client_of(base: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)


def ended(client: openai.OpenAI, response_id: str) -> Any:
    return asked_until(lambda: client.responses.retrieve(response_id), lambda found: found.status != "in_progress")


@pytest.fixture
def client(quick: str) -> openai.OpenAI:
    return client_of(quick)


class ScriptedLLM(FakeLLM):
    """Says these chunks, whatever it is asked."""

    script: list[Chunk]

    def submit(self, *args: Any, **options: Any) -> Any:
        stream = super().submit(*args, **options)
        pieces = iter(self.script)

        async def next_chunks(*_: object) -> list[Chunk]:
            return [chunk] if (chunk := next(pieces, None)) else []

        stream.next_chunks = next_chunks
        return stream


def scripted(*chunks: Chunk) -> ScriptedLLM:
    llm = ScriptedLLM()
    llm.script = [*chunks[:-1], Chunk(0, chunks[-1].text, finish_reason=FinishReason.STOP,
                                      tool_calls=chunks[-1].tool_calls, reasoning=chunks[-1].reasoning)]  # fmt: skip
    return llm


THOUGHT_AND_CALLS = (
    Chunk(0, "", reasoning="Let me "),
    Chunk(0, "", reasoning="look."),
    Chunk(0, "\n"),
    Chunk(0, "I look."),
    Chunk(0, "\n"),
    Chunk(0, "", tool_calls=[ToolCallDelta(0, "call_a", "look")]),
    Chunk(0, "", tool_calls=[ToolCallDelta(0, arguments='{"far":'), ToolCallDelta(0, arguments="1}")]),
    Chunk(0, "\n"),
    Chunk(0, "", tool_calls=[ToolCallDelta(1, "call_b", "look", '{"far":2}')]),
)


def test_whole(client: openai.OpenAI) -> None:
    response = client.responses.create(model="fake", input="Hi.", max_output_tokens=12, metadata={"a": "b"})
    assert (response.object, response.model, response.status) == ("response", "fake", "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == answer(IDS, 0, 12)
    assert response.metadata == {"a": "b"}
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 12, 22)
    assert usage.input_tokens_details.cached_tokens == 3
    assert (response.temperature, response.store, response.truncation) == (0.25, True, "disabled")


def test_what_is_stored_can_be_asked_for_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input=[{"role": "user", "content": "Hi."}], max_output_tokens=5)
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    [item] = client.responses.input_items.list(made.id).data
    assert (item.type, item.role, item.content[0].text, item.status) == ("message", "user", "Hi.", "completed")
    client.responses.delete(made.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


def test_stateless_leaves_nothing(client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input="Hi.", max_output_tokens=5, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="fake", input="More.", previous_response_id=made.id)
    assert refused.value.param == "previous_response_id"


def test_a_conversation_goes_on(quick_llm: FakeLLM, client: openai.OpenAI) -> None:
    first = client.responses.create(model="fake", input="Hi.", instructions="Be brief.", max_output_tokens=5)
    second = client.responses.create(model="fake", input="More.", previous_response_id=first.id, max_output_tokens=5)
    assert quick_llm.chats[-1]["messages"] == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "More."},
    ]
    client.responses.create(model="fake", input="On.", previous_response_id=second.id, max_output_tokens=5)
    assert [message["content"] for message in quick_llm.chats[-1]["messages"]] == [
        *("Hi.", first.output_text, "More.", second.output_text, "On."),
    ]
    # the same by hand, with the output as it came
    items = [{"role": "user", "content": "Hi."}, *[item.to_dict() for item in first.output]]
    client.responses.create(model="fake", input=[*items, {"role": "user", "content": "More."}], max_output_tokens=5)
    assert quick_llm.chats[-1]["messages"] == quick_llm.chats[-3]["messages"]


def test_stream_is_the_whole_in_pieces(client: openai.OpenAI) -> None:
    with client.responses.stream(model="fake", input="Hi.", max_output_tokens=7) as stream:
        events = list(stream)
        final = stream.get_final_response() if events[-1].type == "response.completed" else events[-1].response
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 7,
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text
    assert final.output_text == answer(IDS, 0, 7)
    stored = client.responses.retrieve(final.id).to_dict()
    assert stored == {**events[-1].response.to_dict(), "output": stored["output"]}
    assert stored["output"][0]["status"] == "incomplete"


def test_thoughts_and_calls(serve: Any) -> None:
    client = client_of(serve(scripted(*THOUGHT_AND_CALLS)))
    whole = client.responses.create(model="fake", input="Hi.", include=["reasoning.encrypted_content"])
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    thought, message, *calls = whole.output
    assert thought.content[0].text == "Let me look."
    assert message.content[0].text.strip() == "I look."
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [
        ("call_a", "look", {"far": 1}),
        ("call_b", "look", {"far": 2}),
    ]
    assert whole.status == "completed"
    events = list(client.responses.create(model="fake", input="Hi.", stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *(call[0], call[1], *call[1:]),
        *call,
        "completed",
    ]
    indices = [event.output_index for event in events if hasattr(event, "output_index")]
    assert indices == sorted(indices)
    assert [item.type for item in events[-1].response.output] == [item.type for item in whole.output]


def test_a_call_and_its_output_go_back(serve: Any) -> None:
    llm = scripted(*THOUGHT_AND_CALLS)
    client = client_of(serve(llm))
    first = client.responses.create(model="fake", input="Hi.", include=["reasoning.encrypted_content"])
    outputs = [{"type": "function_call_output", "call_id": f"call_{each}", "output": each} for each in "ab"]
    client.responses.create(model="fake", input=outputs, previous_response_id=first.id)
    messages = llm.chats[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["reasoning_content"] == "Let me look."
    assert messages[1]["content"].strip() == "I look."
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_a", "call_b"]
    thought, *rest = [item.to_dict() for item in first.output]
    del thought["content"]  # what is called encrypted is enough
    client.responses.create(model="fake", input=[{"role": "user", "content": "Hi."}, thought, *rest, *outputs])
    assert llm.chats[-1]["messages"] == messages
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="fake", input=outputs)
    assert refused.value.param == "input[0].call_id"


def test_parse(serve: Any) -> None:
    class Place(BaseModel):
        name: str

    client = client_of(serve(scripted(Chunk(0, '{"name": '), Chunk(0, '"Ulm"}'))))
    parsed = client.responses.parse(model="fake", input="Hi.", text_format=Place)
    assert parsed.output_parsed == Place(name="Ulm")
    assert parsed.text.format.type == "json_schema"


def test_an_empty_answer_is_a_message(serve: Any) -> None:
    client = client_of(serve(scripted(Chunk(0, "", reasoning="Hm."), Chunk(0, ""))))
    whole = client.responses.create(model="fake", input="Hi.")
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output_text == ""


def test_logprobs(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}
    whole = client.responses.create(model="fake", input="Hi.", **fields)
    [part] = whole.output[0].content
    assert "".join(entry.token for entry in part.logprobs) == whole.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    events = list(client.responses.create(model="fake", input="Hi.", stream=True, **fields))
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [entry.token for [entry] in deltas] == [entry.token for entry in part.logprobs]


def test_padding_hides_lengths(quick: str) -> None:
    body = {"model": "fake", "input": "Hi.", "stream": True, "max_output_tokens": 9}
    text = httpx.post(f"{quick}/v1/responses", json={**body, "stream_options": {"include_obfuscation": True}}).text
    deltas = [event for event in text.split("\n\n") if ".delta" in event]
    assert len(deltas) == 9
    assert all(json.loads(delta.partition("data: ")[2])["obfuscation"] for delta in deltas)
    assert len({len(delta) for delta in deltas}) == 1


def test_background(serve: Any) -> None:
    client = client_of(serve(FakeLLM()))
    made = client.responses.create(model="fake", input="Hi.", background=True, max_output_tokens=8)
    assert made.status == "in_progress"
    assert made.output == []
    found = ended(client, made.id)
    assert found.status == "incomplete"
    assert found.output_text == answer(IDS, 0, 8)
    assert found.background is True
    assert client.responses.cancel(made.id).status == "incomplete", "what has ended stays as it is"


def test_background_is_cancelled(serve: Any) -> None:
    llm = FakeLLM(step_seconds=30)
    client = client_of(serve(llm))
    made = client.responses.create(model="fake", input="Hi.", background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    deleted = client.responses.create(model="fake", input="Hi.", background=True)
    client.responses.delete(deleted.id)
    wait_until(lambda: all(stream.is_cancelled for stream in llm.streams))
    assert client.responses.retrieve(made.id).status == "cancelled"
    llm.step_seconds = 0
    foreground = client.responses.create(model="fake", input="Hi.", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(foreground.id)


def test_what_is_wrong_with_a_background_call_is_said_at_once(serve: Any) -> None:
    client = client_of(serve(FakeLLM(max_context=20)))
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="fake", input="Hi." * 20, background=True)
    assert refused.value.code == "context_length_exceeded"
    for fields in ({"store": False}, {"stream": True}):
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="fake", input="Hi.", background=True, **fields)


def test_failures(serve: Any) -> None:
    client = client_of(serve(broken(EngineError("the engine died"), after=3)))
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="fake", input="Hi.")
    events = list(client.responses.create(model="fake", input="Hi.", stream=True))
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "server_error", "the engine died")
    assert client.responses.retrieve(failed.id).status == "failed"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="fake", input="More.", previous_response_id=failed.id)
    assert "failed" in refused.value.message
    made = client.responses.create(model="fake", input="Hi.", background=True)
    found = ended(client, made.id)
    assert (found.status, found.error.message) == ("failed", "the engine died")
    down = client_of(serve(broken(Overloaded("no room"))))
    with pytest.raises(openai.InternalServerError):
        down.responses.create(model="fake", input="Hi.", stream=True)


def test_leaving_a_stream_cancels_it(serve: Any) -> None:
    llm = FakeLLM(step_seconds=0.01)
    client = client_of(serve(llm))
    with client.responses.create(model="fake", input="Hi.", max_output_tokens=1500, stream=True) as stream:
        first = next(iter(stream))
    wait_until(lambda: llm.streams[0].is_cancelled)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.response.id)


def test_tenants_see_their_own(serve: Any) -> None:
    base = serve(FakeLLM(), api_keys=("one", "two"))
    mine, other = client_of(base, "one"), client_of(base, "two")
    made = mine.responses.create(model="fake", input="Hi.", max_output_tokens=2)
    assert mine.responses.retrieve(made.id).id == made.id
    for ask in (other.responses.retrieve, other.responses.delete, other.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    with pytest.raises(openai.BadRequestError):
        other.responses.create(model="fake", input="Hi.", previous_response_id=made.id)


def test_input_items_in_pages(client: openai.OpenAI) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    made = client.responses.create(model="fake", input=items, max_output_tokens=2)
    listed = client.responses.input_items.list(made.id, limit=2, order="asc")
    assert [item.content[0].text for item in listed] == list("01234")  # the client asks for the pages behind
    assert [item.content[0].text for item in client.responses.input_items.list(made.id).data] == list("43210")
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(made.id, limit=0)
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.responses.input_items.list(made.id, limit=f"000000001{'0' * 5000}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a", "strict": 3}]}, "tools[0].strict"),
        ({"tools": [{"type": "function", "name": "a"}] * 2}, "tools[1].name"),
        ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice"),
        ({"tool_choice": {"type": "mcp", "server_label": "b"}}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "a": "b"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "bot", "content": "a"}]}, "input[0].role"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"type": "reasoning", "encrypted_content": "xx"}]}, "input[0].encrypted_content"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"include": ["web_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"n": 2}, "n"),
    ],
)  # fmt: skip
def test_refused_by_name(quick: str, fields: dict[str, Any], param: str) -> None:
    body = {"model": "fake", "input": "Hi.", "max_output_tokens": 2, **fields}
    reply = httpx.post(f"{quick}/v1/responses", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param, error
    assert "\n" not in error["message"]


@pytest.mark.parametrize("query", ["stream=true", "starting_after=3", "include=a", "what=1"])
def test_queries_refused_by_name(quick: str, client: openai.OpenAI, query: str) -> None:
    made = client.responses.create(model="fake", input="Hi.", max_output_tokens=2)
    reply = httpx.get(f"{quick}/v1/responses/{made.id}?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == query.partition("=")[0]


def test_allowed_tools(quick_llm: FakeLLM, client: openai.OpenAI) -> None:
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in "ab"]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    made = client.responses.create(model="fake", input="Hi.", tools=tools, tool_choice=allowed, max_output_tokens=2)
    asked = quick_llm.chats[-1]
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["b"]
    assert asked["tool_choice"] == "required"
    assert [tool.name for tool in made.tools] == ["a", "b"]
