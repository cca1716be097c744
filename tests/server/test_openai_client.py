"""The real `openai` client against a live server."""

from __future__ import annotations

import asyncio

import openai
import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken

from headrace.errors import EngineError, Overloaded

MESSAGES = [{"role": "user", "content": "Tell me a story."}]
CHAT_IDS = list(b"user: Tell me a story.\n")


def client_of(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(quick: str) -> openai.OpenAI:
    return client_of(quick)


def test_chat_whole(client: openai.OpenAI) -> None:
    result = client.chat.completions.create(model="fake", messages=MESSAGES, max_completion_tokens=12)
    assert result.object == "chat.completion"
    assert result.id.startswith("chatcmpl-")
    assert result.model == "fake"
    [choice] = result.choices
    assert (choice.message.role, choice.message.content) == ("assistant", answer(CHAT_IDS, 0, 12))
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.total_tokens) == (23, 12, 35)
    assert result.usage.prompt_tokens_details.cached_tokens == 3
    again = client.chat.completions.create(model="fake", messages=MESSAGES, max_completion_tokens=12)
    assert again.system_fingerprint == result.system_fingerprint
    assert again.id != result.id


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=5)
    turn = first.choices[0].message
    for sent in (turn, turn.model_dump()):
        client.chat.completions.create(model="fake", messages=[*MESSAGES, sent, *MESSAGES], max_tokens=5)


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=9, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert [chunk.choices[0].index for chunk in chunks[:2]] == [0, 1]
    texts, reasons = ["", ""], [[], []]
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index].append(choice.finish_reason)
    assert texts == [answer(CHAT_IDS, 0, 9), answer(CHAT_IDS, 1, 9)]
    assert all(reason[-1] == "length" and not any(reason[:-1]) for reason in reasons)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 18
    assert len({chunk.id for chunk in chunks}) == 1


def test_no_usage_unless_asked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=3, stream=True))
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)


def test_continuous_usage(client: openai.OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.completions.create(model="fake", prompt="a", max_tokens=3, stream=True, stream_options=options)
    assert [chunk.usage.completion_tokens for chunk in stream] == [1, 2, 3, 3]


def test_chat_logprobs_whole_equal_streamed(client: openai.OpenAI) -> None:
    options = {"model": "fake", "messages": MESSAGES, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in whole]
    assert "".join(entry.token for entry in whole) == answer(CHAT_IDS, 0, 4)
    assert all(bytes(entry.bytes).decode() == entry.token and entry.logprob == -1.5 for entry in whole)
    assert [[top.logprob for top in entry.top_logprobs] for entry in whole] == [[-0.5, -1.0]] * 4


def test_completion_whole_with_several_prompts(client: openai.OpenAI) -> None:
    result = client.completions.create(model="fake", prompt=["ab", "cd"], n=2, max_tokens=6)
    ids = FakeTokenizer().encode
    expected = [answer(ids(text), index, 6) for text in ("ab", "cd") for index in (0, 1)]
    assert [choice.text for choice in result.choices] == expected
    assert [choice.index for choice in result.choices] == [0, 1, 2, 3]
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (6, 24)


@pytest.mark.parametrize("prompt", ["hello", [104, 105], ["a", "b", "c"], [[104], [105, 106]]], ids=str)
def test_completion_streamed_equals_whole(client: openai.OpenAI, prompt: object) -> None:
    options = {"model": "fake", "prompt": prompt, "n": 2, "echo": True, "logprobs": 2, "max_tokens": 5}
    whole = client.completions.create(**options)
    texts: dict[int, str] = {}
    logprobs: dict[int, dict[str, list]] = {}
    for chunk in client.completions.create(**options, stream=True):
        [choice] = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        for key, values in choice.logprobs.model_dump().items():
            logprobs.setdefault(choice.index, {}).setdefault(key, []).extend(values)
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert logprobs == {choice.index: choice.logprobs.model_dump() for choice in whole.choices}


def test_completion_defaults_to_sixteen_tokens_and_chat_goes_on(client: openai.OpenAI, quick_llm: FakeLLM) -> None:
    assert client.completions.create(model="fake", prompt="x").usage.completion_tokens == 16
    client.chat.completions.create(model="fake", messages=MESSAGES)
    assert quick_llm.streams[-1].params.max_tokens is None


def test_sampling_comes_from_the_request_or_the_model(client: openai.OpenAI, quick_llm: FakeLLM) -> None:
    client.completions.create(model="fake", prompt="x", top_p=0.5, seed=4, logit_bias={"65": -100}, stop=["Q"])
    params = quick_llm.streams[-1].params
    assert (params.temperature, params.top_k, params.top_p, params.seed) == (0.25, 7, 0.5, 4)
    assert (params.logit_bias, params.stop_strings) == ({65: -100.0}, ("Q",))
    extra = {"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 2, "ignore_eos": True}
    extra |= {"stop_token_ids": [5], "include_stop_str_in_output": True, "skip_special_tokens": False}
    client.completions.create(model="fake", prompt="x", temperature=0, extra_body=extra)
    params = quick_llm.streams[-1].params
    assert (params.temperature, params.top_k, params.min_p, params.repetition_penalty) == (0, 0, 0.1, 1.2)
    assert (params.min_tokens, params.ignore_eos, params.stop_token_ids) == (2, True, (5,))
    assert (params.include_stop_str_in_output, params.skip_special_tokens) == (True, False)


def test_echo_scores_a_prompt_without_generating(client: openai.OpenAI) -> None:
    for stream in (False, True):
        result = client.completions.create(
            model="fake", prompt="abc", echo=True, max_tokens=0, logprobs=1, stream=stream
        )
        [whole] = list(result) if stream else [result]
        [choice] = whole.choices
        assert (choice.text, choice.finish_reason) == ("abc", "length")
        assert choice.logprobs.tokens == ["", "a", "b", "c"]
        assert choice.logprobs.token_logprobs == [None, -1.5, -1.5, -1.5]
        assert choice.logprobs.text_offset == [0, 0, 1, 2]
        assert stream or whole.usage.completion_tokens == 0


def test_prompt_logprobs(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="fake", prompt="ab", max_tokens=1, extra_body={"prompt_logprobs": 1})
    first, second, _ = whole.choices[0].prompt_logprobs
    assert first is None
    assert second["97"] == {"logprob": -1.5, "rank": 3, "decoded_token": "a"}
    assert len(second) == 2
    both = client.completions.create(
        model="fake", prompt="ab", max_tokens=1, echo=True, logprobs=2, extra_body={"prompt_logprobs": 1}
    ).choices[0]
    assert both.prompt_logprobs == whole.choices[0].prompt_logprobs
    assert [len(top) for top in both.logprobs.top_logprobs[1:]] == [3, 3, 3]
    chat = client.chat.completions.create(
        model="fake", messages=MESSAGES, max_tokens=1, extra_body={"prompt_logprobs": 0}
    )
    assert len(chat.prompt_logprobs) == 23


def test_add_special_tokens(client: openai.OpenAI, quick_llm: FakeLLM) -> None:
    for wanted in (True, False):
        client.completions.create(model="fake", prompt="x", extra_body={"add_special_tokens": wanted})
        assert quick_llm.streams[-1].prompt_token_ids == [256] * wanted + [120]
        client.chat.completions.create(model="fake", messages=MESSAGES, extra_body={"add_special_tokens": wanted})
        assert quick_llm.streams[-1].prompt_token_ids == [256] * wanted + CHAT_IDS


def test_chat_continues_the_last_message(client: openai.OpenAI, quick_llm: FakeLLM) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "Once"}]
    extra = {"add_generation_prompt": False, "continue_final_message": True, "chat_template_kwargs": {"mood": 1}}
    for stream in (False, True):
        result = client.chat.completions.create(
            model="fake", messages=messages, max_tokens=3, stream=stream, extra_body=extra | {"echo": True}
        )
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in result)
        else:
            text = result.choices[0].message.content
        assert text.startswith("Once")
        assert len(text) == 7
    seen = quick_llm.chats[-1]
    assert (seen["add_generation_prompt"], seen["continue_final_message"]) == (False, True)
    assert seen["chat_template_kwargs"] == {"mood": 1}


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "headrace")
    assert client.models.retrieve("fake") == model
    with pytest.raises(openai.NotFoundError, match="'fake' is"):
        client.models.retrieve("org/other")


def test_errors_reach_the_client_by_kind(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert "'fake'" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x" * 3000}])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model="fake", messages=MESSAGES, verbosity="low")
    assert (tools.value.code, tools.value.param) == ("unsupported_parameter", "verbosity")


def test_a_model_without_a_template_says_how_to_give_one(serve) -> None:
    base = serve(FakeLLM(chat_template=None))
    with pytest.raises(openai.BadRequestError, match="--chat-template FILE") as refused:
        client_of(base).chat.completions.create(model="fake", messages=MESSAGES)
    assert refused.value.code == "missing_chat_template"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_the_first_token_is_a_500(serve, stream: bool) -> None:
    base = serve(broken(EngineError("the engine failed; restart it")))
    with pytest.raises(openai.InternalServerError, match="restart it") as failed:
        client_of(base).chat.completions.create(model="fake", messages=MESSAGES, stream=stream)
    assert failed.value.status_code == 500


def test_an_engine_that_is_full_is_a_503(serve) -> None:
    base = serve(broken(Overloaded("no room now")))
    with pytest.raises(openai.InternalServerError, match="no room") as failed:
        client_of(base).chat.completions.create(model="fake", messages=MESSAGES)
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"] == "1"


def test_a_failure_in_mid_stream_is_an_error_event(serve) -> None:
    base = serve(broken(EngineError("the engine failed; restart it"), after=3))
    for create, body in (
        (client_of(base).chat.completions.create, {"messages": MESSAGES}),
        (client_of(base).completions.create, {"prompt": ["a", "b"]}),
    ):
        stream = create(model="fake", stream=True, **body)
        assert [next(stream).choices[0].finish_reason for _ in range(3)] == [None] * 3
        with pytest.raises(openai.APIError, match="restart it"):
            list(stream)


@pytest.mark.parametrize("after", [0, 2])
def test_an_unexpected_error_tells_the_client_nothing(serve, caplog: pytest.LogCaptureFixture, after: int) -> None:
    client = client_of(serve(broken(RuntimeError("/secret/path"), after=after)))
    with pytest.raises(openai.APIError) as failed:
        list(client.chat.completions.create(model="fake", messages=MESSAGES, stream=True))
    assert failed.value.code == "internal_error"
    assert "its log says why" in failed.value.message
    assert "secret" not in str(failed.value.body)
    assert "/secret/path" in caplog.text, "the log has the traceback"


async def test_many_at_once_get_what_they_get_alone(quick: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{quick}/v1", api_key="none", max_retries=0)

    async def streamed(number: int) -> str:
        prompt = f"story {number}"
        if number % 2:
            return (await client.completions.create(model="fake", prompt=prompt, max_tokens=20)).choices[0].text
        text = ""
        async for chunk in await client.completions.create(model="fake", prompt=prompt, max_tokens=20, stream=True):
            text += chunk.choices[0].text
            await asyncio.sleep(0)
        return text

    texts = await asyncio.gather(*(streamed(number) for number in range(64)))
    assert texts == [answer(FakeTokenizer().encode(f"story {number}"), 0, 20) for number in range(64)]
    await client.close()


def test_a_stream_arrives_while_it_is_made(serve) -> None:
    llm = FakeLLM(step_seconds=0.01)
    with client_of(serve(llm)).completions.create(model="fake", prompt="x", max_tokens=1500, stream=True) as stream:
        assert [next(stream).choices[0].text for _ in range(3)] == list(llm.streams[0].texts[0][:3])
        assert llm.streams[0].num_steps < 1500
