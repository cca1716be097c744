"""Tokens as answers show them: each with its own part of the text, and with its log-probability."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.server.dialects.base import Served
from headrace.types import Logprob, TokenLogprobs

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have (as in vLLM and OpenAI's own answers)."""


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, LOWEST)


def most_likely(position: TokenLogprobs, count: int) -> list[tuple[int, Logprob]]:
    """The `count` most likely tokens of a position, the likeliest first."""
    ranked = sorted(position.items(), key=lambda item: item[1].rank)
    return [(token_id, logprob) for token_id, logprob in ranked if logprob.rank <= count]


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token of an output."""

    id: int
    text: str
    """Its part of the text: a character made of several tokens belongs to the last of them"""
    logprob: float | None
    """None where nobody computed it"""
    is_special: bool


class TokenTexts:
    """The tokens of one completion, in their order; their texts, one after the other, are what was generated.

    It does not depend on how many came in a step, nor on what is held back while it may become a stop string.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._special_ids = served.special_ids()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None] | None, *, is_last: bool
    ) -> list[ShownToken]:
        """The next tokens; with `is_last` also what is left of a character that does not come to its end."""
        shown = []
        for index, token_id in enumerate(token_ids):
            exact = self._served.token_bytes(token_id)
            ends = is_last and index == len(token_ids) - 1
            text = self._served.token_text(token_id) if exact is None else self._decode(exact, ends)
            position = None if logprobs is None else logprobs[index]
            logprob = None if position is None else finite(position[token_id].logprob)
            shown.append(ShownToken(token_id, text, logprob, token_id in self._special_ids))
        return shown


def top_tokens(position: TokenLogprobs, count: int, served: Served) -> list[ShownToken]:
    """The most likely tokens of a position, each alone."""
    special_ids = served.special_ids()
    return [
        ShownToken(token_id, served.token_text(token_id), finite(logprob.logprob), token_id in special_ids)
        for token_id, logprob in most_likely(position, count)
    ]
