"""The documents tell the truth: files that they name exist, and their Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace import AsyncLLM

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])
HOMES = ("src", "csrc", "docs", "tests", "bench", "examples")
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def exists(name: str, document: Path) -> bool:
    """Beside the document, at the root, or as the end of a path in the tree."""
    if (document.parent / name).exists() or (ROOT / name).exists():
        return True
    return any(str(path).endswith(f"/{name}") for home in HOMES for path in (ROOT / home).rglob(Path(name).name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_and_links_exist(document: Path) -> None:
    text = document.read_text()
    names = re.findall(r"`((?:\w[\w-]*/)*[\w-]+\.(?:py|h|cpp|md|toml))`", text)
    names += [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = sorted({name for name in names if not exists(name, document)})
    assert not missing


def test_the_map_in_the_package_names_what_is_there() -> None:
    assert headrace.__doc__ is not None
    names = re.findall(r"^    ([\w.]+(?:\.py|/)) ", headrace.__doc__, re.MULTILINE)
    assert len(names) >= 10
    assert all((ROOT / "src/headrace" / name).exists() for name in names)


def test_the_python_of_the_readme_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[0]], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 200


def test_the_client_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    from server.fake_llm import serving

    with serving(AsyncLLM("stories"), "stories") as base:
        exec(compile(SNIPPETS[1].replace("http://127.0.0.1:8000", base), "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 50
