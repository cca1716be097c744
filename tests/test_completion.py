"""An open request gives the same whether its tokens come one in a step or several."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.completion import Collector, OpenRequest
from headrace.hub.resolve import resolve_model
from headrace.sampling_params import SamplingParams
from headrace.text.tokenizer import Tokenizer
from headrace.types import FinishReason, Logprob, Request, RequestOutput, StepOutput

EOS = 1
STOP_ID = 300


@cache
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_files(resolve_model("stories"))
    assert found is not None
    return found


def as_engine(request: Request, token_ids: list[int], cuts: list[int]) -> list[StepOutput]:
    """What the engine makes of drawn tokens, cut into steps of the given sizes, the last size again and again."""
    outputs: list[StepOutput] = []
    ended, at = None, 0
    while ended is None:
        size = cuts[min(len(outputs), len(cuts) - 1)]
        own: list[int] = []
        while ended is None and len(own) < size:
            own.append(token_ids[at])
            at += 1
            is_stop = own[-1] in request.eos_token_ids or own[-1] in (request.params.stop_token_ids or ())
            if is_stop and at > request.params.min_tokens:
                ended = FinishReason.STOP
            elif at == request.max_tokens:
                ended = FinishReason.LENGTH
        logprobs = [{each: Logprob(-0.1 * each / 7, 1)} for each in own]
        outputs.append(StepOutput(request.id, 0, own, logprobs=logprobs, finish_reason=ended))
        if ended is FinishReason.STOP:
            outputs[-1].stop_token_id = own[-1]
    return outputs


def run(request: Request, token_ids: list[int], cuts: list[int]) -> tuple[RequestOutput, Any]:
    opened = OpenRequest(request, "", tokenizer())
    collector = Collector(opened)
    for output in as_engine(request, token_ids, cuts):
        chunk = opened.push(output)
        if chunk is not None:
            collector.push(chunk)
    assert opened.is_finished
    return collector.result(), opened.usage


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_steps_of_any_size_are_steps_of_one(data: st.DataObject) -> None:
    vocabulary = tokenizer().vocab_size
    ids = st.one_of(st.integers(2, vocabulary - 1), st.integers(2, 258), st.sampled_from([EOS, STOP_ID]))
    token_ids = data.draw(st.lists(ids, min_size=1, max_size=30))
    text = tokenizer().decode(token_ids)
    pieces = [text[at : at + size] for at in range(0, len(text), 3) for size in (1, 2, 5)] or ["x"]
    params = SamplingParams(
        stop=data.draw(st.lists(st.sampled_from(pieces), max_size=3)),
        stop_token_ids=data.draw(st.sampled_from([None, [STOP_ID]])),
        include_stop_str_in_output=data.draw(st.booleans()),
        min_tokens=data.draw(st.integers(0, len(token_ids))),
        max_tokens=len(token_ids),
        logprobs=0,
    )
    request = Request(
        id="a",
        prompt_token_ids=(2, 3),
        params=params,
        seed=0,
        max_tokens=len(token_ids),
        eos_token_ids=frozenset([EOS]),
    )
    cuts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    assert run(request, token_ids, cuts) == run(request, token_ids, [1])
