"""Prompts in the forms that people give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypeAlias, TypedDict, TypeGuard, TypeVar, cast

import numpy as np

from headrace.errors import RequestError


class TextPrompt(TypedDict):
    """A prompt as vLLM's dict form of text; prefixes are shared only with prompts of the same `cache_salt`."""

    prompt: str
    cache_salt: NotRequired[str | None]
    prediction: NotRequired[str | Sequence[int] | None]
    """Text, or its token ids, that the output is likely to repeat; it makes that faster, and changes nothing"""


class TokensPrompt(TypedDict):
    """A prompt as vLLM's dict form of token ids; `prompt` is their text, which goes into the output as it is."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str | None]
    prediction: NotRequired[str | Sequence[int] | None]
    """As in TextPrompt"""


Prompt: TypeAlias = str | Sequence[int] | TextPrompt | TokensPrompt
Message: TypeAlias = Mapping[str, Any]

T = TypeVar("T")

_LONGEST_SALT = 1024
_INTEGERS = (int, np.integer)
_KEYS = ("prompt", "prompt_token_ids", "cache_salt", "prediction")


def prompt_parts(prompt: object, param: str = "prompt") -> tuple[str | None, list[int] | None]:
    """A prompt of any form as (text or None, token ids or None), not both None.

    Raises:
        RequestError: it has none of the forms, or a key that is not known; `param` names it.
    """
    text, ids = (prompt, None) if isinstance(prompt, str) else (None, prompt)
    if isinstance(prompt, Mapping):
        text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        for key, value in prompt.items():
            if key not in _KEYS and value is not None:
                raise RequestError(f"the {param} has {key!r}, which headrace does not know; leave it out", param=param)
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if ids is None and isinstance(text, str):
        return text, None
    if _are_ids(ids) and isinstance(text, str | None):
        return text, _plain(ids)
    raise RequestError(
        f'the {param} must be a string, a list of token ids, {{"prompt": str}} or {{"prompt_token_ids": [int, ...]}}',
        param=param,
    )


def as_prompts(prompts: Prompt | Sequence[Prompt], param: str = "prompts") -> list[Prompt]:
    """One prompt or several → several. A list of ints is one prompt.

    Raises:
        RequestError: it is neither; `param` names it.
    """
    if isinstance(prompts, np.ndarray):
        prompts = prompts.tolist()
    if isinstance(prompts, (str, Mapping)):
        return [cast("Prompt", prompts)]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray):
        raise RequestError(
            f"{param} is of type {type(prompts).__name__}, expected a prompt or a list of prompts", param=param
        )
    if prompts and isinstance(prompts[0], int | np.integer):
        return [cast("Sequence[int]", prompts)]
    return list(cast("Sequence[Prompt]", prompts))


def as_conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    """One conversation or several → several."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise RequestError(
            f"messages is of type {type(messages).__name__}, expected a list of messages or of conversations",
            param="messages",
        )
    if messages and isinstance(messages[0], Mapping):
        return [cast("Sequence[Message]", messages)]
    return list(cast("Sequence[Sequence[Message]]", messages))


def one_for_each(param: str, value: object, kind: type[T], num_prompts: int) -> list[T]:
    """A value of `kind` for every prompt, or a list with one for each, as a list.

    Raises:
        RequestError: it is neither; `param` names it.
    """
    if isinstance(value, kind) and not isinstance(value, bool):
        return [value] * num_prompts
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        message = f"{param} is of type {type(value).__name__}, expected {kind.__name__} or a list of them"
        raise RequestError(message, param=param)
    if len(value) != num_prompts:
        raise RequestError(f"{len(value)} {param} for {num_prompts} prompts; give one, or one for each", param=param)
    return list(value)


def cache_salt(prompt: object) -> str:
    """Of a prompt in its dict form; empty for all others."""
    salt = prompt.get("cache_salt") if isinstance(prompt, Mapping) else None
    if salt is None:
        return ""
    if not isinstance(salt, str) or not 1 <= len(salt) <= _LONGEST_SALT:
        raise RequestError(f"cache_salt must be text of 1 to {_LONGEST_SALT:,} characters", param="cache_salt")
    return salt


def predicted_part(prompt: object) -> str | list[int] | None:
    """The prediction of a prompt in its dict form: text or token ids; None where there is none.

    Raises:
        RequestError: it is neither.
    """
    given = prompt.get("prediction") if isinstance(prompt, Mapping) else None
    if given is None or isinstance(given, str):
        return given
    if not _are_ids(given):
        raise RequestError("prediction must be text or a list of token ids", param="prediction")
    return _plain(given)


def check_priority(priority: object) -> None:
    """Raise RequestError unless it is a 64-bit integer."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -(2**63) <= priority < 2**63:
        raise RequestError(f"priority is {priority!r}, expected a 64-bit integer", param="priority")


def _are_ids(ids: object) -> TypeGuard[Sequence[int]]:
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes | bytearray):
        return False
    return all(kind is not bool and issubclass(kind, _INTEGERS) for kind in set(map(type, ids)))


def _plain(ids: Sequence[int]) -> list[int]:
    """The same as Python's integers; there may be a million."""
    return list(ids) if set(map(type, ids)) == {int} else [int(token_id) for token_id in ids]
