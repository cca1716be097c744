"""How much of a predicted text comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.text.prediction import PredictedText, PredictionCount

FILE = list(range(100, 160))


def count(predicted: list[int], output: list[int]) -> int:
    counted = PredictionCount(PredictedText(predicted))
    counted.push(output)
    assert counted.num_accepted + counted.num_rejected == len(predicted)
    return counted.num_accepted


def test_what_comes_in_its_order_is_counted() -> None:
    assert count(FILE, FILE) == 60
    assert count(FILE, FILE[:7]) == 7
    assert count(FILE, [1, 2, 3]) == 0
    assert count(FILE, [*FILE[:20], 1, 2, *FILE[24:]]) == 56, "some changed"
    assert count(FILE, [*FILE[:20], 1, 2, *FILE[20:]]) == 60, "some put in"
    assert count(FILE, [*FILE[:20], *FILE[30:]]) == 50, "some left out"
    assert count(FILE, [1, 2, *FILE[5:]]) == 55
    assert count(FILE, [*FILE, *FILE]) == 60, "each once"
    assert count(FILE, FILE[::-1]) <= 1


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 9)))
def test_it_does_not_depend_on_how_the_output_comes(predicted: list[int], output: list[int], sizes: list[int]) -> None:
    whole = count(predicted, output)
    assert 0 <= whole <= min(len(predicted), len(output))
    counted = PredictionCount(PredictedText(predicted))
    rest = output
    for size in sizes:
        counted.push(rest[:size])
        rest = rest[size:]
    counted.push(rest)
    assert counted.num_accepted == whole
