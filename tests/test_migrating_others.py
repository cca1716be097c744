"""What docs/migrating-from-tgi.md and -llama-server.md say to type works."""

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
from test_migrating import GIVEN, WANTS, said  # noqa: F401  a fixture

from headrace import AsyncLLM
from headrace.cli.command import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENTS = {name: (DOCS / f"migrating-from-{name}.md").read_text() for name in ("tgi", "llama-server")}
HOSTS = re.compile(r"http://127\.0\.0\.1:(?:3000|8080)")
COMMANDS = [
    pytest.param(command, id=f"{name} {number}")
    for name, document in DOCUMENTS.items()
    for number, command in enumerate(re.findall(r"```console\n(.*)\n```", document))
]
OPTIONS = sorted(
    {
        option
        for document in DOCUMENTS.values()
        for row in re.findall(r"^\| `.*", document, re.MULTILINE)
        for option in re.findall(r"(?<=`)--[^`]*(?=`)", row.split(" | ")[1])
    }
)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving(AsyncLLM("stories"), "stories") as base:
        yield base


def test_there_are_options_to_try() -> None:
    assert len(OPTIONS) > 20


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_tables_is_one(
    option: str,
    said: dict[str, object],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {**GIVEN, "3000": "0", "8080": "0"}
    words = [re.sub("|".join(given), lambda found: given[found[0]], word) for word in shlex.split(option)]
    if words[0].startswith("--tls-"):  # the two go together, with files
        words = ["--tls-cert", "file", "--tls-key", "file"]
    port = [] if "--port" in words else ["--port", "0"]
    code = main(["serve", "stories", *port, *words])
    if words[0] in WANTS:
        assert WANTS[words[0]] in capsys.readouterr().err
    else:
        assert (code, bool(said)) == (0, True)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(command: str, base: str, said: dict[str, object]) -> None:  # noqa: F811
    words = shlex.split(HOSTS.sub(base, command))
    if words[0] == "headrace":
        words[words.index("--port") + 1] = "0"
        assert main(words[1:]) == 0
        assert (said["name"], said["context"]) == ("stories", 512)
        return
    done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.removeprefix("data:") for line in done.stdout.splitlines() if line]
    answers = [json.loads(line) for line in lines]
    assert answers
    assert "error" not in answers[-1]
    if '"age"' in command:
        found = answers[0] if isinstance(answers[0], list) else answers
        texts = [one.get("generated_text") or one["content"] for one in found]
        assert all(isinstance(json.loads(text)["age"], int) for text in texts)


def test_the_python_runs(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTS["tgi"], re.DOTALL)
    exec(compile(HOSTS.sub(base, code), "migrating-from-tgi.md", "exec"), {})
    assert len(capsys.readouterr().out) > 60
