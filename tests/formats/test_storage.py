"""Mapped files: their memory is given back when asked, and nothing else's."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from headrace.formats.storage import map_file, release


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is resident")
def test_released_pages_leave_memory_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    path.write_bytes(content.tobytes())
    data = map_file(path)
    view = data[5000 : 1 << 19][: 1 << 18]
    assert data.sum() == content.sum()
    before = _resident(path)
    release(view)
    assert before - _resident(path) >= (1 << 18) - 2 * mmap.PAGESIZE
    assert (data == content).all()


def test_release_leaves_other_arrays_alone() -> None:
    array = np.arange(1 << 20, dtype=np.int64).view(np.uint8)
    release(array)
    release(array[3:9000])
    assert (array.view(np.int64) == np.arange(1 << 20)).all()


def _resident(path: Path) -> int:
    """Bytes of the mapped file that are in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(index for index, line in enumerate(lines) if line.endswith(str(path)))
    return 1024 * int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])
