"""Stop strings: how a text is cut never changes where it stops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.text.stop import StopStrings


def reference(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Read the text character by character; the longest stop string that ends there wins."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


def run(parts: list[str], stops: list[str], include: bool) -> tuple[str, str | None]:
    stop_strings = StopStrings(stops, include)
    out = []
    for part in parts:
        text, matched = stop_strings.push(part)
        out.append(text)
        if matched is not None:
            assert stop_strings.push("more") == ("", matched)
            assert stop_strings.flush() == ""
            return "".join(out), matched
    out.append(stop_strings.flush())
    return "".join(out), None


@settings(max_examples=600, deadline=None)
@given(
    parts=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    include=st.booleans(),
)
def test_any_cutting_gives_the_same(parts: list[str], stops: list[str], include: bool) -> None:
    text = "".join(parts)
    expected = reference(text, stops, include)
    assert run(parts, stops, include) == expected
    assert run([text], stops, include) == expected
    assert run(list(text), stops, include) == expected


@settings(max_examples=300, deadline=None)
@given(text=st.text("ab", max_size=20), stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_only_what_may_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    stop_strings = StopStrings(stops)
    seen = out = ""
    for character in text:
        seen += character
        final, matched = stop_strings.push(character)
        out += final
        if matched is not None:
            return
        held = seen[len(out) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
        assert not any(seen.endswith(stop[:size]) for stop in stops for size in range(len(held) + 1, len(stop)))


@pytest.mark.parametrize(
    ("parts", "stops", "include", "expected"),
    [
        (["Hello\n", "\nUser", ": x"], ["\n\nUser:"], False, ("Hello", "\n\nUser:")),
        (["Hello\n", "\nUser", ": x"], ["\n\nUser:"], True, ("Hello\n\nUser:", "\n\nUser:")),
        (["Hello\n\nUs"], ["\n\nUser:"], False, ("Hello\n\nUs", None)),
        (["abcd"], ["bc", "abcd"], False, ("a", "bc")),  # "bc" is complete first
        (["xabc"], ["bc", "abc", "c"], False, ("x", "abc")),  # all end here: the longest
        (["a", "a", "b"], ["ab"], False, ("a", "ab")),
        (["anything"], [], False, ("anything", None)),
        (["naïve 🦙", "🦙 end"], ["🦙🦙"], False, ("naïve ", "🦙🦙")),
    ],
)
def test_examples(parts: list[str], stops: list[str], include: bool, expected: tuple[str, str | None]) -> None:
    assert run(parts, stops, include) == expected


def test_text_is_not_held_without_need() -> None:
    stop_strings = StopStrings(["END"])
    assert stop_strings.push("the E") == ("the ", None)
    assert stop_strings.push("N") == ("", None)
    assert stop_strings.push("T") == ("ENT", None)
    assert stop_strings.push("x") == ("x", None)
