"""Log-probabilities in the two shapes of OpenAI's answers, which others have taken over, and in vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.server.dialects.base import JsonObject, Served
from headrace.server.dialects.tokens import finite, most_likely
from headrace.types import Logprob, TokenLogprobs


@dataclass(frozen=True, slots=True)
class TokenNames:
    """How log-probabilities name tokens: by their text or, with `as_ids`, as vLLM's "token_id:17"."""

    served: Served
    as_ids: bool = False

    def text(self, token_id: int, logprob: Logprob | None) -> str:
        """A token's name."""
        return f"token_id:{token_id}" if self.as_ids else self.plain(token_id, logprob)

    def plain(self, token_id: int, logprob: Logprob | None) -> str:
        """Its text, from the engine's answer or else from the tokenizer."""
        if logprob is not None and logprob.decoded_token is not None:
            return logprob.decoded_token
        return self.served.token_text(token_id)


def chat_logprobs(
    token_ids: Sequence[int], positions: Sequence[TokenLogprobs], num_top: int, names: TokenNames
) -> JsonObject:
    """`choices[].logprobs` of chat: the chosen token of each position, and the `num_top` most likely ones."""
    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        entry = _entry(token_id, position[token_id], names)
        top = [_entry(other, logprob, names) for other, logprob in most_likely(position, num_top)]
        content.append(entry | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[TokenLogprobs | None],
    num_top: int,
    offset: int,
    names: TokenNames,
) -> JsonObject:
    """`choices[].logprobs` of completions. `offset`: the characters of the choice's text before the first token.

    A position may be None (a prompt's first token has no distribution): its entries are null. top_logprobs is keyed
    by text: of tokens that read the same, the most likely one counts. It holds the chosen token even beyond the top.
    """
    tokens: list[str] = []
    offsets: list[int] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for token_id, position in zip(token_ids, positions, strict=True):
        chosen = position.get(token_id) if position else None
        tokens.append(names.text(token_id, chosen))
        offsets.append(offset)
        offset += len(names.plain(token_id, chosen))
        logprobs.append(None if chosen is None else finite(chosen.logprob))
        if position is None or chosen is None:
            tops.append(None)
            continue
        top: dict[str, float] = {}
        for other, logprob in (*most_likely(position, num_top), (token_id, chosen)):
            top.setdefault(names.text(other, logprob), finite(logprob.logprob))
        tops.append(top)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


def prompt_logprobs(positions: Sequence[TokenLogprobs | None], num_top: int, token_ids: Sequence[int]) -> list[object]:
    """vLLM's `prompt_logprobs`: for each prompt token null or {token id: {logprob, rank, decoded_token}}."""
    rendered: list[object] = []
    for token_id, position in zip(token_ids, positions, strict=True):
        if position is None:
            rendered.append(None)
            continue
        shown = dict(most_likely(position, num_top)) | {token_id: position[token_id]}
        rendered.append({str(other): _vllm_entry(logprob) for other, logprob in shown.items()})
    return rendered


def _entry(token_id: int, logprob: Logprob, names: TokenNames) -> JsonObject:
    exact = names.served.token_bytes(token_id)
    encoded = names.plain(token_id, logprob).encode("utf-8", "replace") if exact is None else exact
    return {"token": names.text(token_id, logprob), "logprob": finite(logprob.logprob), "bytes": list(encoded)}


def _vllm_entry(logprob: Logprob) -> JsonObject:
    return {"logprob": finite(logprob.logprob), "rank": logprob.rank, "decoded_token": logprob.decoded_token}
