"""Samples stories from a model with headrace, as one offline batch, and keeps those that are written well enough.

    python sample_stories.py MODEL --data data/ --out data/sampled.jsonl --number 2000

A sampled story is cut after its last whole sentence. It is kept when all its words are words of the real stories, its
quotations close, it does not repeat itself, and it is no copy of a real story or of a held-out one.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prepare_data import clean, is_plain, read_stories, word_runs, write_stories

from headrace import LLM, SamplingParams


@dataclass(frozen=True)
class Judge:
    """Says what is wrong with a story, by what is known of real ones."""

    words: frozenset[str]
    runs: frozenset[str]
    shortest: int

    @classmethod
    def learn(cls, training: Sequence[str], held_out: Sequence[str], shortest: int) -> Judge:
        words = frozenset(word for story in training for word in words_of(story))
        return cls(words, frozenset().union(*map(word_runs, [*training, *held_out])), shortest)

    def fault(self, story: str) -> str | None:
        """The first thing that is wrong with the story, or None."""
        words, runs = words_of(story), word_runs(story)
        found = {
            "too short": len(story) < self.shortest,
            "unknown characters": not is_plain(story),
            "unknown words": not self.words.issuperset(words),
            "open quotation": story.count('"') % 2 != 0,
            "repeats itself": len(runs) < 0.9 * (len(words) - 7),
            "copies a real story": 4 * len(runs & self.runs) > len(runs),
        }
        return next((fault for fault, is_found in found.items() if is_found), None)


def words_of(story: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", story.lower())


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty if it has none."""
    ends = [match.end() for match in re.finditer(r'[.!?]"?(?=\s|$)', text)]
    return text[: ends[-1]] if ends else ""


def openings(stories: Iterable[str], number: int, generator: random.Random) -> list[str]:
    """Three to six opening words of real stories, drawn at random: they keep the samples apart."""
    pool = list(stories)
    return [" ".join(generator.choice(pool).split()[: generator.randint(3, 6)]) for _ in range(number)]


def sample(model: str, prompts: Sequence[str], temperature: float, top_p: float, seed: int) -> list[str]:
    """One story for each prompt, the prompt included, up to the end of the context; each draws with its own seed."""
    params = [
        SamplingParams(
            temperature=temperature,
            top_p=top_p,
            max_tokens=None,
            seed=seed + number,
            stop=["<s>"],  # stories260k ends a story by beginning the next
            skip_special_tokens=False,
        )
        for number in range(len(prompts))
    ]
    with LLM(model) as llm:
        outputs = llm.generate(list(prompts), params)
    texts = [prompt + output.outputs[0].text for prompt, output in zip(prompts, outputs, strict=True)]
    return [text.replace("<unk>", "\n").replace("</s>", "") for text in texts]  # babyllama-1m writes lines as <unk>


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="whatever `headrace run` takes")
    parser.add_argument("--data", type=Path, required=True, help="what prepare_data.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--shortest", type=int, default=150, help="in characters (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    training = [story for name in ("cased", "recased") for story in read_stories(options.data / f"{name}.jsonl")]
    held_out = [story for name in ("validation", "test") for story in read_stories(options.data / f"{name}.jsonl")]
    prompts = openings(training, options.number, random.Random(options.seed))
    texts = sample(options.model, prompts, options.temperature, options.top_p, options.seed)
    judge = Judge.learn(training, held_out, options.shortest)
    stories = [whole_sentences(clean(text)) for text in texts]
    faults = [judge.fault(story) for story in stories]
    kept = [story for story, fault in zip(stories, faults, strict=True) if fault is None]
    write_stories(options.out, kept)
    print(f"kept {len(kept)} of {len(stories)} stories, {sum(map(len, kept)):,} characters")
    for fault, count in Counter(fault for fault in faults if fault is not None).most_common():
        print(f"  {count} dropped: {fault}")


if __name__ == "__main__":
    main()
