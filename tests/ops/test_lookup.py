"""Prompt lookup: what is guessed, and how sure it is; the native one says what the reference says, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ops.cpu import CpuOps
from headrace.ops.reference import ReferenceOps
from headrace.ops.reference_lookup import ReferenceLookup

OPS: dict[str, Any] = {"native": CpuOps(1), "reference": ReferenceOps()}


@pytest.fixture(params=OPS)
def backend(request: pytest.FixtureRequest) -> Any:
    return OPS[request.param]


def followed(backend: Any, text: list[int], num_entered: int, looks: Sequence[int] = ()) -> Any:
    """A lookup that has seen the text; `looks` are the lengths of the text at which it looked."""
    lookup = backend.new_lookup(text[:num_entered])
    for end in [*looks, len(text)]:
        backend.follow([lookup], [text[:end]], 0.0)
    return lookup


def test_a_copy_is_guessed_and_gets_surer(backend: Any) -> None:
    source = np.random.default_rng(0).permutation(200).tolist()
    text, chances, lookup = list(source), [], backend.new_lookup(source)
    for at in range(50, 100):
        text.append(source[at])
        if backend.follow([lookup], [text], 0.0):
            assert lookup.guess(8) == source[at + 1 : at + 9]
            chances.append(sum(lookup.chances(8)))
    assert len(chances) == 49  # two tokens are a match
    assert chances[::10] == sorted(chances[::10])
    assert chances[0] < 0.5
    assert chances[-1] > 5


def test_only_those_that_are_sure_enough_are_told(backend: Any) -> None:
    text = list(range(50)) * 2
    lookups = [backend.new_lookup(text[:50]), backend.new_lookup(text[:1]), backend.new_lookup([])]
    texts = [text, list(range(90)), text[:73]]
    assert backend.follow(lookups, texts, 0.0) == [0, 2]
    first = [lookup.chances(1) for lookup in lookups]
    assert first[1] == []
    assert backend.follow(lookups, texts, first[0][0]) == [0]
    assert backend.follow(lookups, texts, 0.98) == []


def test_what_repeats_itself_is_guessed_without_end(backend: Any) -> None:
    assert followed(backend, [9, 1, 2, 3, 1, 2, 3, 1], 1).guess(7) == [2, 3, 1, 2, 3, 1, 2]


def test_the_latest_match_wins(backend: Any) -> None:
    assert followed(backend, [1, 2, 3, 1, 2, 4, 1, 2], 1).guess(1) == [4]


def test_without_a_match_nothing_is_guessed(backend: Any) -> None:
    lookup = followed(backend, [1, 2, 3], 1)
    assert lookup.guess(4) == []
    assert lookup.chances(4) == []


def test_a_text_does_not_get_shorter(backend: Any) -> None:
    lookup = backend.new_lookup([1, 2, 3])
    with pytest.raises(ValueError, match="shorter"):
        backend.follow([lookup], [[1, 2]], 0.0)


@pytest.mark.parametrize(
    ("edit", "goes_on"),
    [([77], 13), ([], 13), ([12, 77], 13)],
    ids=["a word changed", "a word left out", "a word put in"],
)
def test_behind_an_edit_the_copy_goes_on(backend: Any, edit: list[int], goes_on: int) -> None:
    source = list(range(30))
    text = [*source, *source[2:12], *edit, goes_on]
    assert followed(backend, text, 29).guess(3) == [goes_on + 1, goes_on + 2, goes_on + 3]


@pytest.mark.parametrize(("num_others", "is_found"), [(1, True), (3, True), (4, False), (9, False)])
def test_behind_a_long_edit_one_token_alone_is_no_match(backend: Any, num_others: int, is_found: bool) -> None:
    source = list(range(30))
    text = [*source, *source[2:12], *range(100, 100 + num_others), 13]
    assert bool(followed(backend, text, 29).guess(1)) is is_found


def test_guesses_that_fail_become_unlikely() -> None:
    text = np.random.default_rng(1).integers(0, 5, 400).tolist()
    lookup = followed(OPS["reference"], text, 0)
    assert sum(lookup._chances[0:3]) / 3 < 0.3


texts = st.lists(st.integers(0, 6), min_size=2, max_size=120)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 119), st.lists(st.integers(1, 119), max_size=10))
def test_it_does_not_matter_how_often_it_looks(text: list[int], num_entered: int, cuts: list[int]) -> None:
    num_entered = min(num_entered, len(text) - 1)
    looks = sorted(cut for cut in cuts if num_entered <= cut < len(text))
    often, once = (followed(OPS["reference"], text, num_entered, each) for each in (looks, []))
    assert vars(often) == vars(once)


@settings(max_examples=500, deadline=None)
@given(texts, st.integers(0, 119), st.integers(0, 20))
def test_native_and_reference_say_the_same(text: list[int], num_entered: int, count: int) -> None:
    num_entered = min(num_entered, len(text) - 1)
    lookups = {name: ops.new_lookup(tuple(text[:num_entered])) for name, ops in OPS.items()}
    for end in range(num_entered, len(text) + 1):
        found = {name: ops.follow([lookups[name]], [text[:end]], 0.3) for name, ops in OPS.items()}
        assert found["native"] == found["reference"]
        assert lookups["native"].chances(count) == lookups["reference"].chances(count)
        assert lookups["native"].guess(count) == lookups["reference"].guess(count)


@pytest.mark.parametrize("num_entered", [0, 1, 4000])
def test_native_and_reference_say_the_same_of_long_texts(num_entered: int) -> None:
    """Of many different tokens: the table of pairs grows, and chains of collisions are cut by the growth."""
    random = np.random.default_rng(3)
    text = random.integers(0, 1 << 18, 6000).tolist()
    for at in random.integers(1000, 5900, 60):
        source = int(random.integers(0, at - 60))
        text[at : at + 40] = text[source : source + 40]
    native, reference = OPS["native"].new_lookup(text[:num_entered]), ReferenceLookup(text[:num_entered])
    num_guesses = 0
    for end in range(num_entered, len(text)):
        found = bool(OPS["native"].follow([native], [text[:end]], 0.0))
        assert found == (reference.follow(text[:end]) > 0)
        if found:
            assert (native.guess(5), native.chances(5)) == (reference.guess(5), reference.chances(5))
            num_guesses += 1
    assert num_guesses > 300


@pytest.mark.parametrize(
    ("others", "texts", "error"),
    [
        ([None], [[2], [1]], (TypeError, RuntimeError)),
        ([1], [[2], [1]], (TypeError, RuntimeError)),
        ([], [], ValueError),
        ([], [["a"]], (TypeError, RuntimeError)),
        ([], [[1 << 40]], (TypeError, RuntimeError)),
        ([], [7], (TypeError, RuntimeError)),
    ],
)
def test_what_is_no_text_is_refused(others: list[Any], texts: list[Any], error: Any) -> None:
    with pytest.raises(error):
        OPS["native"].follow([OPS["native"].new_lookup([]), *others], texts, 0.0)


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(1, 20))
def test_a_guess_followed_the_last_tokens_once(text: list[int], count: int) -> None:
    lookup = followed(OPS["reference"], text, 0)
    guessed, chances = lookup.guess(count), lookup.chances(count)
    if not guessed:
        return
    assert len(guessed) == count
    assert len(chances) <= count
    assert chances == sorted(chances, reverse=True)
    last = text[-min(lookup._length, 2) :]
    both = [*text, *guessed]
    assert any(both[at : at + len(last) + 1] == [*last, guessed[0]] for at in range(len(text) - len(last)))
