"""The bundled story model: its size, tokenizer and chat template, and that it has learned to tell stories."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "headrace" / "hub" / "stories"
SCRIPTS = ROOT / "examples" / "train_stories"
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a red ball. One day, Lily went to the park with her "
    "mom. She saw a big dog. The dog wanted to play with the ball.\nLily was scared, but her mom said, \"Don't worry, "
    'Lily. The dog is nice." Lily threw the ball and the dog ran to get it. They played all day and became friends.'
)


def read(name: str) -> Any:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def test_the_package_carries_a_small_model_and_its_card() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 6_000_000
    assert (MODEL / "loss.png").stat().st_size < 60_000
    card = (MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in ("## Data", "## Training", "loss.png", "stories260k", "## Samples", "## Licence"):
        assert part in card
    assert 1000 <= TOKENIZER.get_vocab_size() <= 4096
    assert read("config.json")["vocab_size"] == TOKENIZER.get_vocab_size()


def test_the_chat_template_is_the_one_in_the_repository() -> None:
    assert read("tokenizer_config.json")["chat_template"] == (SCRIPTS / "chat_template.jinja").read_text()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=300, deadline=None)
def test_any_text_goes_through_the_tokenizer_unchanged(text: str) -> None:
    if "<|" not in text:
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
    return model, transformers.AutoTokenizer.from_pretrained(MODEL)


def render(tokenizer: Any, *contents: str) -> str:
    messages = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": content}
        for index, content in enumerate(contents)
    ]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=len(contents) % 2 == 1, tokenize=False))


def test_a_chat_is_rendered_as_it_was_trained(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    assert render(tokenizer, " A cat ") == "<|begin|><|user|>A cat<|story|>"
    two = "<|begin|><|user|>A cat<|story|>Once.<|end|><|user|>more<|story|>"
    assert render(tokenizer, "A cat", "Once.", "more") == two
    assert render(tokenizer, "hi", "gone", "A cat", "Once.", "more") == two
    assert render(tokenizer, "A cat", "Once.", "more", "End.") == two + "End.<|end|>"
    long = render(tokenizer, "A cat", "x" * 400 + "y" * 1000, "more")
    assert long == f"<|begin|><|user|>A cat<|story|>{'y' * 1000}<|end|><|user|>more<|story|>"


def test_messages_that_the_model_cannot_use_are_refused(loaded: tuple[Any, Any]) -> None:
    jinja2 = pytest.importorskip("jinja2")
    user, system = {"role": "user", "content": "hi"}, {"role": "system", "content": "Be nice."}
    for messages, reason in (([system, user], "takes no system message"), ([user, user], "take turns")):
        with pytest.raises(jinja2.TemplateError, match=reason):
            loaded[1].apply_chat_template(messages, tokenize=False)


def test_a_story_is_likely_and_its_words_in_disorder_are_not(loaded: tuple[Any, Any]) -> None:
    torch = pytest.importorskip("torch")
    model, tokenizer = loaded

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(model(ids, labels=ids).loss)

    assert loss(STORY) < 2.0
    assert loss(" ".join(reversed(STORY.split()))) > 4.0


def greedy(loaded: tuple[Any, Any], prompt: str, max_tokens: int) -> str:
    model, tokenizer = loaded
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**ids, do_sample=False, max_new_tokens=max_tokens)[0, ids.input_ids.shape[1] :]
    return str(tokenizer.decode(output))


def test_a_story_comes_to_its_end(loaded: tuple[Any, Any]) -> None:
    story = greedy(loaded, "<|begin|>Once upon a time", 400)
    assert story.endswith("<|end|>")
    assert len(story) > 150
    assert story.removesuffix("<|end|>")[-1] in '.!?"'


@pytest.mark.parametrize("animal", ["cat", "dog"])
def test_requests_steer_the_story(loaded: tuple[Any, Any], animal: str) -> None:
    assert animal in greedy(loaded, render(loaded[1], f"Tell me a story about a {animal}."), 40)


@pytest.mark.slow
def test_held_out_loss_is_what_the_card_says(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(SCRIPTS)
    names = ("evaluate", "prepare_data", "model", "recase")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    evaluate, prepare_data = importlib.import_module("evaluate"), importlib.import_module("prepare_data")
    text = shared / "data" / "text"
    cased, lower = (text / f"tinystories_{name}.txt" for name in ("sample_2MB", "lowercase_4MB"))
    test = prepare_data.prepare(cased.read_text(), lower.read_text(), 150, seed=7)["test"]
    bits = evaluate.bits_per_character(*evaluate.load_model(MODEL), test)
    for name in names:
        sys.modules.pop(name, None)
    assert f"**{bits:.3f}**" in (MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
