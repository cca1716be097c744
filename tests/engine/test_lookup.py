"""Prompt lookup: what is guessed, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine import lookup as module
from headrace.engine.lookup import PromptLookup


def followed(token_ids: list[int], num_prompt: int, cuts: list[int] | None = None) -> PromptLookup:
    """A lookup that has seen the tokens; `cuts` are the lengths of the text at which it looked."""
    lookup = PromptLookup(num_prompt)
    for end in [*(cuts or []), len(token_ids)]:
        while lookup._seen < end:
            lookup.follow(token_ids[:end])
    return lookup


def state(lookup: PromptLookup) -> tuple[object, ...]:
    return lookup._source, lookup._length, lookup._chances, lookup._after, lookup._lost, lookup._searches


def test_a_copy_is_guessed_and_gets_surer() -> None:
    source = np.random.default_rng(0).permutation(200).tolist()
    text, chances, lookup = list(source), [], PromptLookup(len(source))
    for at in range(50, 100):
        text.append(source[at])
        if lookup.follow(text):
            assert lookup.guess(text, 8) == source[at + 1 : at + 9]
            chances.append(sum(lookup.chances(8)))
    assert len(chances) == 49  # two tokens are a match
    assert chances[::10] == sorted(chances[::10])
    assert chances[0] < 0.5
    assert chances[-1] > 5


def test_what_repeats_itself_is_guessed_without_end() -> None:
    text = [9, 1, 2, 3, 1, 2, 3, 1]
    assert followed(text, 1).guess(text, 7) == [2, 3, 1, 2, 3, 1, 2]


def test_the_latest_match_wins() -> None:
    text = [1, 2, 3, 1, 2, 4, 1, 2]
    assert followed(text, 1).guess(text, 1) == [4]


@pytest.mark.parametrize(
    ("edit", "goes_on"),
    [([77], 13), ([], 13), ([12, 77], 13)],
    ids=["a word changed", "a word left out", "a word put in"],
)
def test_behind_an_edit_the_copy_goes_on(edit: list[int], goes_on: int) -> None:
    source = list(range(30))
    text = [*source, *source[2:12], *edit, goes_on]
    assert followed(text, len(source)).guess(text, 3) == [goes_on + 1, goes_on + 2, goes_on + 3]


@pytest.mark.parametrize(("num_others", "is_found"), [(1, True), (3, True), (4, False), (9, False)])
def test_behind_a_long_edit_one_token_alone_is_no_match(num_others: int, is_found: bool) -> None:
    source = list(range(30))
    text = [*source, *source[2:12], *range(100, 100 + num_others), 13]
    lookup, has_guess = PromptLookup(len(source)), False
    while lookup._seen < len(text):
        has_guess = lookup.follow(text)
    assert has_guess is is_found


def test_guesses_that_fail_become_unlikely() -> None:
    random = np.random.default_rng(1)
    text = random.integers(0, 5, 400).tolist()
    lookup = followed(text, 1)
    assert sum(lookup._chances[0:3]) / 3 < 0.3


texts = st.lists(st.integers(0, 6), min_size=2, max_size=120)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 119), st.lists(st.integers(1, 119), max_size=10))
def test_it_does_not_matter_how_often_it_looks(text: list[int], num_prompt: int, cuts: list[int]) -> None:
    num_prompt = min(num_prompt, len(text) - 1)
    looks = sorted(cut for cut in cuts if num_prompt < cut < len(text))
    assert state(followed(text, num_prompt, looks)) == state(followed(text, num_prompt))


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(1, 9))
def test_a_long_prompt_is_taken_in_slices(text: list[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PROMPT_SLICE", size)
        lookup = PromptLookup(len(text))
        looks = 1
        while not lookup.follow(text) and lookup._seen < len(text):
            looks += 1
    assert looks <= len(text) // size + 2
    assert state(lookup) == state(followed(text, len(text)))


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(1, 20))
def test_a_guess_followed_the_last_tokens_once(text: list[int], count: int) -> None:
    lookup = PromptLookup(1)
    if not lookup.follow(text):
        return
    guessed = lookup.guess(text, count)
    chances = lookup.chances(count)
    assert len(guessed) == count
    assert len(chances) <= count
    assert chances == sorted(chances, reverse=True)
    last = text[-min(lookup._length, 2) :]
    both = [*text, *guessed]
    assert any(both[at : at + len(last) + 1] == [*last, guessed[0]] for at in range(len(text) - len(last)))
