"""The page at `/` in a headless Chromium, where there is one: what a person does with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fake_llm import FakeLLM, FakeStream
from waiting import wait_until

from headrace.errors import EngineError
from headrace.types import Chunk, FinishReason, ToolCallDelta

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect: Callable[[Any], Any] = playwright.expect
playwright.expect.set_options(timeout=60_000)

ARGUMENTS = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&amp;"


@dataclass
class ScriptedLLM(FakeLLM):
    """Each request gives these chunks, one in a step; the last script is used again."""

    scripts: list[list[Chunk]] = field(default_factory=list)

    def submit(self, prompt: Any, params: Any, **options: Any) -> FakeStream:
        stream = super().submit(prompt, params, **options)
        script = self.scripts[min(len(self.streams), len(self.scripts)) - 1]
        stream.length = len(script)
        stream._chunk = lambda index, position: replace(  # type: ignore[method-assign]
            script[position], finish_reason=FinishReason.STOP if stream.is_over else None
        )
        return stream


def says(*texts: str) -> list[Chunk]:
    return [Chunk(0, text, [65]) for text in texts]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, serve: Any) -> Iterator[Callable[..., Any]]:
    """visit(base) → the page, loaded; whatever its console says of errors fails the test (it goes before `serve`)."""
    problems: list[str] = []
    contexts = []

    def go(base: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.goto(base)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [problem for problem in problems if "status of" not in problem] == []  # refusals are shown on the page


def ask(page: Any, text: str) -> Any:
    """Write, send, wait for the end; the answer."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    last = page.locator(".answer").last
    expect(last.locator(".cost, .error:not([hidden])").first).not_to_be_empty()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return last


def test_chat_streams_and_says_its_cost(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    llm = ScriptedLLM(scripts=[says("Good ", "day."), says("Again.")])
    page = visit(serve(llm))
    expect(page.locator("#model")).to_have_value("fake")
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("Max tokens").fill("9")
    answer = ask(page, "Hello")
    expect(answer.locator(".text").last).to_have_text("Good day.")
    cost = answer.locator(".cost")
    expect(cost).to_contain_text("tokens/s")
    expect(cost).to_contain_text("first token")
    expect(cost).to_contain_text("2 tokens")
    expect(cost).to_contain_text("3 from the cache")
    params = llm.streams[0].params
    assert (params.temperature, params.seed, params.max_tokens) == (0.5, 7, 9)
    ask(page, "More")
    assert [message["role"] for message in llm.chats[-1]["messages"]] == ["system", "user", "assistant", "user"]
    assert llm.chats[-1]["messages"][2]["content"] == "Good day."
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    expect(page.locator(".answer")).to_have_count(2)
    page.keyboard.press("n")
    expect(page.locator(".turn")).to_have_count(0)


def test_words_of_a_model_stay_words(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    thought = Chunk(0, "", [65], reasoning=EVIL, num_reasoning_tokens=1)
    page = visit(serve(ScriptedLLM(scripts=[[thought, *says(EVIL)]]), name=EVIL))
    answer = ask(page, EVIL)
    expect(answer.locator("> .text")).to_have_text(EVIL)
    expect(page.locator(".user .text")).to_have_text(EVIL)
    fold = answer.locator("details")
    assert fold.get_attribute("open") is None
    fold.locator("summary").click()
    expect(fold.locator(".text")).to_have_text(EVIL)
    assert page.locator("#log img, #log script, #model img").count() == 0
    assert page.title() == "headrace"


def test_stop_ends_the_answer_and_keeps_what_there_is(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    llm = FakeLLM(step_seconds=0.2)
    page = visit(serve(llm))
    page.get_by_label("Message", exact=True).fill("Go on")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .text")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".answer .cost")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    wait_until(lambda: llm.streams[0].is_cancelled)


def test_calls_are_shown_and_their_results_sent(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    call = [
        Chunk(0, "", [65], tool_calls=[ToolCallDelta(0, "call-1", "get_weather", '{"city":')]),
        Chunk(0, "", [65], tool_calls=[ToolCallDelta(0, arguments=' "Oslo"}')]),
    ]
    llm = ScriptedLLM(scripts=[call, says("It rains.")])
    page = visit(serve(llm))
    page.locator("[data-example=tools]").click()
    answer = ask(page, "The weather in Oslo?")
    assert llm.chats[0]["tools"][0]["function"]["name"] == "get_weather"
    expect(answer.locator(".call")).to_contain_text("get_weather")
    expect(answer.locator(".call pre")).to_contain_text('"city": "Oslo"')
    answer.get_by_label("It gave").fill("rain")
    page.keyboard.press("Enter")
    expect(page.locator(".answer > .text").last).to_have_text("It rains.")
    assert [message["role"] for message in llm.chats[-1]["messages"]] == ["user", "assistant", "tool"]
    said = llm.chats[-1]["messages"][2]
    assert (said["tool_call_id"], said["content"]) == ("call-1", "rain")


def test_schema_goes_with_the_request_and_mistakes_are_said(
    visit: Callable[..., Any], serve: Callable[..., str]
) -> None:
    llm = ScriptedLLM(scripts=[says("{}")])
    page = visit(serve(llm))
    schema = page.get_by_label("JSON Schema")
    schema.fill("{oh")
    page.get_by_label("Message", exact=True).fill("x")
    page.keyboard.press("Enter")
    expect(page.locator("#schema-error")).to_contain_text("not JSON")
    expect(schema).to_have_attribute("aria-invalid", "true")
    expect(schema).to_be_focused()
    assert llm.streams == []
    schema.fill('{"type": "object"}')
    ask(page, "x")
    assert llm.streams[0].params.structured is not None
    expect(page.locator("#schema-error")).to_be_empty()


def test_a_model_without_a_template_goes_on_from_text(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    llm = ScriptedLLM(scripts=[says(" a time")], chat_template=None)
    page = visit(serve(llm))
    answer = ask(page, "Once upon")
    expect(answer.locator("> .text")).to_have_text(" a time", use_inner_text=True)
    expect(page.get_by_label("Speaks with")).to_have_value("completion")
    expect(page.get_by_label("System prompt")).to_be_disabled()
    assert llm.streams[-1].prompt_token_ids[1:] == list(b"Once upon")


def test_the_key_is_asked_for_and_kept_in_the_tab(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    base = serve(ScriptedLLM(scripts=[says("Hi")]), api_keys=("secret",))
    page = visit(base)
    field = page.get_by_label("This server asks for a key")
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The key is not one of this server's; check it")
    expect(field).to_be_visible()
    field.fill("secret")
    page.keyboard.press("Enter")
    expect(field).to_be_hidden()
    ask(page, "Hello")
    assert (
        page.evaluate(
            "JSON.stringify([sessionStorage, localStorage].map((each) => JSON.stringify(each).includes('secret')))"
        )
        == "[true,false]"
    )
    other = page.context.new_page()
    other.goto(base)
    expect(other.get_by_label("This server asks for a key")).to_be_visible()


def test_errors_are_said(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    llm = FakeLLM(fail_after=2, fail_with=EngineError("the engine fell over"))
    page = visit(serve(llm))
    expect(ask(page, "Hello").locator(".error")).to_contain_text("the engine fell over")
    llm.trouble = "the model is on holiday"
    expect(page.locator("#health")).to_contain_text("holiday")
    expect(ask(page, "Are you there?").locator(".error")).to_contain_text("holiday")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_charts_follow_the_metrics(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    page = visit(serve(ScriptedLLM(scripts=[says("Hi")])))
    expect(page.get_by_role("img", name="Requests: running 0, waiting 0")).to_be_visible()
    kv = page.get_by_role("img", name="KV cache in use: used")
    expect(kv).to_have_accessible_name("KV cache in use: used 25 %")
    assert kv.locator("path.line").first.get_attribute("d").startswith("M")


def test_keys_and_colours(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    page = visit(serve(FakeLLM()), color_scheme="dark")
    message = page.get_by_label("Message", exact=True)
    expect(message).to_be_focused()
    page.keyboard.type("?")
    expect(message).to_have_value("?")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.keyboard.press("t")
    assert page.evaluate(ground) != dark
    page.reload()
    assert page.evaluate(ground) != dark  # remembered
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys and help").click()
    page.get_by_label("Single keys work outside of fields").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()


FETCH = """([url, type, method]) => fetch(url, {
    method, ...(type ? {headers: {"content-type": type}, body: "{}"} : {}),
}).then((answer) => answer.status, () => "blocked")"""


def test_pages_of_others_get_nothing_out_of_it(browser: Any, serve: Callable[..., str]) -> None:
    """A foreign page is held back by the browser or by us; one whose name leads to us gets a 403."""
    llm = FakeLLM()
    base, evil = serve(llm, allowed_hosts=()), serve(FakeLLM())
    page = browser.new_page()
    page.goto(evil)
    sends = ([f"{base}/v1/completions", "application/json", "POST"], [f"{base}/api/generate", "text/plain", "POST"])
    for send in (*sends, [f"{base}/v1/models", None, "GET"], [f"{base}/v1/responses/x", None, "DELETE"]):
        assert page.evaluate(FETCH, send) == "blocked", send
    assert page.goto(base.replace("127.0.0.1", "evil.example")).status == 403
    assert page.goto(evil.replace("127.0.0.1", "evil.example")).status == 200, "the name leads here"
    assert page.goto(base).status == 200
    page.close()
    assert llm.streams == []


def test_tab_goes_round_the_whole_page(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    page = visit(serve(FakeLLM()))
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    for name in (
        "model",
        "theme",
        "help-button",
        "mode",
        "temperature",
        "schema",
        "tools",
        "log",
        "message",
        "send",
        "new",
    ):
        assert name in seen


def test_a_phone_shows_one_part_at_a_time(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    page = visit(serve(FakeLLM()), viewport={"width": 360, "height": 740})
    for part in ("Settings", "Chat", "Live"):
        button = page.get_by_role("button", name=part, exact=True)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator("main > section:visible")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
