"""What must hold for any prompts and parameters: alone as together, streamed as whole, cut where a stop string begins.

The models have random weights, so that their tokens are random too: with vocabularies whose tokens are bytes and pieces
of characters, half characters are everywhere.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny
from waiting import until

from headrace import LLM, AsyncLLM, EngineConfig, RequestOutput, SamplingParams

TEXT = [
    "naïve café 😀😃 – 日本語のテキスト 👩‍👩‍👧 here and there, and here again",
    "Привет 🎉🎉 the the the end",
    "e\u0301 ﷽ ok 🇫🇷",
]
PROMPTS = ["here", "the 😀", "日本", "\u0301", "🎉 and", " ", "ok\n\nok"]
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def byte_level(folder: Path) -> int:
    """Byte-level BPE, as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def byte_fallback(folder: Path) -> int:
    """Characters, and <0xNN> for all others, as Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"theandrok日本😀", "he", "▁the"]
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(names)


VOCABULARIES: dict[str, Callable[[Path], int]] = {"byte-level": byte_level, "byte-fallback": byte_fallback}


@pytest.fixture(scope="module", params=VOCABULARIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp(request.param)
    vocab_size = VOCABULARIES[request.param](path)
    make_tiny("llama", path, vocab_size=vocab_size, bos_token_id=0, eos_token_id=1)
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, EngineConfig(threads=1, max_batch_tokens=32, block_size=16))


def params(draw: Any) -> SamplingParams:
    max_tokens = draw(st.integers(1, 16))
    optional = {"logprobs": st.integers(0, 3), "prompt_logprobs": st.integers(0, 2), "seed": st.just(None)}
    values = {name: draw(strategy) for name, strategy in optional.items() if draw(st.booleans())}
    return SamplingParams(
        n=draw(st.integers(1, 3)),
        temperature=draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        top_k=draw(st.sampled_from([0, -1, 1, 5, 1000])),
        top_p=draw(st.sampled_from([1.0, 0.9, 0.1])),
        min_p=draw(st.sampled_from([0.0, 0.05, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])),
        presence_penalty=draw(st.sampled_from([0.0, 1.5])),
        frequency_penalty=draw(st.sampled_from([0.0, -1.0])),
        logit_bias=draw(st.sampled_from([None, {5: 4.0, 1: 3.0}, {7: -100.0}])),
        stop=draw(st.lists(st.sampled_from(["a", "\ufffd", "he", " the", "😀", "\x00", "é"]), max_size=2)),
        stop_token_ids=draw(st.lists(st.integers(3, 250), max_size=3)),
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        ignore_eos=draw(st.booleans()),
        include_stop_str_in_output=draw(st.booleans()),
        skip_special_tokens=draw(st.booleans()),
        **{"seed": draw(st.integers(0, 2**64 - 1)), **{key: value for key, value in values.items() if key != "seed"}},
    )


@st.composite
def requests(draw: Any) -> list[tuple[Any, SamplingParams]]:
    prompt = st.one_of(st.sampled_from(PROMPTS), st.lists(st.integers(0, 260), min_size=1, max_size=40))
    return [(draw(prompt), params(draw)) for _ in range(draw(st.integers(1, 5)))]


def plain(output: RequestOutput) -> Any:
    """All that must be the same, however the request ran."""
    return (output.prompt, output.prompt_token_ids, output.prompt_logprobs, output.outputs, output.finished)


@SETTINGS
@given(requests())
def test_one_by_one_as_together_and_streamed_as_whole(llm: LLM, asked: list[tuple[Any, SamplingParams]]) -> None:
    assert llm.tokenizer is not None
    together = llm.generate([prompt for prompt, _ in asked], [own for _, own in asked])
    for (prompt, own), output in zip(asked, together, strict=True):
        assert plain(llm.generate([prompt], own)[0]) == plain(output)
        texts, token_ids = [""] * own.n, [[] for _ in range(own.n)]  # type: ignore[var-annotated]
        reasons: dict[int, Any] = {}
        for chunk in llm.stream(prompt, own):
            assert chunk.index not in reasons, "nothing comes after the end"
            texts[chunk.index] += chunk.text
            token_ids[chunk.index] += chunk.token_ids
            if chunk.finish_reason is not None:
                reasons[chunk.index] = (chunk.finish_reason, chunk.stop_reason)
        whole = output.outputs
        assert texts == [one.text for one in whole]
        assert token_ids == [one.token_ids for one in whole]
        assert reasons == {one.index: (one.finish_reason, one.stop_reason) for one in whole}
    assert llm.stats().kv_blocks_used == 0


@SETTINGS
@given(st.sampled_from(PROMPTS), st.integers(0, 10**6), st.data())
def test_stop_strings_cut_exactly(llm: LLM, prompt: str, seed: int, data: Any) -> None:
    base = SamplingParams(seed=seed, max_tokens=24, ignore_eos=True)
    whole = llm.generate(prompt, base)[0].outputs[0]
    if len(whole.text) < 2:
        return
    starts = data.draw(st.lists(st.integers(0, len(whole.text) - 1), min_size=1, max_size=3))
    stops = [whole.text[start : start + data.draw(st.integers(1, 4))] for start in starts]
    end, stop = min((whole.text.index(stop) + len(stop), -len(stop), stop) for stop in stops)[::2]
    for include in (False, True):
        own = replace(base, stop=stops, include_stop_str_in_output=include)
        one = llm.generate(prompt, own)[0].outputs[0]
        assert (one.text, one.finish_reason) == (whole.text[: end if include else end - len(stop)], "stop")
        assert one.stop_reason == stop
        assert one.token_ids == whole.token_ids[: len(one.token_ids)]


@SETTINGS
@given(st.sampled_from(PROMPTS), st.integers(0, 10**6), st.booleans())
def test_text_is_that_of_the_tokenizers_library(llm: LLM, prompt: str, seed: int, skip: bool) -> None:
    tokenizer = llm.tokenizer
    assert tokenizer is not None
    prompt_ids = tokenizer.encode(prompt + "n")  # ends with a whole character, so that the output begins with one
    own = SamplingParams(seed=seed, max_tokens=40, ignore_eos=True, skip_special_tokens=skip)
    chunks = list(llm.stream(prompt_ids, own))
    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    before, whole = tokenizer.decode_whole(prompt_ids, skip), tokenizer.decode_whole([*prompt_ids, *ids], skip)
    assert before + "".join(map(str, chunks)) == whole


async def test_a_storm_of_cancellations_leaves_no_block_used(folder: Path) -> None:
    rng = random.Random(3)
    long = SamplingParams(max_tokens=150, ignore_eos=True, seed=1, n=2)

    async def one(model: AsyncLLM, number: int) -> None:
        stream = model.submit([rng.randrange(2, 250) for _ in range(rng.randrange(1, 90))], long)
        how = number % 5
        if how == 0:
            stream.cancel()
            return
        if how == 1:
            task = asyncio.ensure_future(stream.next_chunks())
            await asyncio.sleep(rng.random() / 50)
            task.cancel()
            stream.cancel()
            stream.cancel()
            return
        async with stream:
            async for _ in stream:
                if rng.random() < 0.1:
                    break

    async with AsyncLLM(folder, EngineConfig(threads=1, max_batch_tokens=48)) as model:
        for _ in range(3):
            await asyncio.gather(*(one(model, number) for number in range(40)))
        tasks = [asyncio.create_task(model.generate([5, 6, 7 + number], long)) for number in range(20)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        def is_idle() -> bool:
            stats = model.stats()
            return not (stats.num_running or stats.num_waiting or stats.kv_blocks_used)

        await until(is_idle)
        # However far the engine runs ahead of the loop, the 24 cancelled at once cannot have run to their ends.
        assert model.stats().generation_tokens < 140 * 300 - 24 * 150, "those cancelled ran on to their ends"
        after = await model.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=5))
    assert (
        after.outputs[0].token_ids
        == LLM(folder).generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=5))[0].outputs[0].token_ids
    )
