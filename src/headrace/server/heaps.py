"""How the C library keeps the server's memory: in two heaps, and large blocks in none. Other libraries than glibc have
no such settings, and nothing happens."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""glibc's names of the numbers"""
_NUM_HEAPS = 2
_LARGE_BYTES = 2**20
_KEPT_BYTES = 8 * 2**20
"""Free at a heap's end"""


def bound_heaps() -> None:
    """Let the process's threads share two heaps, and give large blocks back to the system once they are free.

    glibc makes a heap for each thread, up to eight for each core, and each keeps the room that its largest text once
    took while it became tokens: a hundred MiB each. And it puts ever larger blocks (up to 32 MiB) into them once it has
    seen such ones freed: bodies, answers and what is made of them leave holes that the next one does not fit into.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in (
            (_M_ARENA_MAX, _NUM_HEAPS),
            (_M_MMAP_THRESHOLD, _LARGE_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        ):
            mallopt(name, value)
