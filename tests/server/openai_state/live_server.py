"""`headrace serve` in a process of its own, which can be killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
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
        self._process.wait(60)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def _address(self) -> str:
        end = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < end:
            if (match := _ADDRESS.search(self._log.read_text())) is not None:
                return match[1]
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        raise AssertionError(self._log.read_text())
