"""Bodies that are large, unfold to much, or are many at a time: refused by name, and never in other streams' way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
import time
import weakref
from typing import Any

import httpx
import pytest
from fake_llm import FakeLLM
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from test_slow_clients import HEAD, connect, rest_of
from waiting import until, wait_until

from headrace.errors import RequestError, TemplateOutOfTime
from headrace.server import json_values
from headrace.server.beside import Beside
from headrace.server.dialects.base import Answer, Dialect, Incoming, Route, Served
from headrace.server.errors import BodyTooLarge
from headrace.server.json_values import check_values
from headrace.server.origins import Origins
from headrace.server.reading import Reading
from headrace.server.routing import RouteTable
from headrace.server.settings import ServerSettings
from headrace.text.chat import ChatTemplate

ROUTES = ("/v1/completions", "/v1/messages", "/api/generate", "/generate", "/v2/models/fake/generate", "/completion")


def weight_of(value: Any) -> int:
    """What `check_values` counts, from the value itself."""
    if isinstance(value, dict):
        return 4 + max(len(value) - 1, 0) + sum(4 + weight_of(each) for each in value.values())
    if isinstance(value, list):
        return 4 + max(len(value) - 1, 0) + sum(map(weight_of, value))
    return 0


texts = st.text(alphabet='a,:[{}]"\\/é\U0001f600\n', max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=30,
)


@given(value=values, in_ascii=st.booleans(), chunk=st.integers(1, 40))
def test_values_are_counted_outside_of_strings_only(value: Any, in_ascii: bool, chunk: int) -> None:
    body = json.dumps(value, ensure_ascii=in_ascii, indent=1).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_CHUNK", chunk)
        check_values(body, weight_of(value))
        if weight_of(value) > 0:
            with pytest.raises(BodyTooLarge, match="values"):
                check_values(body, weight_of(value) - 1)


@pytest.mark.parametrize("chunk", [1, 7, 100, 2**18])
def test_long_numbers_are_refused_and_long_texts_of_digits_are_not(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_values, "_CHUNK", chunk)
    check_values(b'{"a": "' + b"1" * 5000 + b'", "b": ' + b"1" * 400 + b"}", 13)
    check_values(b"[" + b"1" * 400 + b"," + b"2" * 400 + b"." + b"3" * 400 + b"]", 5)
    for number in (b"1" * 401, b"-" + b"1" * 401, b"0." + b"1" * 401):
        with pytest.raises(BodyTooLarge, match="400 digits"):
            check_values(b"[1," + number + b"]", 5)


@pytest.mark.parametrize("path", ROUTES)
def test_too_many_values_are_413_in_every_dialect(serve, path: str) -> None:
    base = serve(FakeLLM(), max_json_values=50)
    response = httpx.post(base + path, json={"a": [{}] * 100})
    assert response.status_code == 413
    assert "more than 50 values" in response.text


def test_a_text_full_of_commas_is_no_list(serve) -> None:
    base = serve(FakeLLM(), max_json_values=50)
    body = {"model": "fake", "prompt": '[,{"":' * 20, "max_tokens": 1}
    assert httpx.post(f"{base}/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("in_one_message", [True, False])
def test_the_arguments_of_calls_are_counted_though_they_are_texts(serve, in_one_message: bool) -> None:
    base = serve(FakeLLM(), max_json_values=1000)
    arguments = '{"a": [' + "{}," * 50 + "{}]}"
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    for count, status in ((2, 200), (6, 413)):
        calls = [[call] * count] if in_one_message else [[call]] * count
        turns = [{"role": "assistant", "content": None, "tool_calls": each} for each in calls]
        body = {"model": "fake", "messages": [{"role": "user", "content": "[{," * 500}, *turns], "max_tokens": 1}
        assert httpx.post(f"{base}/v1/chat/completions", json=body).status_code == status
    del body["max_tokens"]
    assert httpx.post(f"{base}/tokenize", json=body).status_code == status


def test_bodies_that_do_not_fit_beside_others_are_503(serve) -> None:
    base = serve(FakeLLM(), max_bodies_bytes=100_000)
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 1}).encode()
    large = body + b" " * 150_000  # JSON all the same

    def statuses() -> tuple[int, int]:
        return tuple(
            httpx.post(f"{base}/v1/completions", content=each, headers={"content-type": "application/json"}).status_code
            for each in (large, body + b" " * 60_000)
        )

    assert statuses() == (200, 200)
    with connect(base) as client:
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(large) + large[:-1])
        wait_until(lambda: statuses() == (503, 200))  # as soon as that is in the server's memory
        assert held_bytes(base) == len(large) - 1 - 2**16
        refused = httpx.post(f"{base}/v1/completions", content=large, headers={"content-type": "application/json"})
        assert refused.json()["error"]["code"] == "bodies_too_large"
        assert int(refused.headers["retry-after"]) > 0
        client.sendall(large[-1:])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: statuses() == (200, 200))
    assert held_bytes(base) == 0


def held_bytes(base: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{base}/metrics").text)
    (sample,) = next(family for family in families if family.name == "headrace:request_bodies_bytes").samples
    assert sample.labels == {"model_name": "fake"}
    return sample.value


def test_a_body_for_which_there_never_is_room_is_413(serve) -> None:
    base = serve(FakeLLM(), max_bodies_bytes=100_000)
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 1}).encode()
    for size, status in ((100_000 + 2**16, 200), (100_001 + 2**16, 413)):
        padded = body.ljust(size)
        response = httpx.post(f"{base}/v1/completions", content=padded, headers={"content-type": "application/json"})
        assert response.status_code == status
    assert "more than 165,536 bytes" in response.json()["error"]["message"]


def test_a_body_that_is_given_up_gives_its_room_back(serve) -> None:
    base = serve(FakeLLM(), max_bodies_bytes=100_000, body_idle_seconds=1)
    with connect(base) as client:
        client.sendall(HEAD + b"content-length: 150000\r\n\r\n" + b" " * 149_000)
        assert rest_of(client).startswith(b"HTTP/1.1 408 ")
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 1}).encode() + b" " * 150_000
    response = httpx.post(f"{base}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


def reading_with(parse: Any) -> tuple[Reading, RouteTable]:
    table = RouteTable([Dialect(name="x", routes=[Route(path="/x", parse=parse)], render_failure=lambda _: b"")])
    served: Any = Served(name="x", version="", fingerprint="", created=0, max_context=1, defaults=None, token_text=str,
                         token_bytes=lambda _: None)  # type: ignore[arg-type]  # fmt: skip
    return Reading(ServerSettings(), served, Origins(), Beside()), table


def test_a_large_body_is_parsed_beside_the_event_loop_and_a_small_one_in_it() -> None:
    loop_ran = threading.Event()

    def parse(incoming: Incoming, _: Served) -> Answer:
        if len(incoming.body) > 100:
            assert loop_ran.wait(60), "the event loop waits for a parse"
        return Answer(body=threading.current_thread().name.encode())

    async def run() -> tuple[Any, Any]:
        reading, table = reading_with(parse)
        [match] = table.find("POST", "/x")
        small = await reading.parse(match, Incoming(method="POST", path="/x", body=b"{}"))
        large = asyncio.create_task(reading.parse(match, Incoming(method="POST", path="/x", body=b" " * 100_000)))
        await asyncio.sleep(0)
        loop_ran.set()
        return small, await large

    small, large = asyncio.run(run())
    assert small.body == threading.main_thread().name.encode()
    assert large.body.startswith(b"headrace-bodies")


def test_large_bodies_are_parsed_one_at_a_time_and_a_cancelled_one_is_waited_for() -> None:
    running: list[int] = []
    most = 0
    may_end = threading.Event()

    def work() -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        assert may_end.wait(60)
        running.pop()

    async def run() -> None:
        beside = Beside()
        first = asyncio.create_task(beside.body(work))
        await until(lambda: running)
        others = [asyncio.create_task(beside.body(work)) for _ in range(3)]
        first.cancel()
        await asyncio.sleep(0.01)
        assert not first.done()  # its body is still in memory
        may_end.set()
        await asyncio.gather(first, *others, return_exceptions=True)
        assert first.cancelled()

    asyncio.run(run())
    assert most == 1


def test_what_fails_leaves_nothing_for_the_collector() -> None:
    class Fields(list[int]):
        pass

    left: list[weakref.ref[Fields]] = []

    def fail() -> None:
        fields = Fields([1])
        left.append(weakref.ref(fields))
        raise RequestError("no")

    async def run() -> None:
        beside = Beside()
        for call in (lambda: beside.body(fail), lambda: beside.text(fail, is_small=False)):
            with contextlib.suppress(RequestError):
                await call()
            await asyncio.sleep(0)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()


def test_small_texts_are_the_loops_own_while_they_are_quick() -> None:
    def slow() -> str:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass
        return threading.current_thread().name

    async def run() -> None:
        beside = Beside()
        name, here = (lambda: threading.current_thread().name), threading.current_thread().name
        assert await beside.text(name, is_small=True) != here  # nobody knows yet
        while await beside.text(name, is_small=True) != here:
            pass
        assert await beside.text(name, is_small=False) != here
        assert await beside.text(slow, is_small=True) == here
        assert await beside.text(name, is_small=True) != here

    asyncio.run(run())


def test_a_slow_template_begins_again_in_a_thread() -> None:
    source = "{% for a in range(100000) %}{% for b in range(messages[0].content | int) %}{% endfor %}{% endfor %}"
    template = ChatTemplate({"default": source}, {})
    threads: list[str] = []

    def render(count: int) -> str:
        threads.append(threading.current_thread().name)
        return template.render([{"role": "user", "content": str(count)}])

    async def run() -> None:
        beside, here = Beside(), threading.current_thread().name
        while threads[-1:] != [here]:
            await beside.text(lambda: render(0) if len(threads) < 3 else "", is_small=True)
            threads.append(await beside.text(lambda: threading.current_thread().name, is_small=True))
        threads.clear()
        with pytest.raises(TemplateOutOfTime, match="longer than 5 s"):
            await beside.text(lambda: render(1000), is_small=True)
        assert [thread == here for thread in threads] == [True, False]

    asyncio.run(run())


def test_a_slow_template_does_not_hold_up_others(serve) -> None:
    may_end, has_begun = threading.Event(), threading.Event()

    class SlowLLM(FakeLLM):
        def encode_chat(self, messages: Any, **options: Any) -> Any:
            has_begun.set()
            assert may_end.wait(60)
            return super().encode_chat(messages, **options)

    base = serve(SlowLLM())
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{base}/v1/chat/completions", json=chat, timeout=60))
    )
    asking.start()
    assert has_begun.wait(60)
    text = {"model": "fake", "prompt": "a", "max_tokens": 1}
    assert httpx.post(f"{base}/v1/completions", json=text, timeout=30).status_code == 200
    assert not answers
    may_end.set()
    asking.join(60)
    assert answers[0].status_code == 200


@pytest.mark.parametrize("fields", [{"prompt": ["a"] * 5}, {"prompt": ["a"] * 2, "n": 3}])
def test_more_completions_than_a_request_may_ask_for(serve, fields: dict[str, Any]) -> None:
    base = serve(FakeLLM(), max_completions=4)
    response = httpx.post(f"{base}/v1/completions", json={"model": "fake", "max_tokens": 1} | fields)
    assert response.status_code == 400
    assert "at most 4 completions" in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "prompt"
