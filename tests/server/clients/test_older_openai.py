"""The `openai` client as it was before version 3, and LlamaIndex's classes for OpenAI's API, which still need that.

Both lie in a folder of their own (openai2.txt), as one Python environment has one version of a package: `make test`
puts them there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(sys.prefix) / "clients/openai2"


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no {FOLDER}: `make test` makes it")
@pytest.mark.parametrize("tests", [HERE / "llama_index_openai.py", HERE.parent / "test_openai_client.py"])
def test_in_a_process_of_its_own(tests: Path) -> None:
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
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
