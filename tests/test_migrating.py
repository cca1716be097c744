"""What docs/migrating-from-vllm.md says to type works."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import AsyncLLM
from headrace.cli.command import main
from headrace.server import run as server

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs/migrating-from-vllm.md").read_text()
COMMANDS = re.findall(r"```console\n(headrace serve .*)\n```", DOCUMENT)
ROWS = [row.split(" | ")[1] for row in re.findall(r"^\| `.*", DOCUMENT, re.MULTILINE)]
OPTIONS = sorted({option for row in ROWS for option in re.findall(r"(?<=`)--[^`]*(?=`)", row)})
GIVEN = {"NAME": "sql", "KEY": "secret", "SMALL": "stories", "FILE": "file", "FOLDER": "folder", "4096": "512"}
WANTS = {"--lora": "adapter_config.json", "--tls-cert": "PEM files that are a pair"}
"""What an option says that it misses in the files of `said`"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A folder with what the commands name, and what the server would have been started with."""
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("alice secret\n")
    Path("file").write_text("alice secret\n")
    Path("folder").mkdir()
    said: dict[str, object] = {}

    def run_server(llm: AsyncLLM, *arguments: object, **_: object) -> None:
        said.update(name=arguments[2], settings=arguments[3], context=llm.max_context, config=llm.config)
        asyncio.run(llm.close())

    monkeypatch.setattr(server, "run_server", run_server)
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_whole_command_serves(command: str, said: dict[str, object]) -> None:
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("--port") + 1] = "0"
    assert main(arguments) == 0
    assert (said["name"], said["context"], said["config"].max_sequences) == ("story-writer", 512, 64)


def test_there_are_options_to_try() -> None:
    assert len(OPTIONS) > 12


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_table_is_one(
    option: str, said: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [re.sub("|".join(GIVEN), lambda found: GIVEN[found[0]], word) for word in shlex.split(option)]
    code = main(["serve", "stories", "--port", "0", *words])
    if words[0] in WANTS:  # it is known, and looks for what is not there
        assert WANTS[words[0]] in capsys.readouterr().err
    else:
        assert (code, bool(said)) == (0, True)


def test_the_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("→") == 2
