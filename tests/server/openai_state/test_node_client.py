"""npm's `openai` client. Needs node, and the package where node finds it: `npm install openai`, and NODE_PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_llm import FakeLLM, answer, serving

SCRIPT = Path(__file__).with_name("client.cjs")
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_what_the_client_of_npm_gets(tmp_path: Path) -> None:
    assert NODE is not None
    has_package = subprocess.run([NODE, "-e", "require.resolve('openai')"], capture_output=True, check=False)
    if has_package.returncode:
        pytest.skip("needs npm's openai where NODE_PATH says")
    with serving(FakeLLM(), store_folder=tmp_path) as base:
        done = subprocess.run(
            [NODE, str(SCRIPT), f"{base}/v1"], capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = answer(list(b"user: Hi.\n"), 0, 6)
    assert json.loads(done.stdout) == {
        "chat": text,
        "chatStream": text,
        "response": text,
        "responseStream": text,
        "status": "incomplete",
        "previous": True,
        "items": 1,
        "background": text,
        "deleted": 404,
        "batch": [text] * 3,
    }
