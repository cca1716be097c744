"""`LLM` and `AsyncLLM` as a user sees them, on the bundled model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from headrace import LLM, AsyncLLM, EngineConfig, SamplingParams
from headrace.engine.engine import Engine
from headrace.errors import (
    ConfigError,
    ContextTooLong,
    DamagedFile,
    DoesNotFit,
    EngineError,
    MissingChatTemplate,
    RequestError,
)
from headrace.formats.gguf_writer import write_gguf
from headrace.formats.safetensors import open_safetensors
from headrace.types import RequestOutput

GREEDY = SamplingParams(temperature=0, max_tokens=24)
SEEDED = SamplingParams(temperature=1.0, seed=11, max_tokens=24)
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("stories", EngineConfig(threads=1)) as model:
        yield model


def text_of(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


@pytest.mark.parametrize("name", ["stories260k", "babyllama-1m"])
def test_golden_ids(shared: Path, name: str) -> None:
    folder = shared / "models" / name
    golden = json.loads((folder / "golden.json").read_text())
    ids = golden["greedy_ids_from_bos"]
    params = SamplingParams(temperature=0, max_tokens=len(ids) - 1)
    output = LLM(folder).generate([1], params)[0]
    assert [1, *output.outputs[0].token_ids] == ids


def test_golden_text_from_the_folder_and_from_a_gguf_of_it(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260k"
    golden = json.loads((folder / "golden.json").read_text())
    params = SamplingParams(temperature=0, max_tokens=200)  # the golden text is llama2.c's of 200 steps
    gguf = tmp_path / "stories260k.gguf"
    gguf_from_llama(folder, gguf)
    for model in (folder, gguf):
        for prompt in ("", [1]):
            output = LLM(model).generate(prompt, params)[0]
            assert output.outputs[0].text == golden["text"], model.name


def gguf_from_llama(folder: Path, path: Path) -> None:
    """A Llama folder as GGUF, written the way llama.cpp's conversion does: interleaved q and k, an SPM vocabulary."""
    config = json.loads((folder / "config.json").read_text())
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    tensors = {}
    for name, tensor in open_safetensors(folder).items():
        for old, new in (
            ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("model.layers.", "blk."),
            ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ):  # fmt: skip
            name = name.replace(old, new)  # noqa: PLW2901
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in name:
                rows = [h * size + (i % 2) * size // 2 + i // 2 for h in range(count) for i in range(size)]
                tensor = tensor.take_rows(np.array(rows))  # noqa: PLW2901
        tensors[name] = tensor
    merges = {m if isinstance(m, str) else " ".join(m) for m in []}
    assert not merges
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.dimension_count": size,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [
            2 if i == 0 else 3 if i < 3 else 6 if token.startswith("<0x") else 1 for i, token in enumerate(tokens)
        ],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
    write_gguf(path, metadata, tensors)


def test_prompts_of_every_form_in_one_call(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(PROMPT)
    outputs = llm.generate([PROMPT, ids, {"prompt": PROMPT}, {"prompt_token_ids": ids}], GREEDY)
    assert len(set(text_of(outputs))) == 1
    assert [output.prompt for output in outputs] == [PROMPT, None, PROMPT, None]
    assert all(output.prompt_token_ids == ids for output in outputs)
    assert text_of(llm.generate(PROMPT, GREEDY)) == text_of(outputs)[:1]
    assert text_of(llm.generate(ids, GREEDY)) == text_of(outputs)[:1]


def test_prompts_and_parameters_as_numpy_has_them(llm: LLM) -> None:
    params = SamplingParams(temperature=np.float32(0), max_tokens=np.int64(4), top_k=np.int32(-1))
    expected = llm.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=4))[0].outputs[0].token_ids
    ids = np.array([5, 6, 7])
    for prompt in (ids, list(ids), [ids], [list(ids)], {"prompt_token_ids": ids}):
        (output,) = llm.generate(prompt, params)  # type: ignore[arg-type]
        assert output.prompt_token_ids == [5, 6, 7]
        assert {type(token_id) for token_id in output.prompt_token_ids} == {int}
        assert output.outputs[0].token_ids == expected


def test_as_code_for_vllm_has_it(llm: LLM) -> None:
    from headrace import TextPrompt, TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=[5, 6], prompt="said"), TextPrompt(prompt="Lily")]
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, seed=-1, max_tokens=3)
    assert sampling_params.seed is None
    outputs = llm.generate(prompts=prompts, sampling_params=sampling_params, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["said", "Lily"]
    assert all(output.finished and output.outputs[0].finished() for output in outputs)
    conversation = [{"role": "user", "content": "Tell me a story."}]
    each = [SamplingParams(max_tokens=count) for count in (2, 3)]
    outputs = llm.chat([conversation, conversation], sampling_params=each, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [2, 3]


@pytest.mark.parametrize("messages", ["hi", None, 5, {"role": "user"}, [1], [[1]], [[]], ["hi"]])
def test_wrong_messages_are_refused(llm: LLM, messages: object) -> None:
    with pytest.raises(RequestError) as caught:
        llm.chat(messages)  # type: ignore[arg-type]
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages")


def test_one_params_for_each_prompt(llm: LLM) -> None:
    several = [SamplingParams(temperature=0, max_tokens=n) for n in (1, 5, 9)]
    outputs = llm.generate([PROMPT] * 3, several)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 5, 9]
    assert {output.outputs[0].finish_reason for output in outputs} == {"length"}
    with pytest.raises(RequestError, match="2 sampling_params for 3 prompts"):
        llm.generate([PROMPT] * 3, several[:2])


def test_the_same_seed_gives_the_same_text_and_another_another(llm: LLM) -> None:
    first, again, other = llm.generate([PROMPT] * 3, [SEEDED, SEEDED, SamplingParams(seed=12, max_tokens=24)])
    assert first.outputs[0].token_ids == again.outputs[0].token_ids != other.outputs[0].token_ids
    unseeded = llm.generate([PROMPT] * 2, SamplingParams(max_tokens=24))
    assert unseeded[0].outputs[0].token_ids != unseeded[1].outputs[0].token_ids


def test_n_completions(llm: LLM) -> None:
    output = llm.generate(PROMPT, SamplingParams(n=3, seed=5, max_tokens=24))[0]
    assert [one.index for one in output.outputs] == [0, 1, 2]
    assert len({one.text for one in output.outputs}) == 3
    assert output.outputs[0].text == llm.generate(PROMPT, SamplingParams(seed=5, max_tokens=24))[0].outputs[0].text
    assert output.usage.completion_tokens == sum(len(one.token_ids) for one in output.outputs)


def test_logprobs_of_given_tokens(llm: LLM) -> None:
    """At each position the same numbers as with the whole vocabulary."""
    given = [5, 300, 17, *range(100, 200)]
    plain = SamplingParams(temperature=0, max_tokens=6, logprobs=-1)
    whole = llm.generate(PROMPT, plain)[0].outputs[0]
    some, also = (
        llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=6, logprobs=n, logprob_token_ids=given))[
            0
        ].outputs[0]
        for n in (None, 3)
    )
    assert some.token_ids == whole.token_ids
    assert some.logprobs == also.logprobs
    assert some.logprobs is not None
    assert whole.logprobs is not None
    for token_id, entry, every in zip(some.token_ids, some.logprobs, whole.logprobs, strict=True):
        assert entry == {each: every[each] for each in (token_id, *given)}
    for wrong in ([10**6], [-1], list(range(2000)), "5"):
        with pytest.raises(RequestError) as refused:
            llm.generate(PROMPT, SamplingParams(logprob_token_ids=wrong))  # type: ignore[arg-type]
        assert refused.value.param == "logprob_token_ids"


def test_logprobs_as_in_vllm(llm: LLM) -> None:
    output = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=6, logprobs=2, prompt_logprobs=1))[0]
    one = output.outputs[0]
    assert one.logprobs is not None
    assert len(one.logprobs) == 6
    for token_id, entry in zip(one.token_ids, one.logprobs, strict=True):
        assert entry[token_id].rank == 1  # greedy
        assert len(entry) == 2
        assert all(isinstance(logprob.decoded_token, str) for logprob in entry.values())
    chosen = sum(entry[i].logprob for i, entry in zip(one.token_ids, one.logprobs, strict=True))
    assert one.cumulative_logprob == pytest.approx(chosen)
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for token_id, prompt_entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert prompt_entry is not None
        assert token_id in prompt_entry


def test_stop_strings_cut_the_text_wherever_tokens_end(llm: LLM) -> None:
    whole = llm.generate(PROMPT, GREEDY)[0].outputs[0].text
    for start in range(4, len(whole) - 3, 5):
        stop = whole[start : start + 3]
        first = whole.index(stop)
        params = SamplingParams(temperature=0, max_tokens=24, stop=[stop])
        one = llm.generate(PROMPT, params)[0].outputs[0]
        assert (one.text, one.finish_reason, one.stop_reason) == (whole[:first], "stop", stop)
        kept = SamplingParams(temperature=0, max_tokens=24, stop=[stop], include_stop_str_in_output=True)
        assert llm.generate(PROMPT, kept)[0].outputs[0].text == whole[: first + 3]
    assert llm.stats().kv_blocks_used == 0


def test_streaming_gives_the_same_text(llm: LLM) -> None:
    whole = llm.generate(PROMPT, SEEDED)[0].outputs[0]
    chunks = list(llm.stream(PROMPT, SEEDED))
    assert "".join(map(str, chunks)) == whole.text
    assert [i for chunk in chunks for i in chunk.token_ids] == whole.token_ids
    assert chunks[-1].finish_reason == "length"
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_interleaved_streams_lose_nothing(llm: LLM) -> None:
    prompts = [PROMPT, "The dog", "Lily"]
    expected = text_of(llm.generate(prompts, SEEDED))
    streams = [llm.stream(prompt, SEEDED) for prompt in prompts]
    texts = [str(next(stream)) for stream in streams]  # the later ones' steps advance the earlier ones
    for at in reversed(range(len(streams))):
        texts[at] += "".join(map(str, streams[at]))
    assert texts == expected


def test_leaving_a_stream_early_frees_it_and_streams_interleave(llm: LLM) -> None:
    left = llm.stream(PROMPT, SEEDED)
    next(left)
    assert llm.stats().num_running == 1
    other = llm.stream("The dog", SEEDED)
    interleaved = [next(other).text, next(left).text, *[chunk.text for chunk in other]]
    assert "".join([interleaved[0], *interleaved[2:]]) == llm.generate("The dog", SEEDED)[0].outputs[0].text
    left.close()  # type: ignore[attr-defined]
    assert llm.stats().num_running == 0


def test_chat_uses_the_template(llm: LLM) -> None:
    assert llm.chat_template is not None
    messages = [{"role": "user", "content": "Tell me a story about a cat."}]
    output = llm.chat(messages, SamplingParams(temperature=0, max_tokens=20))[0]
    assert output.outputs[0].text
    streamed = "".join(map(str, llm.stream_chat(messages, SamplingParams(temperature=0, max_tokens=20))))
    assert streamed == output.outputs[0].text
    two = llm.chat([messages, messages], SamplingParams(temperature=0, max_tokens=20))
    assert text_of(two) == [output.outputs[0].text] * 2


def test_two_engines_in_one_process(llm: LLM) -> None:
    with LLM("stories", EngineConfig(threads=2, max_context=64, quantize="q8")) as other:
        assert (llm.max_context, other.max_context) == (512, 64)
        alone = [text_of(model.generate(PROMPT, GREEDY))[0] for model in (llm, other)]
        streams = [llm.stream(PROMPT, GREEDY), other.stream(PROMPT, GREEDY)]
        texts = ["", ""]
        for chunks in zip(*streams, strict=True):
            texts = [text + chunk.text for text, chunk in zip(texts, chunks, strict=True)]
        assert texts == alone


@pytest.mark.parametrize(
    ("prompt", "params", "error", "message"),
    [
        ([[]], GREEDY, RequestError, "the prompt is empty"),
        ([5], SamplingParams(stop_token_ids=[10**6]), RequestError, "stop_token_ids has token id 1000000"),
        ([5, 10**6], GREEDY, RequestError, "token id 1000000"),
        ([5, -1], GREEDY, RequestError, "token id -1"),
        ([5, 1.5], GREEDY, RequestError, "the prompt must be a string, a list of token ids"),
        ({"text": "x"}, GREEDY, RequestError, "the prompt has 'text', which headrace does not know"),
        ({"prompt": "x", "multi_modal_data": {}}, GREEDY, RequestError, "the prompt has 'multi_modal_data'"),
        ({"prompt_token_ids": "x"}, GREEDY, RequestError, "the prompt must be"),
        ({"prompt": None}, GREEDY, RequestError, "the prompt must be"),
        (b"bytes", GREEDY, RequestError, "prompts is of type bytes"),
        ([b"bytes"], GREEDY, RequestError, "the prompt must be"),
        ([True, False], GREEDY, RequestError, "the prompt must be"),
        ("x", {"temperature": 0}, RequestError, "sampling_params is of type dict, expected SamplingParams"),
        (["x"], [{"temperature": 0}], RequestError, "sampling_params has a dict, expected SamplingParams"),
        ("x", [], RequestError, "0 sampling_params for 1 prompts"),
        ([5] * 5000, GREEDY, ContextTooLong, "5,000 tokens and the context is"),
        ([5], SamplingParams(max_tokens=10**6), ContextTooLong, "lower max_tokens to"),
        ([5], SamplingParams(logit_bias={10**6: 1.0}), RequestError, "logit_bias has token id 1000000"),
    ],
)
def test_wrong_requests_are_refused_by_name(
    llm: LLM, prompt: object, params: SamplingParams, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        llm.generate(prompt, params)  # type: ignore[arg-type]
    assert llm.stats().num_waiting == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"top_k": 1.5}, {"n": 0}, {"n": True},
        {"seed": 2**64}, {"max_tokens": 0}, {"stop": [""]}, {"stop_token_ids": [-1]},
        {"min_tokens": 5, "max_tokens": 4}, {"logit_bias": {"x": 1.0}}, {"logit_bias": {1: "x"}},
        {"presence_penalty": 3}, {"temperature": float("nan")}, {"penalty_last_n": -2},
        {"penalty_last_n": 5, "dry_multiplier": 1}, {"penalty_last_n": 0, "bad_words": ["x"]},
        {"temperature": float("inf")}, {"stop": 5}, {"stop": b"x"}, {"stop_token_ids": 5},
        {"stop_token_ids": "5"}, {"logit_bias": [1]}, {"ignore_eos": "no"}, {"skip_special_tokens": None},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_parameters_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**wrong)  # type: ignore[arg-type]
    assert caught.value.param == next(iter(wrong))


@pytest.mark.parametrize("last", [-1, 0, 1, 4, 1000])
def test_penalties_see_the_last_tokens_only(llm: LLM, last: int) -> None:
    """Greedy choices worked out from the model's own distribution, which penalties do not change."""
    params = SamplingParams(
        temperature=0, max_tokens=40, presence_penalty=2, frequency_penalty=1.5, penalty_last_n=last, logprobs=-1
    )
    [output] = llm.generate(PROMPT, params)[0].outputs
    for at, (token_id, entry) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
        seen = output.token_ids[:at] if last == -1 else output.token_ids[max(at - last, 0) : at]
        scores = {
            each: logprob.logprob - 2 * (each in seen) - 1.5 * seen.count(each) for each, logprob in entry.items()
        }
        assert token_id == max(scores, key=scores.__getitem__)
    others = {n: llm.generate(PROMPT, replace(params, penalty_last_n=n, logprobs=None))[0] for n in (-1, 0, 4)}
    assert len({tuple(other.outputs[0].token_ids) for other in others.values()}) == 3


def test_the_repetition_penalty_sees_the_last_tokens_of_the_prompt_too(llm: LLM) -> None:
    def first(**more: float) -> int:
        params = SamplingParams(temperature=0, max_tokens=1, **more)
        return llm.generate("The dog and the cat saw the dog and the", params)[0].outputs[0].token_ids[0]

    plain = first()
    assert first(repetition_penalty=50, penalty_last_n=0) == plain
    assert first(repetition_penalty=50, penalty_last_n=2) == plain  # it stands farther back
    assert first(repetition_penalty=50, penalty_last_n=1000) == first(repetition_penalty=50) != plain


def test_a_folder_without_a_tokenizer_runs_on_token_ids(shared: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(shared / "models" / "stories260k" / name)
    bare = LLM(tmp_path)
    golden = json.loads((shared / "models" / "stories260k" / "golden.json").read_text())["greedy_ids_from_bos"]
    output = bare.generate([[1]], SamplingParams(temperature=0, max_tokens=10))[0]
    assert output.outputs[0].token_ids == golden[1:11]
    assert output.outputs[0].text == ""
    with pytest.raises(RequestError, match="has no tokenizer"):
        bare.generate("text", GREEDY)
    with pytest.raises(RequestError, match="stop strings need a tokenizer"):
        bare.generate([1], SamplingParams(stop="x"))
    with pytest.raises(MissingChatTemplate, match="--chat-template FILE"):
        bare.chat([{"role": "user", "content": "hi"}])


def test_the_context_asked_for_must_fit(shared: Path) -> None:
    folder = shared / "models" / "stories260k"
    with pytest.raises(ConfigError, match=r"max_context is 1,000, but the model was made for 512"):
        LLM(folder, EngineConfig(max_context=1000))
    with pytest.raises(ConfigError, match=r"a context of 512 tokens needs .* of KV cache and .* is planned"):
        LLM(folder, EngineConfig(max_context=512, kv_memory=100_000))
    small = LLM(folder, EngineConfig(kv_memory=100_000))
    assert small.max_context < 512
    with pytest.raises((ContextTooLong, DoesNotFit)):
        small.generate([1] * 500, GREEDY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 5}, "model is of type int, expected str or PathLike"),
        ({"model": None}, "model is of type NoneType"),
        ({"model": b"stories"}, "model is of type bytes"),
        ({"config": {"threads": 1}}, "config is of type dict, expected EngineConfig or None"),
        ({"config": False}, "config is of type bool"),
        ({"chat_template": 5}, "chat_template is of type int"),
        ({"adapters": {"a": 5}}, r"adapters\['a'\] is of type int, expected str or PathLike"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM(**arguments)  # type: ignore[arg-type]


def test_recommended_sampling(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "stories260k"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(source / name)

    def recommended(config: dict[str, object]) -> SamplingParams:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
        return LLM(tmp_path, chat_template=None).default_params

    qwen = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    assert recommended(qwen) == SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05)
    assert recommended({"temperature": None, "max_length": 4096}) == SamplingParams()
    greedy = {**qwen, "do_sample": False}
    assert recommended(greedy) == SamplingParams(temperature=0, repetition_penalty=1.05)
    with pytest.raises(DamagedFile, match=r"generation_config\.json: top_p is 'x', expected above 0"):
        recommended({"top_p": "x"})


# AsyncLLM


async def test_64_streams_at_once_equal_one_by_one(llm: LLM) -> None:
    prompts = [
        f"{PROMPT}, {'very ' * (i % 7)}{name}" for i, name in enumerate(["Tom", "a cat", "the sun", "Lily"] * 16)
    ]
    params = [SamplingParams(temperature=(i % 3) * 0.5, seed=i, max_tokens=16 + i % 9) for i in range(64)]
    expected = [text_of(llm.generate(p, s))[0] for p, s in zip(prompts, params, strict=True)]

    async def text(model: AsyncLLM, at: int) -> str:
        await asyncio.sleep((at * 37 % 64) / 4000)
        return "".join([chunk.text async for chunk in model.stream(prompts[at], params[at])])

    async with AsyncLLM("stories", EngineConfig(threads=2)) as model:
        assert await asyncio.gather(*(text(model, at) for at in range(64))) == expected
        assert model.stats().kv_blocks_used == 0


async def test_cancelling_in_mid_stream(llm: LLM) -> None:
    async with AsyncLLM("stories") as model:
        long = SamplingParams(max_tokens=200, ignore_eos=True, seed=1)
        stream = model.stream(PROMPT, long)
        async with stream:
            await anext(stream)
        task = asyncio.create_task(model.generate(PROMPT, long))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: model.stats().num_running == 0)
        assert model.stats().kv_blocks_used == 0
        output = await model.generate(PROMPT, GREEDY)
        assert output.outputs[0].text == text_of(llm.generate(PROMPT, GREEDY))[0]


async def test_a_dead_engine_fails_its_streams_and_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AsyncLLM("stories")

    def broken(_: Engine) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(Engine, "step", broken)
    with pytest.raises(EngineError, match="MemoryError: no memory"):
        await model.generate(PROMPT, GREEDY)
    assert model.trouble is not None
    with pytest.raises(EngineError):
        model.stream(PROMPT)
    await model.close()
