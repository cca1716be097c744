"""A constraint on what may go on wherever it may end."""

from __future__ import annotations

from headrace.text.after import Inner


class OpenEnded:
    """Holds free text, in which a call may be opened, to a constraint: at max_tokens it is cut off, not complete.

    So its finish_reason is "length" there. It is a `Constraint` of the engine.
    """

    is_complete = False

    def __init__(self, inner: Inner) -> None:
        self.fill, self.push, self.pop = inner.fill, inner.push, inner.pop
        self.take, self.forced = inner.take, inner.forced
        self._inner = inner

    @property
    def is_closed(self) -> bool:
        """Whether nothing may follow."""
        return self._inner.is_closed
