"""Clients that cannot be in one environment with the others, each in a folder of its own: what `apart` lists.

LlamaIndex's classes for OpenAI's API still need the `openai` before version 3, which is tried too; `tritonclient` asks
for older versions of what the engine needs. `make test` puts them there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENTS = Path(sys.prefix) / "clients"


@pytest.mark.parametrize(
    ("folder", "tests"),
    [
        ("openai2", HERE / "llama_index_openai.py"),
        ("openai2", HERE.parent / "test_openai_client.py"),
        ("tritonclient", HERE / "triton_http.py"),
    ],
)
def test_in_a_process_of_its_own(folder: str, tests: Path) -> None:
    if not (CLIENTS / folder).is_dir():
        pytest.skip(f"there is no {CLIENTS / folder}: `make test` makes it")
    path = os.pathsep.join([str(CLIENTS / folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)],
        cwd=HERE.parents[2],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
