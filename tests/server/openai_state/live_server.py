"""`headrace serve` in a process of its own, which can be killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ADDRESS = re.compile(r"at (http://\S+)")


class LiveServer:
    """A running server; `kill` ends it as a crash of the machine would, as far as its process goes."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "headrace", *arguments], stdout=log, stderr=log)
        self.base = self._address()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _address(self) -> str:
        while self._process.poll() is None:
            if (match := _ADDRESS.search(self._log.read_text())) is not None:
                return match[1]
        raise AssertionError(self._log.read_text())
