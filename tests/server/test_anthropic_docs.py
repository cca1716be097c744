"""The commands of docs/anthropic.md, run as they stand but for the server's address."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_llm import serving

from headrace import AsyncLLM
from headrace.cli.serve import serve

TEXT = (Path(__file__).resolve().parents[2] / "docs/anthropic.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def test_the_client_and_the_request_that_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    [client] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    [request] = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    with serving(AsyncLLM("stories"), "stories") as base:
        exec(compile(client.replace(ADDRESS, base), "docs/anthropic.md", "exec"), {})
        shown = capsys.readouterr().out
        assert "output_tokens=" in shown
        assert len(shown) > 150
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        done = subprocess.run(
            ["bash", "-c", request.replace(ADDRESS, base)], capture_output=True, timeout=60, check=True
        )  # fmt: skip
        message = json.loads(done.stdout)
        assert (message["type"], message["usage"]["output_tokens"]) == ("message", 20)


def test_the_servers_command_is_one() -> None:
    [command] = re.findall(r"^    (headrace serve .*)$", TEXT, re.MULTILINE)
    _, verb, *arguments = shlex.split(command)
    assert serve.make_context(verb, arguments).params["port"] == int(ADDRESS.rpartition(":")[2])
