"""Labels behind a prompt as token ids, cut where the prompt ends."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import RequestError
from headrace.text.tokenizer import Tokenizer


def split_labels(
    tokenizer: Tokenizer, prompt: str, labels: Sequence[str], *, add_special_tokens: bool
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The tokens that the prompt has in common with all labels behind it, and those of each label that follow.

    Prompt and label are tokenised as one text, as the model would read them. Where a label's beginning changes the
    prompt's last tokens, these belong to what follows.

    Raises:
        RequestError: two labels become the same tokens, one becomes none, or the prompt has none.
    """
    texts = [prompt, *(prompt + label for label in labels)]
    alone, *wholes = [tuple(ids) for ids in tokenizer.encode_batch(texts, add_special_tokens)]
    seen: dict[tuple[int, ...], str] = {alone: ""}
    for label, whole in zip(labels, wholes, strict=True):
        if whole in seen:
            same = f"the same tokens as {seen[whole]!r}" if seen[whole] else "no tokens"
            raise RequestError(f"the label {label!r} becomes {same} behind the prompt; change it", param="labels")
        seen[whole] = label
    shared = 0  # one token at least remains of each label
    while shared < len(alone) and all(whole[shared:-1][:1] == alone[shared : shared + 1] for whole in wholes):
        shared += 1
    if shared == 0:
        raise RequestError("the prompt is empty; it needs at least one token before the labels", param="prompt")
    return alone[:shared], [whole[shared:] for whole in wholes]
