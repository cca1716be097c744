"""Server-sent events (WHATWG HTML, section 9.2): frames only. `data` never has a line break, as JSON has none."""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream; charset=utf-8"
DATA = b"data: "
END = b"\n\n"
DONE = b"data: [DONE]\n\n"
"""How OpenAI's streams end."""


def event(data: bytes) -> bytes:
    """One event from one line of data."""
    return DATA + data + END


def named_event(name: bytes, data: bytes) -> bytes:
    """One event of a type, from one line of data."""
    return b"event: %b\ndata: %b\n\n" % (name, data)
