"""Whether two models' token ids stand for the same text, so that one can guess for the other."""

from __future__ import annotations

from headrace.errors import ConfigError
from headrace.text.tokenizer import Tokenizer


def check_same_tokens(tokenizer: Tokenizer | None, drafts: Tokenizer | None, draft: str) -> None:
    """Raise ConfigError, which names the first difference, unless all ids of both stand for the same bytes."""
    if tokenizer is None or drafts is None:
        if tokenizer is not drafts:
            which = "the model" if tokenizer is None else f"draft {draft}"
            raise ConfigError(f"{which} has no tokenizer, so that vocabularies cannot be compared; give one that has")
        return
    for token_id in range(max(tokenizer.vocab_size, drafts.vocab_size)):
        ours, theirs = (
            each.token_bytes(token_id) if token_id < each.vocab_size else None for each in (tokenizer, drafts)
        )
        if ours != theirs:
            raise ConfigError(
                f"draft {draft} has another vocabulary: token {token_id} is {_shown(theirs)} there and {_shown(ours)}"
                " in the model; give a draft of the same vocabulary"
            )


def _shown(token: bytes | None) -> str:
    return "nothing" if token is None else repr(token.decode("utf-8", "backslashreplace"))
