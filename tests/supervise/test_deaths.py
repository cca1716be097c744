"""What may happen around a death: cancellations, adapters, other files, other moments."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import faulty_child
import numpy as np
import psutil
import pytest
from test_engine_process import FAULTY, PROMPT, pid_of
from waiting import until

from headrace import LLM, AsyncLLM, EngineConfig, SamplingParams, StructuredOutput
from headrace.errors import EngineError, RequestError
from headrace.hub.resolve import resolve_model
from headrace.supervise.lives import Supervision

LONG = SamplingParams(temperature=1.0, seed=5, max_tokens=300, ignore_eos=True)
SHORT = SamplingParams(temperature=1.0, seed=6, max_tokens=20, ignore_eos=True)


@pytest.fixture
async def llm() -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM("stories", supervision=FAULTY) as llm:
        yield llm


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model, with two adapters beside it."""
    source = resolve_model("stories").folder
    assert source is not None
    folder = tmp_path_factory.mktemp("model") / "stories"
    shutil.copytree(source, folder)
    for seed, name in enumerate(["first", "second", "deadly"]):
        an_adapter(folder.parent / name, folder, seed)
    return folder


def an_adapter(folder: Path, model: Path, seed: int) -> Path:
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(seed)
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if name.endswith("down_proj.weight"):
            rows, columns = weight.shape
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = rng.standard_normal((4, columns)).astype(np.float32) * 0.3
            tensors[f"{module}.lora_B.weight"] = rng.standard_normal((rows, 4)).astype(np.float32) * 0.3
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


async def new_pid(llm: AsyncLLM) -> int:
    """Of the engine's process, once there is one; it loads the model then."""
    await until(lambda: pid_of(llm) is not None)
    pid = pid_of(llm)
    assert pid is not None
    return pid


async def kill(llm: AsyncLLM) -> None:
    """Kill the engine's process, once there is one, and wait until the server knows."""
    pid = await new_pid(llm)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid_of(llm) != pid)


async def begun(stream: Any) -> str:
    chunk = await anext(stream)
    return str(chunk.text)


async def rest(stream: Any) -> str:
    return "".join([chunk.text async for chunk in stream])


async def runs_again(llm: AsyncLLM) -> None:
    await until(lambda: llm.trouble is None)


async def test_cancelled_while_the_engine_is_away(llm: AsyncLLM) -> None:
    streams = [llm.submit(PROMPT, LONG) for _ in range(3)]
    texts = [await begun(stream) for stream in streams]
    await kill(llm)
    streams[0].cancel()
    pooled = asyncio.create_task(llm.embed("a text"))
    await asyncio.sleep(0)
    pooled.cancel()
    begins = texts[0] + await rest(streams[0])  # with what had come before
    whole = [text + await rest(stream) for text, stream in zip(texts[1:], streams[1:], strict=True)]
    assert whole[0].startswith(begins)
    assert len(begins) < len(whole[0])
    assert whole[0] == whole[1] == (await llm.generate(PROMPT, LONG)).outputs[0].text
    assert llm.stats().num_running == 0


async def test_closed_while_the_engine_is_away(stories: Path) -> None:
    llm = AsyncLLM(stories, supervision=FAULTY)
    stream = llm.submit(PROMPT, LONG)
    await begun(stream)
    await kill(llm)
    loading = asyncio.create_task(llm.load_adapter("first", stories.parent / "first"))
    await asyncio.sleep(0)
    await llm.close()
    for end in (rest(stream), loading):
        with pytest.raises(EngineError, match="closed"):
            await asyncio.wait_for(end, 60)
    assert pid_of(llm) is None


async def test_closed_while_the_engine_loads_the_model_again(llm: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.supervise.process._EXIT_SECONDS", 60)
    await begun(llm.submit(PROMPT, LONG))
    await kill(llm)
    pid = await new_pid(llm)
    process = llm._engine._process  # type: ignore[attr-defined]
    await asyncio.wait_for(llm.close(), 90)
    assert process._process.returncode != -signal.SIGKILL, "it has ended by itself"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_dead_before_anyone_asks() -> None:
    async with AsyncLLM("stories", supervision=FAULTY) as llm:
        pid = pid_of(llm)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        psutil.Process(pid).wait(60)
        output = await asyncio.wait_for(llm.generate(PROMPT, SHORT), 60)
        assert output.outputs[0].token_ids
        assert llm.restarts.count == 1


async def test_cancelled_while_its_grammar_is_compiled(llm: AsyncLLM) -> None:
    """The engine must not run it afterwards for nobody, nor in the place of another of the same name."""
    slow = SamplingParams(max_tokens=300, structured=StructuredOutput(regex=f"({faulty_child.SLOW}|[a-z ]{{200,250}})"))
    stream = llm.submit(PROMPT, slow, request_id="same")
    stream.cancel()
    again = llm.submit(PROMPT, SHORT, request_id="same")
    assert await rest(again)
    await llm.generate(PROMPT, SamplingParams(max_tokens=5, structured=StructuredOutput(regex="[a-z]{3}")))  # after it
    assert llm.stats().generation_tokens < 40
    assert llm.restarts.count == 0


async def test_a_stopped_process_is_found_and_streams_go_on(llm: AsyncLLM) -> None:
    expected = (await llm.generate(PROMPT, LONG)).outputs[0].text
    stream = llm.submit(PROMPT, LONG)
    text = await begun(stream)
    pid = pid_of(llm)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert text + await asyncio.wait_for(rest(stream), 60) == expected
    assert llm.restarts.reason is not None
    assert "no step" in llm.restarts.reason


async def test_the_same_room_after_a_restart_and_no_file_is_kept(llm: AsyncLLM) -> None:
    await llm.generate(PROMPT, SHORT)
    blocks = llm.stats().kv_blocks_total
    num_files = psutil.Process().num_fds()
    for _ in range(3):
        await kill(llm)
        await runs_again(llm)
        await llm.generate(PROMPT, SHORT)
        assert llm.stats().kv_blocks_total == blocks
    assert psutil.Process().num_fds() == num_files


async def test_everything_at_once_goes_on(llm: AsyncLLM) -> None:
    """What has state of its own besides its tokens."""
    asked: list[tuple[Any, SamplingParams]] = [
        (PROMPT, SamplingParams(seed=1, mirostat=2, max_tokens=60, ignore_eos=True)),
        (PROMPT, SamplingParams(seed=2, n=3, max_tokens=60, logprobs=1, temperature=1.0, stop=[" the"])),
        (PROMPT, SamplingParams(seed=3, prompt_logprobs=2, max_tokens=40)),
        (PROMPT, SamplingParams(temperature=0.0, beam_width=3, n=2, max_tokens=30)),
        ({"prompt": PROMPT, "prediction": " there was a little girl"}, SamplingParams(seed=4, max_tokens=60)),
        (PROMPT, SamplingParams(seed=5, repetition_penalty=1.3, dry_multiplier=0.8, max_tokens=60, temperature=1.0)),
        (PROMPT, SamplingParams(seed=6, structured=StructuredOutput(regex="[a-z ]{60,90}"), n=2, max_tokens=95)),
    ]

    async def run() -> list[Any]:
        decision = llm.decide(PROMPT, ["happy", "sad"])
        vectors = llm.embed(["one text", "another"])
        generated = [llm.generate(prompt, params) for prompt, params in asked]
        found = await asyncio.gather(*generated, decision, vectors)
        outputs = [
            [(one.text, one.token_ids, one.logprobs, one.cumulative_logprob, one.finish_reason) for one in each.outputs]
            for each in found[: len(asked)]
        ]
        prompts = [each.prompt_logprobs for each in found[: len(asked)]]
        return [outputs, prompts, found[-2].scores, [each.outputs.embedding for each in found[-1]]]

    expected = await run()
    for delay in (0.0, 0.05, 0.15):
        running = asyncio.create_task(run())
        await asyncio.sleep(delay)
        await kill(llm)
        await asyncio.sleep(0.4)
        await kill(llm)
        assert await asyncio.wait_for(running, 60) == expected


async def test_lower_priorities_go_in_first(llm: AsyncLLM) -> None:
    streams = {number: llm.submit(PROMPT, LONG, priority=number) for number in (5, -5, 0)}
    for stream in streams.values():
        await begun(stream)
    await kill(llm)
    assert [work.request.priority for work in _in_order(llm)] == [-5, 0, 5]


def _in_order(llm: AsyncLLM) -> list[Any]:
    ledger = llm._engine._ledger  # type: ignore[attr-defined]
    return [ledger.works[request_id] for request_id in ledger._file]


async def test_numbers_of_numpy_travel(llm: AsyncLLM) -> None:
    params = SamplingParams(max_tokens=5, ignore_eos=True, temperature=np.float64(0.5))
    output = await llm.generate({"prompt_token_ids": list(np.array([1, 2, 3]))}, params)
    assert len(output.outputs[0].token_ids) == 5


async def test_what_cannot_travel_is_that_requests_error(llm: AsyncLLM) -> None:
    stream = llm.submit(PROMPT, LONG)
    with pytest.raises(RequestError, match="cannot be sent"):
        await llm.generate({"prompt": PROMPT, "cache_salt": "\ud800"}, SHORT)
    assert await rest(stream)
    assert llm.restarts.count == 0


async def test_an_output_that_cannot_be_read_ends_its_own_request_only(llm: AsyncLLM) -> None:
    good, bad = llm.submit(PROMPT, LONG), llm.submit(PROMPT, LONG)
    bad.opened.push = lambda _: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(EngineError, match="cannot be read"):
        await rest(bad)
    assert await rest(good) == (await llm.generate(PROMPT, LONG)).outputs[0].text


async def test_two_requests_of_one_name(llm: AsyncLLM) -> None:
    stream = llm.submit(PROMPT, LONG, request_id="same")
    with pytest.raises(RequestError, match="'same' is running"):
        llm.submit(PROMPT, LONG, request_id="same")
    assert await rest(stream)


def test_a_second_event_loop_is_refused() -> None:
    llm = AsyncLLM("stories", supervision=FAULTY)

    async def once() -> None:
        await llm.generate(PROMPT, SHORT)

    with asyncio.Runner() as runner:
        runner.run(once())
        with pytest.raises(EngineError, match="event loop"):
            asyncio.run(once())
        runner.run(llm.close())


async def test_other_files_than_those_that_were_loaded(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stories, folder)
    async with AsyncLLM(folder, supervision=FAULTY) as llm:
        first = llm.submit(PROMPT, LONG)
        text = await begun(first)
        await kill(llm)
        text += await rest(first)
        assert text == (await llm.generate(PROMPT, LONG)).outputs[0].text
        stream = llm.submit(PROMPT, LONG)
        await begun(stream)
        os.utime(folder / "model.safetensors", ns=(1, 1))
        await kill(llm)
        with pytest.raises(EngineError, match=r"model\.safetensors has changed since it was loaded; start the server"):
            await rest(stream)
        with pytest.raises(EngineError, match="has changed"):
            llm.submit(PROMPT, LONG)
        assert llm.trouble is not None
        assert "has changed" in llm.trouble


async def test_a_process_that_cannot_be_started_is_tried_again(llm: AsyncLLM) -> None:
    stream = llm.submit(PROMPT, LONG)
    text = await begun(stream)
    engine: Any = llm._engine
    start, failures = engine._start, []

    def failing(*arguments: Any) -> Any:
        if len(failures) < 3:
            failures.append(1)
            raise OSError(24, "Too many open files")
        return start(*arguments)

    engine._start = failing
    await kill(llm)
    text += await asyncio.wait_for(rest(stream), 60)
    assert text == (await llm.generate(PROMPT, LONG)).outputs[0].text
    assert llm.restarts.count == 4


async def test_one_that_can_never_be_started_gives_up_and_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    supervision = Supervision(command=FAULTY.command, backoff=(0.0,), most_failed_starts=2)
    async with AsyncLLM("stories", supervision=supervision) as llm:
        stream = llm.submit(PROMPT, LONG)
        await begun(stream)
        engine: Any = llm._engine
        engine._supervision = Supervision(command=(sys.executable, "-c", "raise SystemExit(9)"))
        await kill(llm)
        with pytest.raises(EngineError, match="cannot be started: its process exited with status 9"):
            await asyncio.wait_for(rest(stream), 60)
        with pytest.raises(EngineError, match="cannot be started"):
            llm.submit(PROMPT, LONG)
        last, *before = [line.getMessage() for line in reversed(caplog.records) if "engine died" in line.getMessage()]
        assert last.endswith("status 9); requests get an error until it can be started, which is tried again now")
        assert all(line.endswith("; it is started again now") for line in before[-3:])
        engine._supervision = FAULTY
        await runs_again(llm)
        assert (await llm.generate(PROMPT, SHORT)).outputs[0].text


@pytest.fixture
async def adapted(stories: Path) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(stories, supervision=FAULTY, adapters={"first": stories.parent / "first"}) as llm:
        yield llm


async def test_adapters_are_there_again(adapted: AsyncLLM, stories: Path) -> None:
    await adapted.load_adapter("second", stories.parent / "second")
    expected = [(await adapted.generate(PROMPT, LONG, adapter=name)).outputs[0].text for name in ("first", "second")]
    assert expected[0] != expected[1]
    streams = [adapted.submit(PROMPT, LONG, adapter=name) for name in ("first", "second")]
    texts = [await begun(stream) for stream in streams]
    await kill(adapted)
    assert [text + await rest(stream) for text, stream in zip(texts, streams, strict=True)] == expected
    with LLM(stories, EngineConfig(), adapters={"first": stories.parent / "first"}) as llm:
        assert llm.generate(PROMPT, LONG, use_tqdm=False, adapter="first")[0].outputs[0].text == expected[0]


async def test_replaced_and_unloaded_around_a_death(adapted: AsyncLLM, stories: Path) -> None:
    expected = (await adapted.generate(PROMPT, LONG, adapter="first")).outputs[0].text
    old = adapted.submit(PROMPT, LONG, adapter="first")
    text = await begun(old)
    await kill(adapted)
    replacing = asyncio.create_task(adapted.load_adapter("first", stories.parent / "second", replace=True))
    await new_pid(adapted)
    await replacing
    new = adapted.submit(PROMPT, LONG, adapter="first")
    await begun(new)
    adapted.unload_adapter("first")
    await kill(adapted)
    assert text + await rest(old) == expected
    assert await rest(new)
    await runs_again(adapted)
    await adapted.generate(PROMPT, SHORT)
    await until(lambda: adapted.stats().num_adapters == 0)
    assert adapted.restarts.count == 2


async def test_unloaded_while_the_new_process_loads(adapted: AsyncLLM) -> None:
    await begun(adapted.submit(PROMPT, LONG))
    await kill(adapted)
    await new_pid(adapted)
    adapted.unload_adapter("first")
    await runs_again(adapted)
    await adapted.generate(PROMPT, SHORT)
    assert adapted.restarts.count == 1


async def test_nobody_waits_for_an_adapter_any_more(adapted: AsyncLLM, stories: Path) -> None:
    adapted.attach()
    loading = asyncio.create_task(adapted.load_adapter("second", stories.parent / "second"))
    await asyncio.sleep(0)
    loading.cancel()
    await adapted.generate(PROMPT, LONG)
    await until(lambda: adapted.stats().num_adapters == 1)
    await adapted.load_adapter("second", stories.parent / "second")


async def test_an_adapter_that_kills_is_refused_and_requests_go_on(adapted: AsyncLLM, stories: Path) -> None:
    expected = (await adapted.generate(PROMPT, LONG)).outputs[0].text
    stream = adapted.submit(PROMPT, LONG)
    text = await begun(stream)
    with pytest.raises(EngineError, match="died while it loaded this adapter"):
        await asyncio.wait_for(adapted.load_adapter("deadly", stories.parent / "deadly"), 60)
    assert text + await rest(stream) == expected
    assert adapted.restarts.count == 2


async def test_an_adapter_whose_files_have_changed(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(stories.parent / "first", folder)
    async with AsyncLLM(stories, supervision=FAULTY, adapters={"changing": folder}) as llm:
        stream, plain = llm.submit(PROMPT, LONG, adapter="changing"), llm.submit(PROMPT, LONG)
        await begun(stream)
        text = await begun(plain)
        an_adapter(folder, stories, 7)
        await kill(llm)
        with pytest.raises(EngineError, match=r"'changing' was lost .* has changed since it was loaded; load it again"):
            await rest(stream)
        assert text + await rest(plain) == (await llm.generate(PROMPT, LONG)).outputs[0].text
        with pytest.raises(EngineError, match="load it again"):
            await llm.generate(PROMPT, LONG, adapter="changing")
        await llm.load_adapter("changing", folder, replace=True)
        assert (await llm.generate(PROMPT, LONG, adapter="changing")).outputs[0].text
