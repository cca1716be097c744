"""Given continuations: their log-probabilities are those of a plain prompt, and each token is computed once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import VOCABULARY, drain, make_engine, make_request

from headrace.types import FinishReason, Request

PROMPT = list(range(1, 40))
CONTINUATIONS = ((5,), (6,), (7, 8), (7, 9), (7, 9, 3, 4), tuple(range(20)), tuple(range(19, -1, -1)))


def scoring(prompt: list[int], continuations: tuple[tuple[int, ...], ...], id_: str = "a") -> Request:
    longest = max(len(each) for each in continuations)
    return replace(make_request(id_, prompt, max_tokens=longest), continuations=continuations)


def plain(prompt: list[int], continuation: tuple[int, ...]) -> list[float]:
    engine, _ = make_engine()
    engine.submit(make_request("a", [*prompt, *continuation], max_tokens=1, prompt_logprobs=0))
    [[output]] = drain(engine).values()
    entries = (output.prompt_logprobs or [])[len(prompt) :]
    return [entry[token_id].logprob for token_id, entry in zip(continuation, entries, strict=True) if entry]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_batch_tokens": 5},
        {"prefix_cache": False},
        {"num_blocks": 5},
        {"num_blocks": 5, "prefix_cache": False, "max_sequences": 2},
        {"max_sequences": 1},
    ],
)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 39])
def test_scores_are_those_of_a_plain_prompt(settings: dict[str, int], length: int) -> None:
    engine, _ = make_engine(**settings)
    engine.submit(scoring(PROMPT[:length], CONTINUATIONS))
    engine.submit(make_request("beside", [3, 2, 1], max_tokens=30))
    outputs = drain(engine)
    [output] = outputs["a", 0]
    assert output.scores == [plain(PROMPT[:length], each) for each in CONTINUATIONS]  # to the bit
    assert (output.token_ids, output.finish_reason) == ([], FinishReason.STOP)
    assert engine.stats().kv_blocks_used == 0
    assert len([token for each in outputs["beside", 0] for token in each.token_ids]) == 30


def test_every_token_is_computed_once() -> None:
    for continuations, tokens in (
        (((5,), (6,), (7,)), 0),  # all is in the prompt's last row
        (((5, 1), (5, 2), (6,)), 1),
        (((5, 1, 1), (5, 2), (6, 1)), 3),  # 5 1 and 6
        (((5, 1, 1), (5, 2, 1), (6, 1)), 5),  # 5 is the path of two
        (CONTINUATIONS, 3 + 19 + 19),
    ):
        engine, decoder = make_engine()
        engine.submit(scoring(PROMPT, continuations))
        drain(engine)
        assert decoder.num_tokens == len(PROMPT) + tokens
    again = make_engine()
    for index in range(2):
        again[0].submit(scoring(PROMPT, CONTINUATIONS, f"r{index}"))
        outputs = drain(again[0])
    assert outputs["r1", 0][0].num_cached_tokens == 32


def test_cancelling_frees_everything() -> None:
    for steps in range(6):
        engine, _ = make_engine(max_batch_tokens=16)
        engine.submit(scoring(PROMPT, CONTINUATIONS))
        for _ in range(steps):
            engine.step()
        engine.cancel("a")
        assert not engine.has_work
        assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("seed", range(10))
def test_many_at_once_in_a_tight_place(seed: int) -> None:
    random = np.random.default_rng(seed)
    requests = []
    for index in range(5):
        labels = {tuple(random.integers(0, VOCABULARY, random.integers(1, 20)).tolist()) for _ in range(6)}
        prompt = random.integers(0, VOCABULARY, random.integers(1, 60)).tolist()
        requests.append(scoring(prompt, tuple(labels), f"r{index}"))
    engine, _ = make_engine(
        num_blocks=int(random.integers(5, 12)), max_sequences=int(random.integers(1, 8)),
        max_batch_tokens=int(random.integers(1, 40)), prefix_cache=bool(random.integers(2)),
    )  # fmt: skip
    for request in requests:
        engine.submit(request)
    outputs = drain(engine)
    for request in requests:
        [output] = outputs[request.id, 0]
        prompt = list(request.prompt_token_ids)
        assert output.scores == [plain(prompt, each) for each in request.continuations]
    assert engine.stats().kv_blocks_used == 0
