"""`decode` in the words of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from headrace.server.dialects import decode as shared
from headrace.server.dialects.decode import Unsupported, Words
from headrace.server.dialects.openai.unsupported import INSTEAD

_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("messages", "tools", "tool_choice", "reasoning_effort"), "/v1/chat/completions"),
    **dict.fromkeys(("prompt", "best_of"), "/v1/completions"),
}
_EXPECTED: Mapping[str, str] = {
    "role": "system, developer, user, assistant, tool or function",
    "type": "text: other content is not supported",
    "response_format.type": "text, json_object, json_schema or structural_tag",
}
_WORDS = Words(elsewhere=_ELSEWHERE, expected=_EXPECTED, instead=INSTEAD)

T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes, kind: type[T], unsupported: Unsupported) -> T:
    """The body as a `kind`, after the fields that `unsupported` names.

    Raises:
        RequestError: of any kind; `param` is the JSON path of the field at fault.
    """
    return shared.decode(body, kind, unsupported, _WORDS)
