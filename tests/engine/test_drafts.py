"""Drafts and constraints: what a sequence produces depends on its constraint, never on the drafts."""

from __future__ import annotations

import numpy as np
import pytest
from eager import Free, guessing
from toy import VOCABULARY, ToyDecoder, drain, ids, make_engine, make_request

from headrace.engine.constraint import Mask
from headrace.engine.drafting import Drafting
from headrace.engine.gain import StepCosts
from headrace.engine.sequence import Sequence
from headrace.ops.reference import ReferenceOps
from headrace.types import Emitted, Request


class Ladder:
    """Each token is followed by one of the three after it; after a multiple of 8 come the next two without a choice."""

    def __init__(self) -> None:
        self.last = 0
        self.pushed: list[int] = []
        self.fills = 0

    def _allowed(self) -> list[int]:
        steps = (1,) if self.last % 8 in (0, 1) else (1, 2, 3)
        return [(self.last + step) % VOCABULARY for step in steps]

    def fill(self, mask: Mask) -> bool:
        self.fills += 1
        assert (mask == 0xFFFFFFFF).all()
        mask[:] = 0
        for token_id in self._allowed():
            mask[token_id // 32] |= np.uint32(1 << token_id % 32)
        return True

    def push(self, token_id: int) -> bool:
        if token_id not in self._allowed():
            return False
        self.pushed.append(self.last)
        self.last = token_id
        return True

    def pop(self, count: int) -> None:
        for _ in range(count):
            self.last = self.pushed.pop()

    def take(self, token_id: int, remaining: int) -> int:
        assert token_id in self._allowed()
        assert not self.pushed
        if remaining == 1:
            token_id = self._allowed()[0]  # the way to the end
        self.last = token_id
        return token_id

    is_complete = is_closed = False

    def forced(self, most: int) -> list[int]:
        tokens, last = [], self.last
        while last % 8 in (0, 1) and len(tokens) < most:
            last = (last + 1) % VOCABULARY
            tokens.append(last)
        return tokens


def _run(
    requests: list[Request], drafter: object = None, **settings: object
) -> tuple[dict[tuple[str, int], list[int]], ToyDecoder]:
    engine, decoder = make_engine(new_constraint=lambda request: Ladder() if "l" in request.id else None, **settings)
    if drafter is not None:
        engine._drafting.draft = drafter
    for request in requests:
        engine.submit(request)
    outputs = {key: ids(each) for key, each in drain(engine).items()}
    return outputs, decoder


def test_a_constraint_holds_and_what_has_no_choice_costs_no_pass() -> None:
    request = make_request("l", [1, 2, 3], max_tokens=60)
    outputs, decoder = _run([request])
    tokens = outputs["l", 0]
    assert len(tokens) == 60
    for before, after in zip([0, *tokens], tokens, strict=False):
        assert (after - before) % VOCABULARY in ((1,) if before % 8 in (0, 1) else (1, 2, 3))
    assert len(decoder.batches) < 45
    assert tokens[-1] == (tokens[-2] + 1) % VOCABULARY


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prompt_logprobs", [None, 2])
def test_drafts_change_nothing(seed: int, prompt_logprobs: int | None) -> None:
    random = np.random.default_rng(seed)
    requests = [
        make_request(
            f"{'l' if at % 2 else 'r'}{at}",
            random.integers(0, VOCABULARY, int(random.integers(1, 40))).tolist(),
            max_tokens=int(random.integers(1, 30)),
            repetition_penalty=1.3,
            min_tokens=1,
            n=2,
            logprobs=1,
            prompt_logprobs=prompt_logprobs,
        )
        for at in range(6)
    ]
    tight = {"max_batch_tokens": 32, "num_blocks": 18}
    plain, one_by_one = _run(requests, lambda sequences: None, **tight)
    drafted, decoder = _run(requests, guessing(plain, random), **tight)  # some are right, some wrong, some forbidden
    assert drafted == plain
    assert _run(requests)[0] == plain
    assert len(decoder.batches) < len(one_by_one.batches)


def test_logprobs_belong_to_their_tokens() -> None:
    request = make_request("r", [5, 6], max_tokens=12, logprobs=3, temperature=0.0)
    plain, _ = make_engine()
    plain.submit(request)
    expected = [entry for output in drain(plain)["r", 0] for entry in output.logprobs or []]
    right = [max(entry, key=lambda token: entry[token].logprob) for entry in expected]

    drafted, _ = make_engine()
    drafted._drafting.draft = lambda sequences: [
        setattr(s, "drafts", right[s.num_output :][: min(3, 11 - s.num_output)]) for s in sequences
    ]
    drafted.submit(request)
    outputs = drain(drafted)["r", 0]
    assert len(outputs) < 6
    assert [entry for output in outputs for entry in output.logprobs or []] == expected


def test_a_resumed_request_goes_on_within_its_constraint() -> None:
    request = make_request("l", [1, 2, 3], max_tokens=40)
    whole = _run([request])[0]["l", 0]
    resumed = Request(
        id="l2",
        prompt_token_ids=(1, 2, 3),
        params=request.params,
        seed=7,
        max_tokens=40,
        resume=(Emitted(tuple(whole[:17])),),
    )
    assert _run([resumed])[0]["l2", 0] == whole[17:]


def test_a_token_that_ends_the_sequence_ends_the_drafts_behind_it() -> None:
    plain = _run([make_request("r", [9], max_tokens=12)])[0]["r", 0]
    stop = plain[5]
    request = make_request("r", [9], max_tokens=12, stop_token_ids=[stop])

    def all_right(sequences: list[Sequence]) -> None:
        for s in sequences:
            s.drafts = plain[s.num_output :][: 11 - s.num_output]

    outputs, decoder = _run([request], all_right)
    assert outputs["r", 0] == plain[: plain.index(stop) + 1]
    assert len(decoder.batches) == 2  # the prompt, and all the rest


def test_a_sequence_that_was_put_back_and_begins_again_has_no_guesses() -> None:
    drafting = Drafting(ReferenceOps(), rope_switch=None, guesses=True)
    drafting._costs = Free()
    sequence = Sequence(make_request("r", [1, 2, 3] * 7), 0, 0)
    sequence.num_computed = 20
    drafting.draft([sequence])
    assert sequence.drafts
    sequence.drafts, sequence.num_computed = [], 0  # as the scheduler does
    drafting.learn({sequence: 16}, {}, 1.0)
    assert drafting.draft_tokens == 0


class Resting:
    """A draft model that is never worth its passes."""

    costs = StepCosts()

    def chance(self, sequence: Sequence) -> float:
        return 0.0

    def release_ended(self) -> None:
        pass

    def guess(self, sequences: list[Sequence], count: int) -> dict[Sequence, list[int]]:
        return {}

    def follow(self, sequences: list[Sequence]) -> list[Sequence]:
        return sequences


@pytest.mark.parametrize("num_new", [10, 20, 30, 45, 70])
def test_a_draft_model_that_rests_does_not_keep_the_own_text_from_guessing(num_new: int) -> None:
    drafting = Drafting(ReferenceOps(), rope_switch=None, guesses=True, model=Resting())
    drafting._model.costs.observe(1, 1.0)
    sequence = Sequence(make_request("r", list(range(20)), max_tokens=400), 0, 0)
    sequence.row = 0
    guessed: list[bool] = []
    for step in range(num_new + 40):
        sequence.token_ids.append(1000 + step if step < num_new else (step - num_new) % 20)  # then the prompt again
        sequence.num_computed = len(sequence.token_ids) - 1
        drafting.draft([sequence])
        guessed.append(bool(sequence.drafts))
        num_tokens = 1 + len(sequence.drafts)
        drafting.learn({sequence: num_tokens}, {sequence: [0] * num_tokens}, 1.0)
    assert sum(guessed[num_new:]) > 20


class Useless(Resting):
    """A draft model whose guesses are always wrong, and which says that they are right."""

    def __init__(self) -> None:
        self.num_passes = 0
        self.believed = 0.9

    def chance(self, sequence: Sequence) -> float:
        return self.believed

    def learn(self, sequence: Sequence, num_guesses: int, num_right: int) -> None:
        self.believed *= 0.8

    def guess(self, sequences: list[Sequence], count: int) -> dict[Sequence, list[int]]:
        self.num_passes += 1
        return {sequence: [1] * count for sequence in sequences}


def test_a_draft_model_that_is_not_worth_it_rests_until_its_losses_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes as long as a step, so that each look at it costs; afterwards steps without are counted."""
    clock = [0.0]
    monkeypatch.setattr("headrace.engine.drafting.time.perf_counter", lambda: clock[0])
    model = Useless()
    guess = model.guess

    def slow(sequences: list[Sequence], count: int) -> dict[Sequence, list[int]]:
        clock[0] += count
        return guess(sequences, count)

    model.guess = slow  # type: ignore[method-assign]
    drafting = Drafting(ReferenceOps(), rope_switch=None, guesses=True, model=model)
    sequence = Sequence(make_request("r", [1, 2], max_tokens=9000), 0, 0)
    sequence.row = 0
    seconds = 0.0
    for step in range(4000):
        sequence.token_ids.append(1000 + step)
        sequence.num_computed = len(sequence.token_ids) - 1
        started = clock[0]
        drafting.draft([sequence])
        num_tokens = 1 + len(sequence.drafts)
        took = clock[0] - started + 1.0 + 0.2 * len(sequence.drafts)
        drafting.learn({sequence: num_tokens}, {sequence: [0]}, took)
        seconds += took
    assert model.num_passes > 8  # it is tried again
    assert 4000 / seconds > 0.97
