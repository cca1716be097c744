"""The sampler's parameters in the engine: histories with drafts, sets and phrases, mirostat's state."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from eager import guessing
from toy import VOCABULARY, drain, ids, make_engine, make_request

from headrace.engine.rows import Row
from headrace.engine.sampling import SamplingTable
from headrace.engine.sequence import Sequence
from headrace.types import Emitted, Request

MIXES = (
    {"dry_multiplier": 2.0, "dry_allowed_length": 1, "no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1, "typical_p": 0.8},
    {"allowed_token_ids": list(range(0, VOCABULARY, 3)), "dry_multiplier": 1.0, "repetition_penalty": 1.3},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02, "dynatemp_range": 0.5, "min_tokens": 4, "logit_bias": {5: 3.0}},
    {"top_n_sigma": 1.5, "frequency_penalty": 0.5, "penalty_last_n": 5},
    {},
)


def _requests(**more: object) -> list[Request]:
    random = np.random.default_rng(1)
    requests = []
    for at, mix in enumerate(MIXES):
        prompt = random.integers(0, 6 if at % 2 else VOCABULARY, int(random.integers(3, 30))).tolist()
        plain = make_request(f"r{at}", prompt, max_tokens=25, n=2, **mix, **more)
        phrases = ((7,), (3, 4), (1, 1, 2)) if at < 4 else ()
        requests.append(replace(plain, bad_phrases=phrases, dry_breakers=((9,), (10,), (2, 3))))
    return requests


def _run(requests: list[Request], drafter: object = None, **settings: object) -> dict[tuple[str, int], list[int]]:
    engine, _ = make_engine(**settings)
    if drafter is not None:
        engine._drafting.draft = drafter
    for request in requests:
        engine.submit(request)
    outputs = {key: ids(each) for key, each in drain(engine).items()}
    if "num_blocks" in settings:
        assert engine.stats().num_preemptions > 0
    return outputs


@pytest.mark.parametrize("mirostat", [0, 2])
def test_neither_the_batch_nor_preemption_changes_a_token(mirostat: int) -> None:
    requests = _requests(mirostat=mirostat, mirostat_tau=3.0)
    alone = {key: tokens for request in requests for key, tokens in _run([request]).items()}
    assert _run(requests) == alone
    assert _run(requests[::-1], num_blocks=10, max_context=144) == alone


@pytest.mark.parametrize("seed", range(3))
def test_drafts_change_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    requests = _requests()
    plain = _run(requests, lambda sequences: None)
    assert _run(requests, guessing(plain, random)) == plain


def test_what_is_forbidden_does_not_come() -> None:
    for (id_, _), tokens in _run(_requests()).items():
        at = int(id_[1:])
        if at < 4:
            assert 7 not in tokens
            assert (3, 4) not in pairwise(tokens)
            assert (1, 1, 2) not in zip(tokens, tokens[1:], tokens[2:], strict=False)
        if at == 1:
            assert len(set(tokens)) == len(tokens)
        if at == 2:
            assert all(token % 3 == 0 for token in tokens)


def test_a_sequence_with_mirostat_goes_on_from_its_state() -> None:
    request = make_request("a", [1, 2, 3], max_tokens=40, n=3, mirostat=2, mirostat_tau=2.0, mirostat_eta=0.5)
    engine, _ = make_engine()
    engine.submit(request)
    whole = drain(engine)
    cuts = (7, 0, 39)
    resumed = replace(
        request,
        resume=tuple(
            Emitted(tuple(ids(whole["a", i])[:cut]), whole["a", i][cut - 1].mirostat_mu if cut else None)
            for i, cut in enumerate(cuts)
        ),
    )
    rest = _run([resumed])
    for i, cut in enumerate(cuts):
        assert rest["a", i] == ids(whole["a", i])[cut:]
    assert len({output.mirostat_mu for output in whole["a", 0]}) > 30
    other = replace(resumed, resume=tuple(replace(each, mirostat_mu=4.0) for each in resumed.resume))
    assert _run([other])["a", 0] != rest["a", 0]


def test_without_mirostat_there_is_no_state() -> None:
    engine, _ = make_engine()
    engine.submit(make_request("a", [1, 2, 3]))
    assert {output.mirostat_mu for output in drain(engine)["a", 0]} == {None}


def test_tables_are_laid_out_again_only_when_their_sequences_change() -> None:
    table = SamplingTable(8, VOCABULARY)
    requests = _requests()
    sequences = [Sequence(request, 0, at) for at, request in enumerate(requests)]
    for row, sequence in enumerate(sequences):
        sequence.row = row
    first = table.batch([Row(sequence) for sequence in sequences])
    for sequence in sequences:
        sequence.token_ids.append(11)
    second = table.batch([Row(sequence) for sequence in sequences])
    assert second.token_sets is first.token_sets
    fewer = table.batch([Row(sequences[2])])
    assert len(fewer.token_sets) == 2 < len(first.token_sets)
    assert fewer.history[-1] == 11
    again = table.batch([Row(sequence) for sequence in sequences])
    assert np.array_equal(again.rows, second.rows)
    assert np.array_equal(again.history, second.history)
    assert np.array_equal(again.token_sets, second.token_sets)


def test_rows_behind_drafts_see_them() -> None:
    table = SamplingTable(1, VOCABULARY)
    sequence = Sequence(make_request("a", [1, 2], repetition_penalty=2.0), 0, 0)
    sequence.row = 0
    sequence.drafts = [5, 6]
    batch = table.batch([Row(sequence, at) for at in range(3)])
    seen = [batch.history[row["history_start"] : row["history_end"]].tolist() for row in batch.rows]
    assert seen == [[1, 2], [1, 2, 5], [1, 2, 5, 6]]
    assert batch.rows["output_start"].tolist() == [2, 2, 2]
    sequence.drafts = []
    sequence.token_ids.append(9)
    batch = table.batch([Row(sequence)])
    assert batch.history.tolist() == [1, 2, 9]
