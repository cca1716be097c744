"""Trains the byte-level BPE tokenizer of the story model: any text goes through it and comes back unchanged.

python train_tokenizer.py --data data/ --out data/tokenizer.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from prepare_data import read_stories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN, END, USER, STORY = "<|begin|>", "<|end|>", "<|user|>", "<|story|>"


def train_tokenizer(stories: Iterable[str], vocab_size: int) -> Tokenizer:
    """GPT-2's byte-level scheme with four special tokens; encoding puts `<|begin|>` in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END, USER, STORY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=2048)
    options = parser.parse_args()
    stories = [story for name in ("cased", "recased") for story in read_stories(options.data / f"{name}.jsonl")]
    tokenizer = train_tokenizer(stories, options.vocab_size)
    tokenizer.save(str(options.out))
    num_tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(stories))
    num_characters = sum(map(len, stories))
    print(f"{tokenizer.get_vocab_size()} tokens; {num_tokens:,} in {num_characters:,} characters of stories")


if __name__ == "__main__":
    main()
