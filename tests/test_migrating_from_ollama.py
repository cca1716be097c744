"""What docs/migrating-from-ollama.md says to type works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.fake_llm import serving
from test_migrating import GIVEN, said  # noqa: F401  a fixture

from headrace import AsyncLLM
from headrace.cli.command import main

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs/migrating-from-ollama.md").read_text()
CONSOLE = re.findall(r"```console\n(.*)\n```", DOCUMENT)
SERVE = [command for command in CONSOLE if command.startswith("headrace serve")]
CURL = [command for command in CONSOLE if command.startswith("curl")]
ROWS = [row.split(" | ")[1] for row in re.findall(r"^\| [`a].*", DOCUMENT, re.MULTILINE)]
OPTIONS = sorted({option for row in ROWS for option in re.findall(r"(?<=`)--[^`]*(?=`)", row)})
HOST = "http://localhost:11434"


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving(AsyncLLM("stories"), "stories") as base:
        yield base


def test_the_command_serves(said: dict[str, object]) -> None:  # noqa: F811
    [command] = SERVE
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("--port") + 1] = "0"
    assert main(arguments) == 0
    assert (said["name"], said["context"]) == ("stories", 512)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_tables_is_one(
    option: str,
    said: dict[str, object],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {**GIVEN, "8192": "512", "11434": "0"}
    words = [re.sub("|".join(given), lambda found: given[found[0]], word) for word in shlex.split(option)]
    port = [] if "--port" in words else ["--port", "0"]
    code = main(["serve", "stories", *port, *words])
    if words[0] in ("--lora", "--chat-template"):  # they are known, and the files are none
        assert code == 0 or "adapter_config.json" in capsys.readouterr().err
    else:
        assert (code, bool(said)) == (0, True)


def test_run_and_models_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories", "Why?", "--max-tokens", "5"]) == 0
    assert main(["models"]) == 0
    assert "stories" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("command", CURL)
def test_curl_gets_answers(command: str, base: str) -> None:
    words = shlex.split(command.replace(HOST, base))
    done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert "error" not in lines[-1]
    if "format" in command:
        assert set(json.loads(lines[-1]["message"]["content"])) >= {"name", "age"}


def test_the_python_runs(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ollama")
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(code.replace(HOST, base), "migrating-from-ollama.md", "exec"), {})
    assert len(capsys.readouterr().out) > 60


def test_the_options_that_are_named_are_those_that_are_known() -> None:
    from headrace.server.dialects.ollama.requests import Options

    [named] = re.findall(r"^- \*\*`options`\*\* .*?(?=^- )", DOCUMENT, re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"`(\w+)", named)) - {"options"}
    assert words == set(Options.__struct_fields__)
