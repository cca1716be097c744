"""Texts that are too long to be made tokens of, and lists of strings that every token would be compared with."""

from __future__ import annotations

import pytest

from headrace import LLM
from headrace.errors import RequestError
from headrace.sampling_params import SamplingParams
from headrace.text.tokenizer import Tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    found = LLM("stories").tokenizer
    assert found is not None
    return found


def test_a_text_beyond_the_limit_is_refused_however_it_comes(tokenizer: Tokenizer) -> None:
    tokenizer.most_characters = 10
    for encode in (
        tokenizer.encode,
        tokenizer.spans,
        lambda text: tokenizer.encode_batch(["a", text]),
        lambda text: tokenizer.encode_parts([("a", text)], max_tokens=4),
    ):
        encode("a" * 10)
        with pytest.raises(RequestError, match="11 characters, expected at most 10"):
            encode("a" * 11)


def test_many_texts_are_the_same_tokens_in_any_groups(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Once upon a time number {number}" * (number % 3) for number in range(50)]
    pairs = [(text, "a dog") for text in texts]
    whole, parts = tokenizer.encode_batch(texts), tokenizer.encode_parts([*texts, *pairs], max_tokens=20)
    monkeypatch.setattr("headrace.text.tokenizer._GROUP", 60)
    assert tokenizer.encode_batch(texts) == whole == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_parts([*texts, *pairs], max_tokens=20) == parts


@pytest.mark.parametrize(
    ("name", "most", "most_characters"),
    [("stop", 256, 4096), ("bad_words", 1024, 16_384), ("dry_sequence_breakers", 1024, 16_384)],
)
def test_strings_of_a_request_are_bounded(name: str, most: int, most_characters: int) -> None:
    SamplingParams(**{name: ["a"] * most})
    SamplingParams(**{name: ["a" * most_characters]})
    for strings in (["a"] * (most + 1), ["a" * (most_characters + 1)]):
        with pytest.raises(RequestError, match="expected at most") as caught:
            SamplingParams(**{name: strings})
        assert caught.value.param == name
