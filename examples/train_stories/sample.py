"""Writes samples of a story model, as they come: plain and chat, greedy and with the model's sampling defaults.

python sample.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from headrace import LLM, SamplingParams

OPENINGS = ("Once upon a time", "One day, a little boy named Max")
REQUESTS = ("Tell me a story about a cat.", "Once upon a time there was a brave dog", "hello")
FOLLOW_UPS = ("What happened next?", "Tell me a story about a boat.")
SEED = 0


@dataclass(frozen=True)
class StorySample:
    """What was asked, how it was drawn, and what came."""

    title: str
    text: str


def plain_samples(llm: LLM, name: str, params: SamplingParams) -> list[StorySample]:
    outputs = llm.generate(list(OPENINGS), params)
    return [
        StorySample(f"Plain, {name}: “{opening}”", opening + output.outputs[0].text)
        for opening, output in zip(OPENINGS, outputs, strict=True)
    ]


def chat_samples(llm: LLM, name: str, params: SamplingParams) -> list[StorySample]:
    outputs = llm.chat([[{"role": "user", "content": request}] for request in REQUESTS], params)
    return [
        StorySample(f"Chat, {name}: “{request}”", output.outputs[0].text)
        for request, output in zip(REQUESTS, outputs, strict=True)
    ]


def second_turns(llm: LLM, first: StorySample, name: str, params: SamplingParams) -> list[StorySample]:
    """Answers to the follow-ups, after the first request and its story."""
    history = [{"role": "user", "content": REQUESTS[0]}, {"role": "assistant", "content": first.text}]
    outputs = llm.chat([[*history, {"role": "user", "content": follow_up}] for follow_up in FOLLOW_UPS], params)
    return [
        StorySample(f"Chat, {name}, second turn after the cat's story above: “{follow_up}”", output.outputs[0].text)
        for follow_up, output in zip(FOLLOW_UPS, outputs, strict=True)
    ]


def all_samples(folder: Path) -> list[StorySample]:
    """Every prompt once, greedy and with the model's defaults, at seed 0; the follow-ups with the defaults."""
    with LLM(folder) as llm:
        greedy = SamplingParams(temperature=0.0, max_tokens=None)
        default = replace(llm.default_params, max_tokens=None, seed=SEED)
        samples = []
        for name, params in (("greedy", greedy), ("default sampling", default)):
            samples += plain_samples(llm, name, params) + chat_samples(llm, name, params)
        about_cat = samples[-len(REQUESTS)]
        return samples + second_turns(llm, about_cat, "default sampling", default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    options = parser.parse_args()
    for sample in all_samples(options.folder):
        print(f"## {sample.title}\n\n{sample.text}\n")


if __name__ == "__main__":
    main()
