"""What the `headrace` loggers write, and how: a line for people, or one JSON object a line for machines.

Facts that belong to a line are given as `extra={"facts": {...}}`; as text only the message is shown.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
"""A message may quote what a client sent: it stays one line, and does nothing to a terminal"""
_LOGGERS = ("headrace", "uvicorn")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How logs are written; plain data, which an engine's process gets too."""

    format: str = "text"
    """One of FORMATS"""
    level: str = "warning"
    """One of LEVELS: less than that is not written"""


class StderrHandler(logging.Handler):
    """Lines on what is stderr at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more


class TextFormatter(logging.Formatter):
    """`headrace: message`, and the traceback of an error that was not expected."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = f"headrace: {record.getMessage().translate(_ESCAPES)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", …}` with the line's facts; one line each, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up(settings: LogSettings) -> None:
    """Let our loggers, and the HTTP server's, write to stderr like that; again to change it."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [other for other in logger.handlers if not isinstance(other, StderrHandler)]
        logger.addHandler(handler)
    logging.getLogger("headrace").setLevel(settings.level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
