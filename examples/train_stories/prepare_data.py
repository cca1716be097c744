"""Turns the two TinyStories samples into clean, cased stories: a training set, and held-out stories.

The cased file separates stories by `<|endoftext|>`. The lower-cased file separates them by a single newline, repeats
the cased file's stories first and carries cp1252 mojibake; its stories are mended, re-cased by what the cased file
teaches, and joined to the training set. The held-out stories come from the cased file; no training story shares more
than a tenth of its eight-word runs with any of them.

    python prepare_data.py --cased tinystories_sample_2MB.txt --lower tinystories_lowercase_4MB.txt --out data/
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

from recase import Recaser

MOJIBAKE = {
    "â€œ": '"',
    "â€˜": "'",
    "â€™": "'",
    "â€¦": "...",
    "â€“": "-",
    "â€”": "-",
    "â€\x9d": '"',
    "â€": '"',
    "ã±": "ñ",
    "ã©": "é",
    "ã³": "ó",
    "ã¡": "á",
}
TYPOGRAPHY = str.maketrans({"“": '"', "”": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "–": "-", "—": "-", "…": "..."})
OPENING = re.compile(
    r"(once|one (sunny |rainy |hot |cold )?(day|morning|night|evening|afternoon|time)|there (once )?(was|were))\b"
)
RUN_LENGTH = 8


def clean(text: str) -> str:
    """Plain quotes and dashes, single spaces, one newline between paragraphs."""
    for broken, mended in MOJIBAKE.items():
        text = text.replace(broken, mended)
    text = text.translate(TYPOGRAPHY)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r'(?<=\w)"(?=(s|t|m|re|ve|ll|d)\b)', "'", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def split_cased(text: str) -> list[str]:
    return [story for story in (clean(part) for part in text.split("<|endoftext|>")) if story]


def split_lowercase(text: str) -> list[str]:
    """Stories of the lower-cased file.

    Stories end in a single newline, but some stories use single newlines inside too. A piece starts a new story when
    it opens like one, or when it is as long as a story and the piece before it did not end in a space (a line break
    inside a story mostly has one before it; a story's end never has).
    """
    stories: list[str] = []
    previous = "."
    for piece in re.split(r"(?<!\n)\n(?!\n)", text):
        is_continuation = previous[-1:].isspace() or len(piece) < 350
        if stories and is_continuation and not OPENING.match(piece):
            stories[-1] += "\n" + piece
        else:
            stories.append(piece)
        previous = piece or previous
    return [clean(story) for story in stories]


def is_whole(story: str) -> bool:
    """Whether a story has a story's length, ends where a sentence ends, and closes its quotes."""
    return 250 <= len(story) <= 3000 and story[-1] in '.!?"' and story.count('"') % 2 == 0


def is_plain(story: str) -> bool:
    """Whether the story is written in printable ASCII: what is left over after mending is damage."""
    return all(character == "\n" or " " <= character <= "~" for character in story)


def word_runs(story: str) -> set[str]:
    words = re.findall(r"[a-z]+", story.lower())
    return {" ".join(words[start : start + RUN_LENGTH]) for start in range(max(1, len(words) - RUN_LENGTH + 1))}


def without_overlap(stories: Iterable[str], known: set[str], largest_share: float) -> list[str]:
    """The stories of which at most `largest_share` of the eight-word runs are in `known`."""
    kept = []
    for story in stories:
        runs = word_runs(story)
        if len(runs & known) <= largest_share * len(runs):
            kept.append(story)
    return kept


def without_repeats(stories: Iterable[str]) -> list[str]:
    """Drops every story of which more than half of the eight-word runs were seen in stories before it."""
    kept: list[str] = []
    seen: set[str] = set()
    for story in stories:
        runs = word_runs(story)
        if 2 * len(runs & seen) <= len(runs):
            kept.append(story)
            seen |= runs
    return kept


def prepare(cased_text: str, lower_text: str, num_held_out: int, seed: int) -> dict[str, list[str]]:
    """The stories by set: `validation` (to watch training), `test` (to report), `cased` and `recased` (to train on)."""
    cased = without_repeats(story for story in split_cased(cased_text) if is_whole(story) and is_plain(story))
    chosen = random.Random(seed).sample(range(len(cased)), num_held_out)
    held_out = [cased[index] for index in chosen]
    held_out_runs = set().union(*map(word_runs, held_out))
    training = [story for index, story in enumerate(cased) if index not in chosen]
    training = without_overlap(training, held_out_runs, 0.1)
    cased_runs = set().union(*map(word_runs, split_cased(cased_text)))
    lower = [story for story in split_lowercase(lower_text) if is_whole(story) and is_plain(story)]
    lower = without_repeats(without_overlap(lower, cased_runs | held_out_runs, 0.1))
    recaser = Recaser.learn(training)
    return {
        "validation": held_out[: num_held_out // 3],
        "test": held_out[num_held_out // 3 :],
        "cased": training,
        "recased": [recaser.recase(story) for story in lower],
    }


def read_stories(path: Path) -> list[str]:
    """Stories of a `.jsonl` file: one JSON string a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_stories(path: Path, stories: Iterable[str]) -> None:
    path.write_text("".join(json.dumps(story) + "\n" for story in stories))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cased", type=Path, required=True)
    parser.add_argument("--lower", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = prepare(options.cased.read_text(), options.lower.read_text(), options.held_out, options.seed)
    for name, stories in sets.items():
        write_stories(options.out / f"{name}.jsonl", stories)
        print(f"{name}: {len(stories)} stories, {sum(map(len, stories)):,} characters")


if __name__ == "__main__":
    main()
