"""What the engine has of what came, and whether it can have more: what it can run, and a few requests ahead."""

from __future__ import annotations

from headrace.server.waiting import Entry

_SILENT_REQUESTS = 8
_SILENT_STEPS = 4
"""Requests that the engine has and that have not given anything yet: at most so many, or so many steps' prompt tokens,
whichever is more. Enough that it never waits for the next, and few enough that who comes now need not wait for them."""


class Room:
    """The engine's.

    Args:
        max_sequences: How many it runs at once.
        step_tokens: How many tokens a step has at most.

    Attributes:
        entries: What it has, by id.
    """

    def __init__(self, max_sequences: int, step_tokens: int) -> None:
        self.entries: dict[str, Entry] = {}
        self._most_sequences = max_sequences + _SILENT_REQUESTS
        self._silent_tokens_limit = _SILENT_STEPS * step_tokens
        self._num_sequences = 0
        self._num_silent = self._silent_tokens = 0

    def is_there_for(self, entry: Entry) -> bool:
        """Whether it may go in now."""
        if not self.entries:
            return True
        if self._num_sequences + entry.width > self._most_sequences:
            return False
        is_few = self._num_silent < _SILENT_REQUESTS
        return is_few or self._silent_tokens + entry.prompt_tokens <= self._silent_tokens_limit

    def put(self, entry: Entry) -> None:
        """It goes in."""
        self.entries[entry.id] = entry
        self._num_sequences += entry.width
        self._num_silent += 1
        self._silent_tokens += entry.prompt_tokens

    def has_spoken(self, entry: Entry) -> None:
        """Something has come of it."""
        if entry.is_silent:
            entry.is_silent = False
            self._num_silent -= 1
            self._silent_tokens -= entry.prompt_tokens

    def remove(self, entry: Entry) -> bool:
        """It is over; whether it was in."""
        if self.entries.pop(entry.id, None) is None:
            return False
        self.has_spoken(entry)
        self._num_sequences -= entry.width
        return True
