"""Stop strings: where generated text ends, however its pieces are cut."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Finds the first of several strings in a text that comes in pieces.

    The match that ends earliest in the text wins, as soon as it is complete; of several that end at the same
    character, the longest. The outcome does not depend on how the text is cut. `include` leaves the stop string in
    the text. Nothing comes after a match.
    """

    def __init__(self, stops: Iterable[str], include: bool = False) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        assert all(self._stops), "empty stop strings are refused where parameters are checked"
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._matched: str | None = None

    @property
    def has_matched(self) -> bool:
        """Whether a stop string has been found."""
        return self._matched is not None

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is now final, the stop string that was found or None).

        What could still become a stop string is held back.
        """
        if self._matched is not None:
            return "", self._matched
        if not self._stops:
            return text, None
        window = self._held + text
        found = self._first_match(window)
        if found is not None:
            end, self._matched = found
            self._held = ""
            return window[: end if self._include else end - len(self._matched)], self._matched
        keep = self._num_to_hold(window)
        self._held = window[len(window) - keep :]
        return window[: len(window) - keep], None

    def flush(self) -> str:
        """The text that was held back, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, window: str) -> tuple[int, str] | None:
        ends = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := window.find(stop)) >= 0]
        return (min(ends)[0], min(ends)[2]) if ends else None

    def _num_to_hold(self, window: str) -> int:
        """Length of the longest end of the window that begins a stop string."""
        for size in range(min(self._longest - 1, len(window)), 0, -1):
            if any(len(stop) > size and window.endswith(stop[:size]) for stop in self._stops):
                return size
        return 0
