"""The waiting queue in front of an engine that does nothing by itself, under a clock that stands still."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headrace.engine.stats import EngineStats
from headrace.errors import DoesNotFit, EngineError, QueueFull
from headrace.pooled import PoolingOutput, PoolingRequest
from headrace.sampling_params import SamplingParams
from headrace.server.access import Tenant
from headrace.server.admission import Admission
from headrace.server.answer_room import LOGPROB_BYTES, TOKEN_BYTES, AnswerRoom
from headrace.server.caller import CALLER, Caller
from headrace.server.waiting import AdmissionLimits
from headrace.types import AdapterRef, FinishReason, Request, StepOutput


class Port:
    """An engine: notes what it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.cancelled: list[tuple[str, int | None]] = []
        self.unloaded: list[AdapterRef] = []
        self.error: EngineError | None = None
        self.trouble = None

    def submit(self, request: Request) -> None:
        if self.error is not None:
            raise self.error
        self.given.append(request)

    pool = submit

    def cancel(self, request_id: str, index: int | None = None) -> None:
        self.cancelled.append((request_id, index))

    def cancel_pooled(self, request_id: str) -> None:
        self.cancelled.append((request_id, None))

    def unload_adapter(self, adapter: AdapterRef) -> None:
        self.unloaded.append(adapter)

    def attach(self, *_: Any) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats.none()


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def take(self, outputs: list[StepOutput]) -> None:
        self.heard += [output.request_id for output in outputs]

    def take_pooled(self, outputs: list[PoolingOutput]) -> None:
        self.heard += [output.request_id for output in outputs]

    def drop(self, request_id: str, _: Exception) -> None:
        self.heard.append(f"dropped {request_id}")

    def fail(self, _: Exception) -> None:
        self.heard.append("failed")


class Bench:
    """An admission with everything around it. The engine runs `room` sequences, and eight more may lie ready."""

    def __init__(
        self, room: int = 1, requests: int = 100, tokens: int = 10**6, answer_bytes: int = 10**9, **limits: bool
    ) -> None:
        self.port, self.listener, self.now = Port(), Listener(), 0.0
        self.admission = Admission(
            self.port,
            AdmissionLimits(requests=requests, tokens=tokens, **limits),
            max_sequences=room,
            step_tokens=10,
            answers=AnswerRoom(answer_bytes, 512),
            clock=lambda: self.now,
        )
        self.admission.attach(self.listener, None)

    @property
    def given(self) -> list[str]:
        return [request.id for request in self.port.given]

    def ask(self, name: str, tenant: str = "t", caller: Caller | None = None, **of: Any) -> None:
        token = CALLER.set(caller or Caller(Tenant(tenant)))
        try:
            self.admission.submit(request(name, **of))
        finally:
            CALLER.reset(token)

    def fill(self) -> None:
        """Requests that run, until there is no more room."""
        number = 0
        while len(self.given) == number:
            self.ask(f"full-{number}", "filler")
            self.say(f"full-{number}", 1)
            number += 1
        self.admission.cancel(f"full-{number - 1}")

    def say(self, name: str, tokens: int, index: int = 0, ends: bool = False) -> StepOutput:
        reason = FinishReason.STOP if ends else None
        output = StepOutput(name, index, [0] * tokens, finish_reason=reason)
        self.admission.take([output])
        return output


def request(
    name: str,
    prompt: int = 10,
    max_tokens: int | None = 10,
    n: int = 1,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    **rest: Any,
) -> Request:
    return Request(
        id=name,
        prompt_token_ids=(1,) * prompt,
        params=SamplingParams(max_tokens=max_tokens, n=n, logprobs=logprobs, prompt_logprobs=prompt_logprobs),
        seed=0,
        max_tokens=max_tokens or 1000,
        **rest,
    )


def test_the_engine_gets_what_it_can_run_and_a_few_more() -> None:
    bench = Bench(room=1)
    bench.fill()
    assert len(bench.given) == 9
    bench.ask("next")
    assert bench.admission.stats().num_waiting == 1
    bench.now = 3.5
    bench.say("full-0", 1, ends=True)
    assert bench.given[-1] == "next"
    assert bench.admission.stats().num_waiting == 0
    assert bench.listener.heard[-1] == "full-0"
    assert bench.say("next", 1).seconds_waited == 3.5
    assert bench.say("next", 1).seconds_waited == 0


def test_a_request_takes_the_room_of_its_completions() -> None:
    bench = Bench(room=2)
    bench.ask("wide", n=6)
    bench.ask("wider", n=5)
    bench.ask("narrow", n=1)  # it has to wait its turn too: else who is wide would never run
    assert bench.given == ["wide"]
    for index in range(5):
        bench.say("wide", 1, index, ends=True)
    assert bench.given == ["wide"]
    bench.say("wide", 1, 5, ends=True)
    assert bench.given == ["wide", "wider", "narrow"]


def test_a_request_wider_than_all_room_runs_alone() -> None:
    bench = Bench(room=2)
    bench.ask("narrow")
    bench.ask("widest", n=50)
    assert bench.given == ["narrow"]
    bench.say("narrow", 1, ends=True)
    assert bench.given == ["narrow", "widest"]


def test_what_has_given_nothing_yet_keeps_the_next_ones_here() -> None:
    """Prompts of 30 tokens against steps of 10: the engine has enough to do, and who comes later may be more urgent."""
    bench = Bench(room=100)
    for number in range(20):
        bench.ask(f"r{number}", prompt=30)
    assert len(bench.given) == 8
    bench.say("r0", 1)
    assert len(bench.given) == 9
    assert bench.admission.waiting.tokens == 11 * 40
    short = Bench(room=100)
    for number in range(50):
        short.ask(f"r{number}", prompt=1)
    assert len(short.given) == 40


def test_a_full_queue_says_when_to_come_again() -> None:
    bench = Bench(room=1, requests=4)
    bench.fill()
    for number in range(4):
        bench.ask(f"w{number}")
    for number in range(2):  # two leave in ten seconds, in which two take their places
        bench.now += 5
        bench.say(f"full-{number}", 1, ends=True)
        bench.ask(f"v{number}")
    with pytest.raises(QueueFull, match="4 requests wait, and at most 4 may; try again in 10 s") as refused:
        bench.ask("late")
    assert refused.value.status == 429
    assert refused.value.retry_after == 10  # half of the queue, at a request in five seconds
    assert bench.admission.waiting.num_refused == 1
    bench.say("full-3", 1, ends=True)
    bench.ask("later")
    assert bench.admission.stats().num_waiting == 4


def test_tokens_are_limited_too() -> None:
    bench = Bench(room=1, tokens=100)
    bench.fill()
    bench.ask("one", prompt=50, max_tokens=20)
    with pytest.raises(QueueFull, match="70 tokens wait"):
        bench.ask("two", prompt=30, max_tokens=10)
    bench.ask("three", prompt=20, max_tokens=10)


def test_larger_than_the_queue_is_refused_for_good() -> None:
    bench = Bench(tokens=100)
    with pytest.raises(DoesNotFit, match="101 tokens of prompts and outputs, and this server queues at most 100"):
        bench.ask("huge", prompt=1, max_tokens=100)
    caller = Caller()
    bench.ask("part", caller=caller, prompt=60, max_tokens=10)
    with pytest.raises(DoesNotFit, match="divide it"):
        bench.ask("part 2", caller=caller, prompt=60, max_tokens=10)
    bench.admission.cancel("part")
    bench.ask("part 3", caller=caller, prompt=60, max_tokens=10)


def test_many_prompts_of_one_call_are_one_request() -> None:
    bench = Bench(room=1, requests=1)
    bench.fill()
    caller = Caller()
    for number in range(20):
        bench.ask(f"p{number}", caller=caller)
    with pytest.raises(QueueFull):
        bench.ask("another")
    for number in range(20):
        bench.admission.cancel(f"p{number}")
    bench.ask("another")
    assert bench.admission.waiting.callers == {"t": 1}


def test_one_tenant_cannot_fill_a_shared_queue() -> None:
    bench = Bench(room=1, requests=8, is_shared=True)
    bench.fill()
    for number in range(4):
        bench.ask(f"a{number}", "a")
    with pytest.raises(QueueFull, match="4 requests of this key wait, 4 in all"):
        bench.ask("a4", "a")
    bench.ask("b0", "b")
    bench.ask("b1", "b")
    with pytest.raises(QueueFull):
        bench.ask("b2", "b")
    bench.ask("c0", "c")


def test_tenants_share_what_becomes_free() -> None:
    bench = Bench(room=1)
    bench.fill()
    for number in range(30):
        bench.ask(f"many-{number}", "many", prompt=600)
    bench.ask("one", "one", prompt=600)
    for number in range(3):
        bench.say(f"full-{number}", 1, ends=True)
    assert "one" in bench.given


def test_a_priority_moves_a_request_among_its_tenants_only() -> None:
    bench = Bench(room=1, is_shared=True)
    bench.fill()
    bench.ask("a", "a", prompt=600)
    bench.ask("b", "b", prompt=600)
    bench.ask("b first", "b", prompt=600, priority=-5)
    bench.ask("a last", "a", prompt=10, priority=1)
    bench.ask("b later", "b", prompt=10, priority=1)
    for number in range(5):
        bench.say(f"full-{number}", 1, ends=True)
    assert bench.given[9:12] == ["a", "b first", "b"]
    assert set(bench.given[12:]) == {"a last", "b later"}
    assert [request.priority for request in bench.port.given[9:12]] == [0, 0, 0]  # the engine does not hear of it


def test_an_admin_can_let_priorities_count_against_everybody() -> None:
    bench = Bench(room=1, is_shared=True, priority_across_tenants=True)
    bench.fill()
    bench.ask("a", "a")
    bench.ask("b", "b", priority=-1)
    bench.say("full-0", 1, ends=True)
    assert (bench.given[-1], bench.port.given[-1].priority) == ("b", -1)


def test_who_leaves_while_waiting_is_forgotten() -> None:
    bench = Bench(room=1)
    bench.fill()
    bench.ask("leaves")
    bench.ask("stays")
    bench.admission.cancel("leaves")
    bench.admission.cancel("unknown")
    bench.say("full-0", 1, ends=True)
    assert bench.given[-1] == "stays"
    assert bench.port.cancelled == []
    bench.admission.cancel("stays")
    assert bench.port.cancelled == [("stays", None)]


def test_a_stop_string_ends_a_completion_here() -> None:
    """The engine is told to stop a sequence, and does not say that it has."""
    bench = Bench(room=1)
    bench.ask("r", n=9)
    bench.ask("next")
    for index in range(9):
        bench.admission.cancel("r", index)
    assert bench.given == ["r", "next"]
    assert bench.port.cancelled == [("r", index) for index in range(9)]


def test_answers_without_a_limit_count_with_what_they_usually_have() -> None:
    bench = Bench(room=1)
    bench.fill()
    bench.ask("long", prompt=4, max_tokens=None)
    assert bench.admission.waiting.tokens == 4 + 256
    bench.admission.cancel("long")
    for number in range(9):
        bench.say(f"full-{number}", 99, ends=True)
    bench.ask("wide", n=9)
    bench.ask("again", prompt=4, max_tokens=None)
    assert 100 < bench.admission.waiting.tokens < 4 + 256


def test_pooling_requests_wait_too() -> None:
    bench = Bench(room=100)
    for number in range(9):
        bench.admission.pool(PoolingRequest(id=f"p{number}", token_ids=(1,) * 30))
    assert len(bench.given) == 8
    bench.admission.take_pooled([PoolingOutput("p0", np.zeros(1, np.float32))])
    assert bench.given[-1] == "p8"
    bench.admission.cancel_pooled("p8")
    assert bench.port.cancelled == [("p8", None)]


def test_an_engine_that_is_gone_says_so_and_nothing_stays() -> None:
    bench = Bench(room=1)
    bench.fill()
    bench.ask("waits")
    bench.port.error = EngineError("gone")
    bench.admission.fail(bench.port.error)
    assert bench.listener.heard[-1] == "failed"
    with pytest.raises(EngineError, match="gone"):
        bench.ask("late")
    assert bench.admission.waiting.tokens == 0
    bench.port.error = None
    bench.ask("again")
    assert bench.given[-1] == "again"


def test_an_adapter_stays_until_nobody_waits_for_it() -> None:
    adapter = AdapterRef("tuned", 1)
    bench = Bench(room=1)
    bench.fill()
    bench.ask("r", adapter=adapter)
    bench.admission.unload_adapter(adapter)
    assert bench.admission.stats().waiting_adapters == ("tuned",)
    assert bench.port.unloaded == []
    bench.say("full-0", 1, ends=True)
    assert bench.given[-1] == "r"
    assert bench.port.unloaded == [adapter]


def test_used_tokens_are_counted_by_tenant() -> None:
    bench = Bench(room=5)
    bench.ask("r", "a", prompt=10, max_tokens=100)
    bench.say("r", 3)
    bench.say("r", 4, ends=True)
    assert bench.admission.tenant_tokens == {"a": 17}


def test_requests_go_on_as_they_came() -> None:
    bench = Bench()
    asked = request("r", priority=3)
    bench.admission.submit(asked)
    assert bench.port.given == [asked]
    assert replace(asked) == asked


TEN = TOKEN_BYTES + 11 * LOGPROB_BYTES
"""A token with ten log-probabilities beside its own"""


@pytest.mark.parametrize(
    ("of", "size", "param"),
    [
        ({"max_tokens": 50, "n": 4}, 200 * TOKEN_BYTES, "n"),
        ({"max_tokens": 50}, 50 * TOKEN_BYTES, "max_tokens"),
        ({"max_tokens": 50, "n": 2, "logprobs": 10}, 100 * TEN, "logprobs"),
        ({"max_tokens": 7, "logprobs": 2**31 - 1}, 7 * (TOKEN_BYTES + 513 * LOGPROB_BYTES), "logprobs"),
        ({"max_tokens": None, "prompt": 30, "prompt_logprobs": 10}, 30 * TEN, "prompt_logprobs"),
        ({"max_tokens": 5, "prompt": 30, "prompt_logprobs": 10}, 30 * TEN + 5 * TOKEN_BYTES, "prompt_logprobs"),
    ],
)
def test_an_answer_that_would_take_too_much_memory(of: dict[str, Any], size: int, param: str) -> None:
    Bench(answer_bytes=size).ask("r", **of)
    bench = Bench(answer_bytes=size - 1)
    with pytest.raises(DoesNotFit, match="ask for fewer log-probabilities, tokens, completions or prompts, or") as info:
        bench.ask("r", **of)
    assert info.value.param == param
    assert bench.given == []


def test_prompts_of_one_request_share_the_room_for_its_answer() -> None:
    bench, caller = Bench(answer_bytes=99 * TOKEN_BYTES), Caller()
    bench.ask("first", caller=caller, max_tokens=50)
    with pytest.raises(DoesNotFit):
        bench.ask("second", caller=caller, max_tokens=50)
    bench.ask("another's", max_tokens=50)


def test_an_answer_without_max_tokens_is_given_up_when_it_has_come_to_too_much() -> None:
    bench = Bench(answer_bytes=20 * TEN)
    bench.ask("r", max_tokens=None, n=2, logprobs=10)
    bench.say("r", 10, index=0)
    bench.say("r", 10, index=1)
    assert bench.port.cancelled == []
    bench.say("r", 1, index=0)
    assert bench.port.cancelled == [("r", None)]
    assert "dropped r" in bench.listener.heard
    bench.say("r", 1, index=1)  # on its way when it was cancelled
    assert bench.admission.tenant_tokens == {"t": 10 + 21}


def test_what_is_streamed_takes_no_room_but_its_prompts_log_probabilities() -> None:
    bench, caller = Bench(answer_bytes=20 * TEN), Caller(is_streamed=True)
    bench.ask("long", caller=caller, max_tokens=1000, logprobs=10)
    bench.ask("open", caller=caller, max_tokens=None, logprobs=10)
    bench.say("open", 1000)
    assert bench.port.cancelled == []
    with pytest.raises(DoesNotFit) as info:
        bench.ask("r", caller=caller, prompt=21, prompt_logprobs=10)
    assert "stream" not in str(info.value)
