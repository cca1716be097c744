"""Each token's part of a text, whatever the steps were and wherever characters are cut."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as some

from headrace.server.dialects.tokens import TokenTexts, top_tokens
from headrace.types import Logprob

PIECES = [b"a", b" b", "ë".encode(), *(bytes([byte]) for byte in "—🦔".encode()), b"<end>", b"\xff"]
SERVED = SimpleNamespace(
    special_ids=lambda: frozenset({PIECES.index(b"<end>")}),
    token_bytes=lambda token_id: PIECES[token_id],
    token_text=lambda token_id: PIECES[token_id].decode("utf-8", "replace"),
)


@given(some.lists(some.integers(0, len(PIECES) - 1), min_size=1), some.data())
def test_put_together_they_are_the_text_however_they_came(ids: list[int], data: some.DataObject) -> None:
    cuts = sorted(data.draw(some.lists(some.integers(0, len(ids)))))
    texts = TokenTexts(SERVED)
    shown = []
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        shown += texts.push(ids[start:end], None, is_last=end == len(ids))
    assert "".join(token.text for token in shown) == b"".join(PIECES[i] for i in ids).decode("utf-8", "replace")
    assert shown == TokenTexts(SERVED).push(ids, None, is_last=True)


def test_a_character_of_several_tokens_belongs_to_its_last() -> None:
    ids = [0, 3, 4, 5, 1, PIECES.index(b"<end>")]
    shown = TokenTexts(SERVED).push(ids, None, is_last=True)
    assert [token.text for token in shown] == ["a", "", "", "—", " b", "<end>"]
    assert [token.is_special for token in shown] == [False] * 5 + [True]


def test_log_probabilities_are_numbers_of_json() -> None:
    position = {0: Logprob(float("-inf"), 3), 1: Logprob(-0.5, 1), 2: Logprob(-1.0, 2)}
    [token] = TokenTexts(SERVED).push([0], [position], is_last=True)
    assert token.logprob == -9999.0
    assert [(top.text, top.logprob) for top in top_tokens(position, 2, SERVED)] == [(" b", -0.5), ("ë", -1.0)]
