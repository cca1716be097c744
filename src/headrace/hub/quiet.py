"""The progress bar that huggingface_hub is given where headrace shows its own."""

from __future__ import annotations

from typing import Any

from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]


class QuietBar(tqdm):
    """Counts and shows nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
