"""`run` and the chat on the pretended engine, in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import fake_headrace
import pytest
from in_process import Headrace
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from headrace.cli.chat import chat
from headrace.cli.conversation import Conversation, Settings
from headrace.cli.status import Status

Typed = Callable[..., str]


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.cli.conversation.LLM", fake_headrace.LLM)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """What goes to stdout and stderr when these keys are typed into a chat; Ctrl-D comes after them."""

    def run(*keys: str, model: str = "tiny", **settings: object) -> str:
        llm = fake_headrace.LLM(model)
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text("".join(keys) + "\x04")
            chat(Conversation(llm, Settings(**settings), Status()))
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_messages_and_their_answers_make_the_next_prompt(typed: Typed) -> None:
    shown = typed("one\r", "two\r")
    assert "user:one \n" in shown
    assert "user:one assistant:user:one  user:two \n" in shown


def test_system_message_outlives_clear(typed: Typed) -> None:
    shown = typed("one\r", "/clear\r", "two\r", system="be kind")
    assert shown.count("system:be kind user:two \n") == 1


def test_without_a_template_each_line_is_a_text_of_its_own(typed: Typed) -> None:
    shown = typed("one\r", "two\r", model="plain")
    assert "'one'" in shown
    assert "'two' temperature" in shown


def test_alt_enter_is_a_new_line(typed: Typed) -> None:
    assert "user:one\ntwo \n" in typed("one\x1b\rtwo\r")


def test_errors_are_lines_and_forgotten(typed: Typed) -> None:
    shown = typed("too long\r", "two\r", "/fly\r", "   \r", "/help\r", "/exit\r", "never sent\r")
    assert "error: the conversation is too long\n" in shown
    assert "user:two \n" in shown
    assert "user:too long" not in shown
    assert "no command /fly; /help lists them" in shown
    assert "Alt-Enter begins a new line" in shown
    assert "never sent" not in shown


def test_wrong_token_ids_are_an_error_of_that_line_only(typed: Typed) -> None:
    shown = typed("one\r", "1 2\r", model="ids", token_ids=True)
    assert "error: 'one' is no token id; with --token-ids a prompt is numbers" in shown
    assert "1 2 \n" in shown


def test_a_thrown_away_line_is_not_sent(typed: Typed) -> None:
    shown = typed("one\x03", "two\r")
    assert "user:two \n" in shown
    assert "one" not in shown


def test_ctrl_c_during_an_answer_keeps_what_had_come(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def words(self: object, words: list[str], params: object) -> Iterator[object]:
        for number, chunk in enumerate(original(self, words, params)):
            if words[-1] == "user:one" and number == 0:
                signal.raise_signal(signal.SIGINT)
            yield chunk

    original = fake_headrace.LLM._words
    monkeypatch.setattr(fake_headrace.LLM, "_words", words)
    shown = typed("one\r", "two\r")
    assert "stopped" in shown
    assert "user:one assistant:user:one  user:two \n" in shown


def test_a_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def words(self: object, words: list[str], params: object) -> Iterator[object]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield from ()

    monkeypatch.setattr(fake_headrace.LLM, "_words", words)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Conversation(fake_headrace.LLM("tiny"), Settings(), Status()).answer("one")
    assert signal.getsignal(signal.SIGINT) is before


def test_run_in_process(headrace: Headrace) -> None:
    done = headrace("run", "tiny", "hello", "--system", "be kind", "--stop", "x")
    assert (done.code, done.out) == (0, "system:be kind user:hello \n")
    assert headrace("run", "-q").out.startswith("Once upon")
    assert headrace("run", "tiny", stdin="\n").code == 2
    assert headrace("run", "two words").code == 2


def test_stdin_that_does_not_exist(headrace: Headrace, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli import run

    monkeypatch.setattr(sys, "stdin", None)
    assert run._read_prompt(None, stdin_is_terminal=True) is None
