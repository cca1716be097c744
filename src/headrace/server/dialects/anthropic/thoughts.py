"""The signature of a thinking block. It signs nothing: a client gets its own conversation back, and may change it."""

from __future__ import annotations

import base64
import binascii

from headrace.errors import RequestError

SHOWN = "headrace:shown"
"""Of a block that has its text"""
_HIDDEN = "headrace:"
"""Before the text of a block that leaves it out, in base64"""


def hide(thought: str) -> str:
    """The signature of a thought that is not shown, from which `reveal` has it back."""
    return _HIDDEN + base64.b64encode(thought.encode()).decode()


def reveal(signature: str | None, path: str) -> str | None:
    """The thought of a block without text; None if another server signed it.

    Raises:
        RequestError: it begins like ours and is damaged.
    """
    if signature is None or signature == SHOWN or not signature.startswith(_HIDDEN):
        return None
    try:
        return base64.b64decode(signature.removeprefix(_HIDDEN), validate=True).decode()
    except (binascii.Error, ValueError):
        raise RequestError(f"{path}.signature is damaged; send it as it came", param=f"{path}.signature") from None
