"""What a hub name says: `org/name[@revision][:choice]` or `org/name/path/file.gguf`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^:@\s]+))?(?::(?P<choice>[^:@\s]+))?"
)
_FILE = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/(?P<choice>[^:@]+\.gguf)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository on the hub and, where it holds several models, which one."""

    repository: str
    """`org/name`"""
    revision: str | None = None
    """Branch, tag or commit; None is `main`."""
    choice: str | None = None
    """A quantisation tag such as `Q4_K_M`, or the path of a .gguf file in the repository."""


def parse_hub_name(name: str) -> HubName | None:
    """The parts of a hub name, or None when `name` does not have that form."""
    match = _FILE.fullmatch(name) or _NAME.fullmatch(name)
    return None if match is None else HubName(**match.groupdict())
