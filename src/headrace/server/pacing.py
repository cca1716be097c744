"""Fewer, larger events of a stream: chunks of a completion are put together until they have enough tokens."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.types import Chunk, joined


class Pacing:
    """Puts the chunks of each completion together to `interval` tokens; its first and last go out at once."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._held: dict[tuple[int, int], Chunk] = {}
        self._begun: set[tuple[int, int]] = set()

    def push(self, prompt_index: int, chunks: Sequence[Chunk]) -> list[Chunk]:
        """What is to be sent now of what one step gave for one prompt."""
        if self._interval == 1:
            return list(chunks)
        ready: list[Chunk] = []
        for chunk in chunks:
            key = prompt_index, chunk.index
            held = self._held.pop(key, None)
            whole = chunk if held is None else joined(held, chunk)
            is_due = key not in self._begun or len(whole.token_ids) >= self._interval
            if is_due or whole.finish_reason is not None:
                self._begun.add(key)
                ready.append(whole)
            else:
                self._held[key] = whole
        return ready
