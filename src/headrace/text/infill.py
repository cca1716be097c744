"""Fill-in-the-middle: what stands between two texts, for models that were trained to write it."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.text.tokenizer import Tokenizer

_KNOWN = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen 2.5 Coder and later, Granite 4, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite 3
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens that stand before the text in front, before the text behind, and before the middle."""

    prefix: int
    suffix: int
    middle: int

    def prompt(self, before: str, behind: str, opening: str = "") -> list[int | str]:
        """What a model goes on from with the middle, which begins with `opening`: texts and token ids in turn."""
        return ["", self.prefix, before, self.suffix, behind, self.middle, *([opening] if opening else [])]


def infill_of(tokenizer: Tokenizer | None) -> Infill | None:
    """The tokens of a model; None for one without them."""
    if tokenizer is None:
        return None
    for names in _KNOWN:
        ids = [tokenizer.token_id(name) for name in names]
        if all(token_id is not None for token_id in ids):
            return Infill(*(token_id for token_id in ids if token_id is not None))
    return None
