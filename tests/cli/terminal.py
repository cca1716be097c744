"""A program on a pseudo-terminal: what a person at a keyboard sees and types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]|\r")


class Terminal:
    """Start `command` on a terminal of its own (stdin, stdout and stderr)."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self._master, self._slave = pty.openpty()
        self.seen = ""
        self.raw = b""
        environment = {**env, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100", "LINES": "30"}
        # A session leader that opens a terminal gets it as its own, so that Ctrl-C is a signal.
        opening = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self._slave)]
        self.process = subprocess.Popen([*opening, *command], env=environment, start_new_session=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._let_go()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """What was shown up to and with `text`, since the last wait."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if not self._read(deadline):
                raise AssertionError(f"waited for {text!r}, saw {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def wait(self, seconds: float = 60.0) -> int:
        """The exit code; what is still shown goes to `seen`."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other side has closed
            return False
        self._let_go()  # the program has opened it
        self.raw += data
        self.seen = _ESCAPES.sub("", self.seen + data.decode(errors="replace"))
        return bool(data)

    def _let_go(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
        self._slave = -1
