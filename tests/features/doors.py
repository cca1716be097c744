"""The doors that features are asked for by: Python, HTTP, the command line; all with the bundled model."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from features.asking import Asking
from features.service import MODEL, asking

from headrace import LLM, EngineConfig
from headrace.cli import main

SMALL = 32 * 2**20
"""Bytes of KV cache; plenty for the bundled model"""


@dataclass(frozen=True)
class Doors:
    """What a feature's probe may use."""

    llm: LLM
    http: Mapping[str, Asking]
    folder: Path
    """For files of the probe's own"""

    def headrace(self, *arguments: str) -> str:
        """What the command writes to standard output; it has to succeed."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = main(arguments)
        assert code == 0, arguments
        return out.getvalue()

    def run(self, prompt: str, *options: str) -> str:
        """`headrace run`: one greedy answer."""
        return self.headrace("run", MODEL, prompt, "--raw", "--quiet", "--temperature", "0", *options).rstrip("\n")


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The URL of `headrace serve` with these options, in a process of its own that has to end well."""
    command = [sys.executable, "-m", "headrace", "serve", *options, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stderr is not None
        said = []
        while (found := re.search(r"http://\S+", line := process.stderr.readline())) is None:
            assert line, said
            said.append(line)
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@contextmanager
def open_doors(http: Mapping[str, Asking] | None = None) -> Iterator[Doors]:
    """The doors, with a server of their own unless there is one."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        served = stack.enter_context(asking()) if http is None else http
        yield Doors(LLM(MODEL, EngineConfig(kv_memory=SMALL, threads=1)), served, folder)
