"""`headrace run` as a process: pipes, signals, errors, and a chat on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal
from waiting import wait_until

COMMAND = [sys.executable, str(Path(__file__).with_name("fake_headrace.py"))]


def headrace(
    *arguments: str | bytes, stdin: str | bytes = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    env = {**os.environ, **(environment or {})}
    done = subprocess.run([*COMMAND, *arguments], input=data, env=env, capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_text_goes_to_stdout_and_everything_else_to_stderr() -> None:
    done = headrace("run", "plain", "Once upon", "--temperature", "0")
    assert (done.returncode, done.stdout) == (0, "'Once upon' temperature=0.0 \n")
    lines = done.stderr.splitlines()
    assert lines[:3] == [
        "plain: pretended",
        "KV cache: none",
        "plain continuation: each prompt is a text to go on with (the model has no chat template)",
    ]
    assert lines[3].startswith("2 tokens · ")


def test_quiet_is_only_the_text() -> None:
    done = headrace("run", "plain", "Once", "-q")
    assert (done.stdout, done.stderr) == ("'Once' temperature=0.5 \n", "")


def test_thoughts_go_to_stderr() -> None:
    done = headrace("run", "thinking", "hello")
    assert done.stdout == "user:hello \n"
    assert done.stderr.splitlines()[3] == "Let me see."
    assert headrace("run", "thinking", "hello", "-q").stderr == ""


def test_prompt_from_a_pipe_loses_one_newline() -> None:
    assert headrace("run", "plain", "-q", stdin="two\nlines\n\n").stdout.startswith("'two\\nlines\\n'")
    assert headrace("run", "plain", "-", "-q", stdin="windows\r\n").stdout.startswith("'windows'")


def test_message_and_system_message_through_the_template() -> None:
    done = headrace("run", "tiny", "hello", "--system", "be kind")
    assert done.stdout == "system:be kind user:hello \n"
    assert "chat: prompts are messages" in done.stderr
    assert headrace("run", "tiny", "hello", "--raw").stdout.startswith("'hello'")


def test_nobody_says_anything_to_the_bundled_model() -> None:
    done = headrace("run", "-q")
    assert done.stdout.startswith("Once upon a time'Once upon a time'")
    assert done.returncode == 0


def test_token_ids() -> None:
    done = headrace("run", "ids", "1, 15 27", "--token-ids", "-q")
    assert done.stdout == "1 2 \n"


def test_without_a_limit_an_endless_answer_is_stopped_and_said_to_be() -> None:
    done = headrace("run", "endless-plain", "x")
    assert len(done.stdout.split()) == 1024
    assert "1,024 tokens" in done.stderr
    assert "cut off there (--max-tokens sets the limit)" in done.stderr
    done = headrace("run", "endless-plain", "x", "--max-tokens", "1500")
    assert len(done.stdout.split()) == 1500
    assert "cut off there" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["nothing", "x"], 1, "error: no model 'nothing', did you mean something"),
        (["bug", "x"], 1, "error: RuntimeError: the engine fell over; this is a bug: run again with --debug and"),
        (["broken", "x", "--system", "y", "-q"], 1, "error: RuntimeError: broke in the middle; this is a bug"),
        (["plain", "x", "--system", "y"], 1, "error: plain has no chat template for --system; give one with"),
        (["ids", "x"], 1, "error: ids has no tokenizer; give --token-ids"),
        (["tiny", "too long", "-q"], 1, "error: the conversation is too long"),
        (["bug", "x", "--top-p", "7"], 1, "error: top_p is 7.0, expected above 0 and at most 1"),
        (["bug", "1 two", "--token-ids"], 2, "error: 'two' is no token id; with --token-ids a prompt is numbers"),
        (["bug", "x", "--stop", ""], 1, "error: stop has '', expected non-empty strings"),
        (["bug", "x", "--threads", "1025"], 2, "error: Invalid value for '--threads': 1025 is not in the range"),
        (["bug", b"caf\xe9"], 2, "error: Invalid value for '[PROMPT]': it is not UTF-8"),
        (["bug", "x", "--system", b"\xe9"], 2, "error: Invalid value for '--system': it is not UTF-8"),
        (["bug", "x", "--stop", b"\xe9"], 2, "error: Invalid value for '--stop': it is not UTF-8"),
        (["tiny"], 2, "error: no prompt for tiny: give PROMPT, pipe one in, or run on a terminal"),
        (["tiny", ""], 2, "error: PROMPT is empty"),
        (["tiny", "-"], 2, "error: the prompt on stdin is empty"),
        (["Tell me a story"], 2, "error: 'Tell me a story' is not a model; for a prompt, name the model first"),
        (["tiny", "x", "--raw", "--system", "y"], 2, "error: --system belongs to chat, and --raw turns chat off"),
        (["tiny", "x", "--kv-memory", "lots"], 2, "error: Invalid value for '--kv-memory': 'lots' is not a size"),
        (["tiny", "x", "--quantize", "q3"], 2, "error: Invalid value for '--quantize': 'q3' is not one of"),
        (["tiny", "x", "--wrong"], 2, "error: No such option '--wrong'; see headrace run --help"),
        (["tiny", "x", "--chat-template", "/nowhere"], 2, "error: Invalid value for '--chat-template': File '/no"),
    ],
)
def test_an_error_is_one_line(arguments: list[str | bytes], code: int, line: str) -> None:
    done = headrace("run", *arguments)
    assert done.returncode == code
    errors = [text for text in done.stderr.splitlines() if text.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith(line)
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]


def test_a_prompt_is_utf_8_in_any_locale() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = headrace("run", "tiny", "größer 日本", "-q", environment=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "user:gr\\xf6\\xdfer \\u65e5\\u672c \n"  # what ASCII lacks is an escape


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_was_closed_is_no_error(closed: str) -> None:
    script = ["bash", "-c", f"{' '.join(COMMAND)} run tiny x {closed}"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ("user:x \n" if closed == "2>&-" else "")


def test_a_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    script = ["bash", "-c", f"{' '.join(COMMAND)} run tiny x -q >/dev/full"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device; check the file")
    assert len(done.stderr.splitlines()) == 1


def test_stdin_that_is_not_text() -> None:
    done = headrace("run", "plain", stdin=b"\xff\xfe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the prompt on stdin is not UTF-8")


@pytest.mark.parametrize("where", [["--debug", "run", "bug", "x"], ["run", "bug", "x", "--debug"]])
def test_debug_shows_the_traceback(where: list[str]) -> None:
    done = headrace(*where)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: RuntimeError: the engine fell over")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{' '.join(COMMAND)} run endless-plain x -q --max-tokens 90000 | head -c 20"
    script = ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.stdout == "word word word word 141\n"
    assert done.stderr == ""


def test_ctrl_c_ends_an_answer_with_130() -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "slow-endless-plain", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == "word "
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("\n")
    assert "Traceback" not in err


@pytest.fixture
def chat() -> Iterator[Terminal]:
    with Terminal([*COMMAND, "run", "tiny"], dict(os.environ)) as terminal:
        terminal.wait_for(">>>")
        yield terminal


def test_chat_remembers_until_it_is_cleared(chat: Terminal) -> None:
    chat.type("hello\r")
    assert "user:hello" in chat.wait_for("first after")
    chat.wait_for(">>>")
    chat.type("again\r")
    shown = chat.wait_for("first after")
    assert "user:hello assistant:user:hello  user:again" in shown
    chat.wait_for(">>>")
    chat.type("/clear\r")
    chat.wait_for("forgotten")
    chat.wait_for(">>>")
    chat.type("anew\r")
    shown = chat.wait_for("first after").partition("anew\n")[2]
    assert "user:anew" in shown
    assert "hello" not in shown
    chat.wait_for(">>>")
    chat.type("\x04")
    assert chat.wait() == 0


def test_chat_goes_on_after_an_error(chat: Terminal) -> None:
    chat.type("too long\r")
    chat.wait_for("error: the conversation is too long")
    chat.wait_for(">>>")
    chat.type("short\r")
    shown = chat.wait_for("first after").partition("short\n")[2]
    assert "user:short" in shown
    assert "too long" not in shown


def test_chat_commands(chat: Terminal) -> None:
    chat.type("/help\r")
    chat.wait_for("Ctrl-C stops an answer")
    chat.wait_for(">>>")
    chat.type("/nonsense words\r")
    chat.wait_for("no command /nonsense; /help lists them")
    chat.wait_for(">>>")
    chat.type(" /slash\r")
    chat.wait_for("user: /slash")
    chat.wait_for(">>>")
    chat.type("/exit\r")
    assert chat.wait() == 0


def test_pasted_lines_are_one_message(chat: Terminal) -> None:
    chat.type("\x1b[200~first\nsecond\x1b[201~")
    chat.wait_for("second")
    chat.type("\r")
    chat.wait_for("user:first\nsecond")


def test_only_a_new_line_begins_with_dots(chat: Terminal) -> None:
    chat.type("x" * 150 + "first")
    chat.wait_for("first")
    assert b"... " not in chat.raw  # the line is wrapped at 100 columns
    chat.type("\x1b\rsecond")
    chat.wait_for("second")
    assert b"... " in chat.raw


def test_up_brings_back_what_was_typed(chat: Terminal) -> None:
    chat.type("hello\r")
    chat.wait_for("first after")
    chat.wait_for(">>>")
    chat.type("\x1b[A\r")
    chat.wait_for("assistant:user:hello  user:hello")


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on() -> None:
    with Terminal([*COMMAND, "run", "slow-endless-tiny"], dict(os.environ)) as chat:
        chat.wait_for(">>>")
        chat.type("hello\r")
        chat.wait_for("word word")
        chat.type("\x03")
        chat.wait_for("stopped")
        chat.wait_for(">>>")
        chat.type("half a line\x03")
        chat.wait_for(">>>")  # of the line thrown away or of the new one
        chat.type("/help\r")
        chat.wait_for("/exit")
        chat.wait_for(">>>")
        chat.type("\x04")
        assert chat.wait() == 0


def test_bundled_model_tells_a_story_and_then_waits() -> None:
    with Terminal([*COMMAND, "run"], dict(os.environ)) as chat:
        chat.wait_for("Once upon a time'Once upon a time'")
        chat.wait_for(">>>")
        chat.type("hello\r")
        shown = chat.wait_for("first after").partition("hello\n")[2]
        assert "user:Once upon a time assistant:Once upon a time'Once" in shown
        assert "user:hello" in shown


def test_a_models_control_characters_do_not_reach_the_terminal() -> None:
    with Terminal([*COMMAND, "run", "hostile-thinking", "x"], dict(os.environ)) as terminal:
        assert "see." in terminal.wait_for("cleared")
        assert terminal.wait() == 0
        assert b"\x1b[2J" not in terminal.raw
        assert b"\x07" not in terminal.raw
    assert headrace("run", "hostile", "x", "-q").stdout == "\x1b[2Jcleared\x07 \n"  # a file gets what came


def test_a_killed_process_leaves_the_terminal_as_it_was() -> None:
    with Terminal([*COMMAND, "run", "slow-endless-tiny", "x"], dict(os.environ)) as terminal:
        terminal.wait_for("word")
        terminal.process.send_signal(signal.SIGTERM)
        wait_until(lambda: terminal.process.poll() is not None)
        assert terminal.process.returncode == -signal.SIGTERM
