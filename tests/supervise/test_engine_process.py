"""The engine's process killed, failing, stuck: streams go on as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import faulty_child
import pytest
from waiting import until

from headrace import LLM, AsyncLLM, SamplingParams, StructuredOutput
from headrace.errors import DeadlyRequest, EngineError, ModelError
from headrace.supervise.lives import Supervision

FAULTY = Supervision(stall_seconds=5.0, command=(sys.executable, faulty_child.__file__))
PROMPT = "Once upon a time"


def params(number: int) -> SamplingParams:
    structured = StructuredOutput(regex="[a-z ]{60,80}") if number % 3 == 2 else None
    temperature = float(number % 2)
    return SamplingParams(
        temperature=temperature, seed=number, max_tokens=90, structured=structured, n=1 + number % 2, logprobs=2
    )


@pytest.fixture(scope="module")
def undisturbed() -> list[list[tuple[str, list[int]]]]:
    with LLM("stories") as llm:
        outputs = llm.generate([PROMPT] * 12, [params(number) for number in range(12)], use_tqdm=False)
    return [[(one.text, one.token_ids) for one in output.outputs] for output in outputs]


@pytest.fixture
async def llm() -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM("stories", supervision=FAULTY) as llm:
        yield llm


def pid_of(llm: AsyncLLM) -> int | None:
    process = llm._engine._process  # type: ignore[attr-defined]
    return None if process is None else process.pid


async def test_streams_go_on_when_the_process_is_killed(
    llm: AsyncLLM, undisturbed: list[list[tuple[str, list[int]]]]
) -> None:
    moments = random.Random(0)
    tasks = [asyncio.create_task(llm.generate(PROMPT, params(number))) for number in range(12)]
    for _ in range(6):
        await asyncio.sleep(moments.uniform(0.0, 0.4))
        if (pid := pid_of(llm)) is not None:
            os.kill(pid, signal.SIGKILL)
    outputs = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert [[(one.text, one.token_ids) for one in output.outputs] for output in outputs] == undisturbed
    for output in outputs:
        assert all(len(one.logprobs) == len(one.token_ids) for one in output.outputs)
    assert llm.restarts.count >= 2
    assert "SIGKILL" in llm.restarts.reason
    assert llm.restarts.seconds_to_next_token > 0


@pytest.mark.parametrize("name", ["KILLS", "KILLS_LATER", "RAISES", "STALLS", "EATS"])
async def test_a_request_that_kills_is_refused_and_the_others_go_on(
    llm: AsyncLLM, undisturbed: list[list[tuple[str, list[int]]]], name: str
) -> None:
    good = [asyncio.create_task(llm.generate(PROMPT, params(number))) for number in range(4)]
    poison = asyncio.create_task(
        llm.generate([getattr(faulty_child, name), 1, 2], SamplingParams(max_tokens=20, ignore_eos=True))
    )
    with pytest.raises(DeadlyRequest, match="died of this request more than once"):
        await asyncio.wait_for(poison, 90)
    outputs = await asyncio.wait_for(asyncio.gather(*good), 60)
    assert [[(one.text, one.token_ids) for one in output.outputs] for output in outputs] == undisturbed[:4]
    await until(lambda: llm.trouble is None)  # the last death may have come with nobody else left to wait for
    again = await llm.generate(PROMPT, params(0))
    assert again.outputs[0].text == undisturbed[0][0][0]


async def test_counters_go_on_over_a_restart(llm: AsyncLLM) -> None:
    await llm.generate(PROMPT, SamplingParams(max_tokens=5, ignore_eos=True))
    os.kill(pid_of(llm), signal.SIGKILL)
    await llm.generate(PROMPT, SamplingParams(max_tokens=5, ignore_eos=True))
    assert llm.stats().generation_tokens == 10


async def test_cancelling_frees_the_process(llm: AsyncLLM) -> None:
    stream = llm.submit(PROMPT, SamplingParams(max_tokens=400, ignore_eos=True))
    async for _ in stream:
        break
    stream.cancel()
    await until(lambda: llm.stats().num_running == 0)


async def test_closing_ends_streams_and_the_process() -> None:
    llm = AsyncLLM("stories", supervision=Supervision())
    stream = llm.submit(PROMPT, SamplingParams(max_tokens=400, ignore_eos=True))
    async for _ in stream:
        break
    pid = pid_of(llm)
    await llm.close()
    with pytest.raises(EngineError, match="closed"):
        async for _ in stream:
            pass
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EngineError, match="closed"):
        llm.submit(PROMPT, SamplingParams())


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        AsyncLLM(tmp_path, supervision=Supervision())


def test_a_process_that_ends_while_it_loads_says_so() -> None:
    with pytest.raises(EngineError, match="ended while it loaded the model: it exited with status 3"):
        AsyncLLM("stories", supervision=Supervision(command=(sys.executable, "-c", "raise SystemExit(3)")))


async def test_two_kills_from_outside_do_not_condemn_what_gives_nothing_before_its_end(llm: AsyncLLM) -> None:
    search = SamplingParams(beam_width=16, n=2, temperature=0.0, max_tokens=450, ignore_eos=True)
    with LLM("stories") as plain:
        expected = [one.text for one in plain.generate(PROMPT, search, use_tqdm=False)[0].outputs]
    task = asyncio.create_task(llm.generate(PROMPT, search))
    for kills in (1, 2):
        await until(lambda: llm.trouble is None and llm.stats().num_running > 0)
        os.kill(pid_of(llm), signal.SIGKILL)
        await until(lambda kills=kills: llm.restarts.count == kills)
    output = await asyncio.wait_for(task, 60)
    assert [one.text for one in output.outputs] == expected


async def test_a_search_on_trial_lets_others_in(llm: AsyncLLM) -> None:
    search = SamplingParams(beam_width=16, n=2, temperature=0.0, max_tokens=450, ignore_eos=True)
    searching = [asyncio.create_task(llm.generate(PROMPT, search)) for _ in range(4)]
    await until(lambda: llm.stats().num_running > 0)
    os.kill(pid_of(llm), signal.SIGKILL)
    await until(lambda: llm.restarts.count == 1 and llm.trouble is None)
    output = await asyncio.wait_for(llm.generate(PROMPT, SamplingParams(max_tokens=3, ignore_eos=True)), 60)
    assert len(output.outputs[0].token_ids) == 3
    assert not all(task.done() for task in searching)
    for task in searching:
        task.cancel()
    await asyncio.gather(*searching, return_exceptions=True)
