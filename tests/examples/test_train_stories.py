"""The scripts in examples/train_stories, end to end on a handful of made-up stories."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "train_stories"
NAMES = [
    *("recase", "prepare_data", "train_tokenizer", "story_requests", "samples", "model"),
    *("evaluate", "train", "export", "sample_stories"),
]

ANIMALS = ["dog", "cat", "frog", "bear", "fox", "duck", "goat", "owl"]
PEOPLE = ["Lily", "Tom", "Anna", "Ben", "Mia"]


class Scripts:
    """The scripts by name, imported from their folder for this file alone."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.__dict__.update(modules)


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    before = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(FOLDER))
    yield Scripts({name: importlib.import_module(name) for name in NAMES})
    torch.set_flush_denormal(False)  # training sets it, for all that follows in this process
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)
        if before[name] is not None:
            sys.modules[name] = before[name]


def story(number: int) -> str:
    """A story whose every run of eight words holds a word of its own."""
    generator = random.Random(number)
    odd = ["".join(generator.sample("abcdefghijklmnopqrstuvwxyz", 5)) for _ in range(10)]
    animal, person = ANIMALS[number % 8], PEOPLE[number % 5]
    return (
        f"Once upon a time a {odd[0]} {animal} had a {odd[1]}. The {animal} met {person} near {odd[2]} river.\n"
        f'"Is that your {odd[3]}?" asked {person}. "It looks like my {odd[4]} of gold!"\n'
        f"The {animal} said {odd[5]} and gave the {odd[6]} to {person}. They played with {odd[7]} until the sun "
        f'went {odd[8]} over the hill, and {odd[9]} the {animal} was glad. "What a {animal}!" said {person}.'
    )


@pytest.fixture(scope="module")
def data(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    for name, numbers in (("cased", range(40)), ("recased", range(40, 60)), ("validation", range(60, 64))):
        scripts.prepare_data.write_stories(out / f"{name}.jsonl", [story(number) for number in numbers])
    scripts.train_tokenizer.train_tokenizer([story(number) for number in range(60)], 400).save(
        str(out / "tokenizer.json")
    )
    return out


def options(data: Path, out: Path, steps: int) -> list[str]:
    sizes = "--hidden-size 64 --intermediate-size 96 --num-hidden-layers 2 --num-attention-heads 2"
    sizes += " --num-key-value-heads 1 --max-position-embeddings 256 --warmup-steps 2 --decay-steps 4"
    given = f"--data {data} --out {out} --steps {steps} --measure-every 3 --threads 1 --tokens-per-batch 1024 {sizes}"
    return ["train.py", *given.split()]


def run_train(scripts: Scripts, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    scripts.train.main()
    torch.set_num_threads(threads)


def test_prepare_splits_mends_and_separates(scripts: Scripts) -> None:
    stories = [story(number) for number in range(30)]
    lower = [text.lower().replace("\n", "\n\n") for text in [*stories, *map(story, range(30, 50))]]
    lower[40] = lower[40].replace('"', "â€œ", 1).replace('"', "â€\x9d", 1)
    sets = scripts.prepare_data.prepare("\n<|endoftext|>\n".join(stories), "\n".join(lower), 6, seed=1)
    assert [len(sets[name]) for name in ("validation", "test")] == [2, 4]
    assert not set(sets["validation"] + sets["test"]) & set(sets["cased"])
    assert set(sets["cased"]) | set(sets["validation"]) | set(sets["test"]) == set(stories)
    mended = [text.lower() for text in sets["recased"]]
    assert mended == [story(number).lower() for number in range(30, 50)]
    right = sum(text == story(number) for number, text in zip(range(30, 50), sets["recased"], strict=True))
    assert right >= 15


def test_near_copies_of_held_out_stories_are_not_trained_on(scripts: Scripts) -> None:
    held_out = story(1)
    copy = held_out.replace("the river", "a river").upper()
    runs = scripts.prepare_data.word_runs(held_out)
    assert scripts.prepare_data.without_overlap([copy, "A " * 9 + "different text"], runs, 0.1) == [
        "A " * 9 + "different text"
    ]


def test_recasing_follows_quotations_and_names(scripts: Scripts) -> None:
    cased = [
        'Then the dog saw Tom. "Hi!" said Tom. He ran. "Stop," she said, "or I go!" They sat. "No!" She left the cat.'
    ] * 3
    recaser = scripts.recase.Recaser.learn(cased)
    lowered = 'the cat saw tom. "stop!" said the dog. she met a girl named zelda. "hi," said zelda. i\'m glad.'
    expected = 'The cat saw Tom. "Stop!" said the dog. She met a girl named Zelda. "Hi," said Zelda. I\'m glad.'
    assert recaser.recase(lowered) == expected


def test_requests_come_from_the_story(scripts: Scripts) -> None:
    stories = [story(number) for number in range(60)]
    maker = scripts.story_requests.RequestMaker(stories)
    topics = maker.topics(story(0))
    assert "a dog" in topics
    assert "Lily" in topics
    assert not any("cat" in topic for topic in topics)


def test_labels_leave_out_what_the_model_is_told(scripts: Scripts, data: Path) -> None:
    tokenizer = scripts.samples.Tokenizer.from_file(str(data / "tokenizer.json"))
    parts = scripts.samples.turn("Tell me a story.", "Once.", is_whole=False) + scripts.samples.turn("more", "End.")
    (sample,) = scripts.samples.encode([parts], tokenizer, 512)
    learned = [label for label in sample.labels if label != scripts.samples.IGNORED]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "Once.End.<|end|>"
    whole = tokenizer.decode(sample.token_ids, skip_special_tokens=False)
    assert whole == "<|begin|><|user|>Tell me a story.<|story|>Once.<|end|><|user|>more<|story|>End.<|end|>"


def test_batches_hold_every_sample_once_within_their_budget(scripts: Scripts) -> None:
    generator = random.Random(3)
    made = [
        scripts.samples.Sample(ids, ids)
        for ids in ([number, *range(generator.randint(1, 199))] for number in range(200))
    ]
    batches = list(scripts.samples.batches(made, 256, generator))
    assert sorted(sample.token_ids[0] for batch in batches for sample in batch) == list(range(200))
    for batch in batches:
        inputs, labels = scripts.samples.collate(batch)
        assert inputs.numel() <= 256
        assert inputs.shape == labels.shape
        is_label = labels[:, :-1] != scripts.samples.IGNORED
        assert torch.equal(labels[:, :-1][is_label], inputs[:, 1:][is_label])
        assert int(is_label.sum()) == sum(len(sample.token_ids) - 1 for sample in batch)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    scripts: Scripts, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_train(scripts, monkeypatch, options(data, tmp_path / "whole", 12))
    run_train(scripts, monkeypatch, options(data, tmp_path / "broken", 12))
    whole = torch.load(tmp_path / "whole" / "checkpoint.pt")
    steady = tmp_path / "broken" / "steady.pt"
    assert torch.load(steady)["progress"][0] == 8
    steady.replace(tmp_path / "broken" / "checkpoint.pt")
    run_train(scripts, monkeypatch, [*options(data, tmp_path / "broken", 12), "--resume"])
    resumed = torch.load(tmp_path / "broken" / "checkpoint.pt")
    for kind in ("model", "average"):
        for name, tensor in whole[kind].items():
            assert torch.equal(tensor, resumed[kind][name]), name
    log = [json.loads(line) for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [3, 6, 9, 12]
    assert log[-1]["train_loss"] < log[0]["train_loss"] - 0.3


@pytest.mark.slow
def test_the_exported_folder_is_what_transformers_loads(
    scripts: Scripts, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    run_train(scripts, monkeypatch, options(data, tmp_path / "run", 3))
    tokenizer = scripts.samples.Tokenizer.from_file(str(data / "tokenizer.json"))
    scripts.export.export(tmp_path / "run" / "checkpoint.pt", tokenizer, tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ours, loaded = scripts.evaluate.load_model(tmp_path / "hf")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = story(61) + "\nÄ 😀 <b>"
    ids = loaded.encode(text).ids
    assert their_tokenizer(text).input_ids == ids
    assert their_tokenizer.decode(ids, skip_special_tokens=True) == text
    with torch.no_grad():
        torch.testing.assert_close(ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
    long = [0, *(number % 400 for number in range(600))]
    parts = [theirs(torch.tensor([long[start : start + 256]])) for start in (0, 128, 256, 384)]
    expected = nats(parts[0].logits, long[1:256]) + sum(
        nats(part.logits[:, 127:], long[start + 128 : start + 256])
        for part, start in zip(parts[1:], (128, 256, 384), strict=True)
    )
    assert scripts.evaluate.story_nats(ours, long) == pytest.approx(expected, rel=1e-4)


def nats(logits: torch.Tensor, targets: list[int]) -> float:
    losses = torch.nn.functional.cross_entropy(logits[0, : len(targets)], torch.tensor(targets), reduction="sum")
    return float(losses.detach())


def test_sampled_stories_are_judged_by_real_ones(scripts: Scripts) -> None:
    training = [story(number) for number in range(20)]
    judge = scripts.sample_stories.Judge.learn(training, [], shortest=60)
    sound = "The dog met Lily near the river. Lily played with the cat until the sun went over the hill."
    assert judge.fault(sound) is None
    assert judge.fault("The dog met Lily.") == "too short"
    assert judge.fault(sound + " The dragon slept.") == "unknown words"
    assert judge.fault(sound + ' "The dog.') == "open quotation"
    assert judge.fault(sound + " " + sound) == "repeats itself"
    assert judge.fault(training[3]) == "copies a real story"
    assert scripts.sample_stories.whole_sentences('He said, "Go." She did not w') == 'He said, "Go."'
    assert scripts.sample_stories.whole_sentences("no end") == ""


@pytest.mark.slow
def test_headrace_samples_a_batch_of_stories(scripts: Scripts) -> None:
    bundled = FOLDER.parents[1] / "src" / "headrace" / "hub" / "stories"
    prompts = ["Once upon a time", "One day, a little dog", "Once upon a time"]
    texts = scripts.sample_stories.sample(str(bundled), prompts, temperature=0.8, top_p=0.95, seed=5)
    assert [text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True)] == [True] * 3
    assert texts[0] != texts[2]
    assert texts == scripts.sample_stories.sample(str(bundled), prompts, temperature=0.8, top_p=0.95, seed=5)
