"""docs/batches.md: its server is started, its file written, its Python and its commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server.openai_state.live_server import LiveServer

TEXT = (Path(__file__).resolve().parents[3] / "docs/batches.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def block(kind: str) -> str:
    [found] = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_what_the_page_shows_works(tmp_path: Path) -> None:
    program, *arguments = shlex.split(block("console").removeprefix("$ "))
    assert program == "headrace"
    arguments[arguments.index("--port") + 1] = "0"
    arguments[arguments.index("--store") + 1] = str(tmp_path / "store")
    server = LiveServer(arguments, tmp_path)
    try:
        (tmp_path / "requests.jsonl").write_text(block("json"))
        shown = subprocess.run(
            [sys.executable, "-c", block("python").replace(ADDRESS, server.base)],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        assert "BatchRequestCounts(completed=2, failed=0, total=2)" in shown
        assert shown.index('"custom_id":"a"') < shown.index('"custom_id":"b"')
        if shutil.which("curl") is not None:
            commands = block("sh").replace(ADDRESS, server.base)
            said = subprocess.run(
                ["sh", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
            ).stdout
            assert '"object":"file"' in said
            assert '"status":"completed"' in said
    finally:
        server.stop()


def test_the_bounds_are_those_of_the_settings() -> None:
    from headrace.server.batch_door import BATCH_PRIORITY
    from headrace.server.settings import ServerSettings

    settings, gib = ServerSettings(), 2**30
    assert f"{settings.max_stored_responses:,} and {settings.max_stored_response_bytes // 2**20} MiB" in TEXT
    assert f"{settings.max_stored_files:,} and {settings.max_stored_file_bytes // gib} GiB" in TEXT
    assert f"one upload at most {settings.max_file_bytes // 2**20} MiB" in TEXT
    assert f"{settings.max_batches} that have not ended, of at most {settings.max_batch_lines:,} lines" in TEXT
    assert f"after {settings.max_stored_days} days" in TEXT
    assert f"priority is {BATCH_PRIORITY}" in TEXT
    assert f"`--batch-lines` lines ({settings.batch_lines_at_once})" in TEXT
