"""What guessing is worth: the same batch with speculation and without, in turn, in one process; ends in one JSON line.

    python bench/speculation.py stories --batch 32
    python bench/speculation.py MODEL --batch 1 --tokens 300 --temperature 0 --edit FILE --replace OLD NEW
    python bench/speculation.py stories --draft stories

Without --edit the prompts are beginnings of stories, of which hardly anything repeats. With --edit the prompt is the
file, a request to repeat it with OLD replaced by NEW, and the beginning of the answer.

The outputs must be the same to the bit. `ratio` is of the fastest rounds, `median` of the pairs; `cpu` as `ratio`, of
processor time, for machines on which others work too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from headrace import LLM, EngineConfig, SamplingParams

NOUNS = (
    *("cat", "dog", "fox", "boy", "girl", "bird", "king", "bear", "car", "tree", "fish", "duck", "frog", "ant", "bee"),
    *("cow", "hen", "pig", "owl", "elf", "ship", "star", "moon", "sun", "rock", "ball", "kite", "book", "door", "hat"),
)
SHOWN = 60
"""Characters of the edited text with which the answer begins"""


def prompts_of(options: argparse.Namespace) -> list[str]:
    """One for each sequence."""
    if options.edit is None:
        return [f"Once upon a time there was a {NOUNS[at % len(NOUNS)]}" for at in range(options.batch)]
    text, (old, new) = options.edit.read_text()[: options.characters], options.replace
    answer = text.replace(old, new)[:SHOWN]
    prompt = f"Here is a text:\n\n{text}\n\nHere is the same text, with {old} replaced by {new}:\n\n{answer}"
    return [prompt] * options.batch


def run(llm: LLM, prompts: list[str], options: argparse.Namespace, seed: int) -> tuple[float, float, list[list[int]]]:
    """Seconds, seconds of processor time, and what came out."""
    params = SamplingParams(temperature=options.temperature, seed=seed, max_tokens=options.tokens, ignore_eos=True)
    started, cpu = time.perf_counter(), time.process_time()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started, time.process_time() - cpu
    return *seconds, [list(output.outputs[0].token_ids) for output in outputs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--draft", help="a draft model, on the side with speculation")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--edit", type=Path, help="a file to be repeated with a change")
    parser.add_argument("--replace", nargs=2, default=("the", "THE"), metavar=("OLD", "NEW"))
    parser.add_argument("--characters", type=int, default=2500, help="so many of the file's")
    options = parser.parse_args()
    prompts = prompts_of(options)
    sides = {
        "on": LLM(options.model, EngineConfig(threads=options.threads, draft=options.draft)),
        "off": LLM(options.model, EngineConfig(threads=options.threads, speculation="off")),
    }
    for llm in sides.values():
        run(llm, prompts, options, 0)
    before = sides["on"].stats()
    rounds: list[dict[str, tuple[float, float, list[list[int]]]]] = []
    for seed in range(1, options.rounds + 1):
        order = list(sides) if seed % 2 else list(reversed(sides))
        found = {side: run(sides[side], prompts, options, seed) for side in order}
        assert found["on"][2] == found["off"][2], "the outputs with and without speculation differ"
        rounds.append(found)
    after = sides["on"].stats()
    best = {side: [min(found[side][at] for found in rounds) for at in (0, 1)] for side in sides}
    result = {
        "model": Path(options.model).name,
        "draft": options.draft and Path(options.draft).name,
        "batch": options.batch,
        "temperature": options.temperature,
        "ratio": round(best["off"][0] / best["on"][0], 3),
        "median": round(statistics.median(found["off"][0] / found["on"][0] for found in rounds), 3),
        "cpu": round(best["off"][1] / best["on"][1], 3),
        "tokens_per_second": round(options.batch * options.tokens / best["on"][0], 1),
        "without": round(options.batch * options.tokens / best["off"][0], 1),
        "steps": after.num_steps - before.num_steps,
        "guesses": after.draft_tokens - before.draft_tokens,
        "right": after.accepted_tokens - before.accepted_tokens,
        "tokens": options.tokens,
        "rounds": options.rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
