"""What restricts the tokens of a sequence: a grammar, the end of a thought, both.

The engine knows only this. What the tokens spell, and which library computes the masks, is the text side's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.types import Request

Mask: TypeAlias = NDArray[np.uint32]
"""[ceil(V / 32)]: bit i % 32 of word i // 32 says whether token i may be taken"""


class Constraint(Protocol):
    """What one sequence may still say. Deterministic: its answers depend on the tokens taken so far, nothing else.

    The engine calls `take` once for each output token, in order; around a step's drafts it calls `push` and `pop`.
    `fill` may run in another thread than the other methods, never at the same time as one of them.
    """

    def fill(self, mask: Mask) -> bool:
        """Write the tokens allowed next into `mask` (all bits set when given); False if nothing is restricted.

        At least one token is allowed. Where only one token can follow, the mask allows only that token.
        """

    def push(self, token_id: int) -> bool:
        """Go on with a draft's token for now; False, with nothing changed, if it is not allowed."""

    def pop(self, count: int) -> None:
        """Take back the last `count` pushes."""

    def take(self, token_id: int, remaining: int) -> int:
        """Go on with a sampled token, for good; returns the token to use instead where it would not end in time.

        `remaining` is how many output tokens the sequence may still have, this one included.
        """

    @property
    def is_complete(self) -> bool:
        """Whether the output so far may stand as it is: what ends at its limit then ends with "stop"."""

    @property
    def is_closed(self) -> bool:
        """Whether it is complete and nothing may follow: the sequence ends, without an end-of-sequence token."""

    def forced(self, most: int) -> list[int]:
        """Up to `most` tokens that follow without a choice."""


NewConstraint: TypeAlias = Callable[[Request], Constraint | None]
"""A fresh constraint for one sequence of a request; None if the request asks for none."""


def unconstrained(_: Request) -> Constraint | None:
    """For engines whose requests restrict nothing."""
    return None
