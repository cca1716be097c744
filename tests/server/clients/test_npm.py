"""The official clients of npm against a server: answers, streams, errors, tries, and leaving in the midst.

They need node, and the packages of package.json in the folder `clients` of the Python environment: `make test` puts
them there, where there is npm and a registry that it can ask.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_llm import FakeLLM, FakeTokenizer, answer, broken, serving

from headrace.errors import EngineError, QueueFull

SCRIPTS = Path(__file__).parent
CLIENTS = Path(sys.prefix) / "clients"
NODE = shutil.which("node")
TEXT = answer(list(b"user: Hi.\n"), 0, 6)


@pytest.fixture(scope="module")
def full() -> FakeLLM:
    return broken(QueueFull("too much waits", retry_after=1))


@pytest.fixture(scope="module")
def servers(full: FakeLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    with ExitStack() as opened:

        def serve(llm: FakeLLM, **options: Any) -> str:
            return opened.enter_context(serving(llm, **options))

        yield {
            "quick": serve(FakeLLM(), store_folder=tmp_path_factory.mktemp("store")),
            "keyed": serve(FakeLLM(), api_keys=("open-sesame",)),
            "full": serve(full),
            "broken": serve(broken(EngineError("it fell over"), after=3)),
        }


def run(package: str, script: str, servers: Mapping[str, str]) -> dict[str, Any]:
    """What a script says of a client."""
    if NODE is None:
        pytest.skip("there is no node")
    if not (CLIENTS / "node_modules" / package).is_dir():
        pytest.skip(f"npm's {package} is not in {CLIENTS}: `make test` installs it where npm finds its registry")
    program = "".join((SCRIPTS / name).read_text() for name in ("shared.mjs", script))
    with serving(FakeLLM(step_seconds=0.05)) as slow:
        done = subprocess.run(
            [NODE, "--input-type=module", "-", json.dumps({**servers, "slow": slow})],
            input=program,
            cwd=CLIENTS,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


def test_openai(servers: Mapping[str, str], full: FakeLLM) -> None:
    num_before = len(full.streams)
    assert run("openai", "openai.mjs", servers) == {
        "models": ["fake"],
        "chat": TEXT,
        "tokens": 6,
        "chatStream": TEXT,
        "completion": answer(FakeTokenizer().encode("x"), 0, 6),
        "response": TEXT,
        "responseStream": TEXT,
        "status": "incomplete",
        "previous": True,
        "items": 1,
        "background": TEXT,
        "deleted": 404,
        "batch": [TEXT] * 3,
        "wrong": [True, 400, "top_p", "invalid_request_error"],
        "missing": [True, "model_not_found"],
        "stranger": [True, "invalid_api_key"],
        "key": 1,
        "full": [True, "queue_full", "1"],
        "broken": [True, "engine_error"],
        "aborted": True,
        "cancelled": 3,
    }
    assert len(full.streams) - num_before == 2, "a try, and another one"


def test_anthropic(servers: Mapping[str, str], full: FakeLLM) -> None:
    num_before = len(full.streams)
    said = run("@anthropic-ai/sdk", "anthropic.mjs", servers)
    events = said.pop("events")
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(events[2:-3]) == {"content_block_delta"}
    assert said == {
        "models": ["fake"],
        "message": TEXT,
        "stop": "max_tokens",
        "messageStream": TEXT,
        "counted": len("user: Hi.\n"),
        "wrong": [True, 400, "invalid_request_error"],
        "missing": [True, "not_found_error"],
        "stranger": [True, "authentication_error"],
        "key": 1,
        "full": [True, "rate_limit_error", "1"],
        "broken": [True, "api_error"],
        "helper": True,
        "aborted": True,
        "cancelled": 3,
    }
    assert len(full.streams) - num_before == 2, "a try, and another one"


def test_ollama(servers: Mapping[str, str]) -> None:
    said = run("ollama", "ollama.mjs", servers)
    status, words = said.pop("wrong")
    assert status == 400
    assert words.startswith("options.temperature is -7")
    assert said == {
        "models": ["fake:latest"],
        "running": 1,
        "shown": ["completion"],
        "chat": TEXT,
        "done": [True, "length", 6],
        "chatStream": TEXT,
        "generate": answer(FakeTokenizer().encode("Hi."), 0, 6),
        "missing": 404,
        "stranger": 401,
        "key": True,
        "full": [429, "too much waits"],
        "broken": "it fell over",
        "aborted": "AbortError",
        "cancelled": 1,
    }
