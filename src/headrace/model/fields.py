"""Reading a config: every key by name and type, and nothing passed over.

A key that nobody asked for is refused by name when the reading is `finish`ed, unless it is known to be harmless.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import numpy as np

from headrace.errors import DamagedFile, UnsupportedModel


def is_empty(value: object) -> bool:
    """None, False and empty strings and containers switch nothing on."""
    if isinstance(value, np.ndarray):
        return value.size == 0
    return value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value)


class Fields:
    """The keys of one config. `source` names it in messages; `prefix` goes before each key (GGUF's "llama.").

    Each reader marks its key as read. A key that is absent or null gives the default; without a default it is an error.

    Raises:
        DamagedFile: a key is missing or has a value of the wrong type.
        UnsupportedModel: a value that headrace does not implement.
    """

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self._values = values
        self._read: set[str] = set()
        self._prefix = prefix
        self.source = source

    def has(self, name: str) -> bool:
        """The key is there and not null."""
        return self._values.get(self._prefix + name) is not None

    def raw(self, name: str) -> Any:
        """The value as it is, or None."""
        self._read.add(self._prefix + name)
        value = self._values.get(self._prefix + name)
        return value.tolist() if isinstance(value, np.ndarray) else value

    def integer(self, name: str, default: int | None = None, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
        """A whole number from `minimum` to `maximum`."""
        value = self._given(name, default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # GGUF may hold one value for each layer
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            self._damaged(name, value, f"a whole number from {minimum} to {maximum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self._damaged(name, value, "a number above 0")
        return float(value)

    def optional_integer(self, name: str) -> int | None:
        """`integer`, or None when the key is absent, null or 0."""
        return self.integer(name) if self.raw(name) else None

    def optional_number(self, name: str) -> float | None:
        """`number`, or None when the key is absent, null or 0."""
        return self.number(name) if self.raw(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            self._damaged(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._given(name, default)
        if not isinstance(value, str):
            self._damaged(name, value, "a string")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of `count` numbers above 0."""
        value = self._given(name, None)
        good = isinstance(value, list) and all(isinstance(x, int | float) and x > 0 for x in value)
        if not good or len(value) != count:
            self._damaged(name, value, f"a list of {count} numbers above 0")
        return tuple(float(x) for x in value)

    def items(self, name: str) -> list[Any]:
        """A list; empty when the key is absent or null."""
        value = self.raw(name)
        if value is not None and not isinstance(value, list):
            self._damaged(name, value, "a list")
        return value or []

    def table(self, name: str) -> dict[str, Any]:
        """An object; empty when the key is absent or null."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            self._damaged(name, value, "an object")
        return value or {}

    def only(self, name: str, *allowed: object) -> None:
        """Refuse every value of the key but an absent, empty or allowed one."""
        value = self.raw(name)
        if not is_empty(value) and value not in allowed:
            raise self.refusal(name, value)

    def refusal(self, name: str, value: object, hint: str = "") -> UnsupportedModel:
        """The error for a key's value that headrace does not implement."""
        shown = repr(value) if len(repr(value)) <= 100 else repr(value)[:97] + "..."
        hint = hint or "headrace does not implement that; use another model or export it without"
        return UnsupportedModel(f"{self.source}: {self._prefix}{name} is {shown}; {hint}")

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Refuse the first key (under the prefix) that was not read, is not harmless and switches something on."""
        for name, value in self._values.items():
            if not name.startswith(self._prefix) or name in self._read or is_empty(value):
                continue
            short = name.removeprefix(self._prefix)
            if not short.startswith("_") and short not in harmless:
                raise self.refusal(short, value, "headrace does not know this key, and it might change the results")

    def _given(self, name: str, default: object) -> Any:
        value = self.raw(name)
        value = default if value is None else value
        if value is None:
            raise DamagedFile(f"{self.source} has no {self._prefix}{name}; download or export the model again")
        return value

    def _damaged(self, name: str, value: object, expected: str) -> NoReturn:
        raise DamagedFile(f"{self.source}: {self._prefix}{name} is {value!r:.100}, expected {expected}")
