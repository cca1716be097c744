"""Messages between the processes: whole or not at all, and nothing but the types that are named."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import errors
from headrace.engine.stats import EngineStats
from headrace.errors import EngineError, HeadraceError, RequestError
from headrace.pooled import PoolingOutput
from headrace.sampling_params import SamplingParams
from headrace.supervise.wire import (
    Cancel,
    Fault,
    Frames,
    Stepped,
    Submit,
    Vector,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from headrace.types import AdapterRef, Emitted, FinishReason, Logprob, Request, StepOutput, Thinking

REQUEST = Request(
    id="r",
    prompt_token_ids=(1, 2, 3),
    params=SamplingParams(n=2, logit_bias={5: 1.5}, stop=["a", "b"], bad_words=["x"], mirostat=2),
    seed=2**63 - 1,
    max_tokens=7,
    eos_token_ids=frozenset({0, 2}),
    grammar="start: /a/",
    thinking=Thinking(open="<t>", close="</t>", closing="\n</t>", behind="", is_open=True, most=4),
    bad_phrases=((1,), (2, 3)),
    adapter=AdapterRef("name", 3),
    resume=(Emitted((4, 5), 3.25), Emitted(has_ended=True)),
)


def payload(data: bytes) -> bytes:
    (one,) = Frames().feed(data)
    return one


def test_requests_and_outputs_arrive_as_they_were_sent() -> None:
    assert decode_to_engine(payload(encode(Submit(REQUEST)))) == Submit(REQUEST)
    outputs = [
        StepOutput("r", 1, [7, 8], [{7: Logprob(-0.5, 1), 9: Logprob(-1e30, 2)}], finish_reason=FinishReason.LENGTH),
        StepOutput("s", 0, [], scores=[[-0.25], [-1.0, -2.0]], prompt_logprobs=[None, {3: Logprob(-2.0, 9)}]),
    ]
    message = Stepped(outputs, EngineStats.none())
    assert decode_from_engine(payload(encode(message))) == message


@given(st.lists(st.text(max_size=300), max_size=8), st.lists(st.integers(1, 50)))
def test_however_the_stream_is_cut_the_messages_are_the_same(names: list[str], cuts: list[int]) -> None:
    messages = [Cancel(name, None) for name in names]
    stream = b"".join(map(encode, messages))
    frames, found = Frames(), []
    for cut in [*cuts, len(stream)]:
        part, stream = stream[:cut], stream[cut:]
        found += [decode_to_engine(one) for one in frames.feed(part)]
    assert found == messages


def test_a_message_that_is_torn_off_is_not_delivered() -> None:
    data = encode(Submit(REQUEST))
    assert list(Frames().feed(data[:-1])) == []


@pytest.mark.parametrize("junk", [b"", b"\x80", b"\x81\xa4type\xa4Evil", b"\x93\x01\x02\x03", b"cos\nsystem\n"])
def test_what_is_no_message_is_refused(junk: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_to_engine(junk)


def test_vectors_keep_every_bit() -> None:
    values = np.random.default_rng(0).standard_normal(33).astype(np.float32)
    output = Vector.of(PoolingOutput("p", values)).output()
    assert output.values.tobytes() == values.tobytes()
    output.values[0] = 1.0  # writable, as the engine's own


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeadraceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_keep_their_kind(kind: type[HeadraceError]) -> None:
    error = kind("what happened", param="name") if issubclass(kind, RequestError) else kind("what happened")
    again = Fault.of(error).error()
    assert (type(again), str(again)) == (kind, "what happened")
    assert getattr(again, "param", None) == getattr(error, "param", None)


@pytest.mark.parametrize("kind", ["SystemExit", "os", "annotations", "__import__", ""])
def test_unknown_kinds_are_engine_errors(kind: str) -> None:
    assert type(Fault(kind, "text").error()) is EngineError
