"""What people are told, as lines."""

from __future__ import annotations

_LONGEST_LINE = 1000  # a message may quote a file or what the user typed


def one_line(text: str) -> str:
    """A message as one line without control characters, not longer than a screen."""
    line = "".join(character if character.isprintable() else "�" for character in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
