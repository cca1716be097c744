"""The command line inside the test's process."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from in_process import Done, Headrace

from headrace.cli import main
from headrace.errors import HeadraceError
from headrace.hub.resolve import bundled_folder


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Headrace:
    """Run the command; `stdin` is what a pipe holds."""

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def stories() -> str:
    try:
        bundled_folder("stories")
    except HeadraceError:
        pytest.skip("the bundled model has not been trained in this checkout")
    return "stories"


@pytest.fixture(scope="session")
def stories260k(shared: Path) -> str:
    return str(shared / "models/stories260k")
