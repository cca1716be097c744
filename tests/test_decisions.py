"""Decisions: probabilities of labels, equal to transformers', from one pass over the prompt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_adapters import make_adapter, merge
from tiny_models import reference, reference_logits

import headrace
from headrace import LLM, AsyncLLM, EngineConfig
from headrace.errors import RequestError, UnknownModel
from headrace.types import Decision

STORIES = Path(headrace.__file__).parent / "hub/stories"
PROMPT = "Once upon a time there was a little"
LABELS = [" girl", " dog named Max", " boy", " boy who had a car", " very big and very red ball", "!"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>{% if thinking %} hmm{% endif %} "
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    template = tmp_path_factory.mktemp("template") / "template.jinja"
    template.write_text(TEMPLATE)
    config = EngineConfig(kv_memory=32 * 2**20, threads=1, kv_dtype="f32", activations="f32")
    return LLM("stories", config, chat_template=template)


def expected(
    llm: LLM, prompt: str, labels: Sequence[str], *, add_special_tokens: bool = True, model: Any = None
) -> list[list[float]]:
    """Log-probabilities of the labels' tokens, each from a full pass in transformers."""
    assert llm.tokenizer is not None
    given = llm.tokenizer.encode(prompt, add_special_tokens)
    found = []
    for label in labels:
        whole = llm.tokenizer.encode(prompt + label, add_special_tokens)
        logits = reference_logits(model or reference(STORIES), whole).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        found.append([logprobs[at - 1, whole[at]] for at in range(len(given), len(whole))])
    return found


def check(decision: Decision, labels: Sequence[str], scores: list[list[float]]) -> None:
    sums = np.array([sum(each) for each in scores])
    shares = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
    assert list(decision.scores) == list(labels)
    for label, share, total, each in zip(labels, shares, sums, scores, strict=True):
        assert decision.scores[label].probability == pytest.approx(share, abs=1e-4)
        assert decision.scores[label].logprob == pytest.approx(total, abs=1e-3)
        assert decision.scores[label].num_tokens == len(each)
    assert decision.label == labels[int(sums.argmax())]
    assert decision.mass == pytest.approx(np.exp(sums).sum(), abs=1e-4)
    assert sum(decision.probabilities.values()) == pytest.approx(1)


def test_equal_to_transformers(llm: LLM) -> None:
    check(llm.decide(PROMPT, LABELS), LABELS, expected(llm, PROMPT, LABELS))
    one = llm.decide({"prompt": PROMPT}, [" girl"])
    assert one.probabilities == {" girl": 1.0}
    assert one.scores[" girl"].num_tokens == 1


def test_a_conversation(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Was it a cat or a dog?"}]
    labels = ["It was a cat.", "It was a dog.", "no"]
    for kwargs, text in (
        (None, "<user> Was it a cat or a dog?\n<assistant> "),
        ({"thinking": True}, "<user> Was it a cat or a dog?\n<assistant> hmm "),
    ):
        decision = llm.decide(messages, labels, chat_template_kwargs=kwargs)
        wholes = expected(llm, text.rstrip(" "), [f" {label}" for label in labels], add_special_tokens=False)
        assert llm.tokenizer is not None
        check(decision, labels, wholes)


def test_an_adapter_decides_as_the_merged_model(tmp_path: Path) -> None:
    make_adapter(tmp_path / "other", reference(STORIES))
    config = EngineConfig(kv_memory=32 * 2**20, threads=1, kv_dtype="f32", activations="f32")
    llm = LLM("stories", config, adapters={"other": tmp_path / "other"})
    merged = merge(reference(STORIES), tmp_path / "other")
    plain = llm.decide(PROMPT, LABELS)
    check(llm.decide(PROMPT, LABELS, adapter="other"), LABELS, expected(llm, PROMPT, LABELS, model=merged))
    assert llm.decide(PROMPT, LABELS).scores == plain.scores
    with pytest.raises(UnknownModel, match="'none'"):
        llm.decide(PROMPT, LABELS, adapter="none")
    llm.unload_adapter("other")
    with pytest.raises(UnknownModel, match="'other'"):
        llm.decide(PROMPT, LABELS, adapter="other")


def test_per_token_compares_means(llm: LLM) -> None:
    sums = llm.decide(PROMPT, LABELS)
    means = llm.decide(PROMPT, LABELS, per_token=True)
    assert {k: v.logprob for k, v in means.scores.items()} == {k: v.logprob for k, v in sums.scores.items()}
    weights = [math.exp(each.logprob / each.num_tokens) for each in sums.scores.values()]
    assert list(means.probabilities.values()) == pytest.approx([each / sum(weights) for each in weights])


def test_the_prompt_is_computed_once() -> None:
    llm = LLM("stories", EngineConfig(kv_memory=32 * 2**20, threads=1, prefix_cache=False))
    assert llm.tokenizer is not None
    prompt = PROMPT * 9
    num_tokens = 0
    forward = llm.decoder.forward

    def counting(batch, cache):
        nonlocal num_tokens
        num_tokens += len(batch.token_ids)
        return forward(batch, cache)

    llm.decoder.forward = counting  # type: ignore[method-assign]
    words = [" girl", " boy", " dog", " cat", " ball"]
    assert llm.decide(prompt, words).usage.prompt_tokens == num_tokens == len(llm.tokenizer.encode(prompt))
    num_tokens = 0
    decision = llm.decide(prompt, LABELS)
    rest = sum(score.num_tokens - 1 for score in decision.scores.values())
    assert num_tokens <= decision.usage.prompt_tokens + rest
    assert llm.stats().kv_blocks_used == 0


def test_a_salt_keeps_its_prefix_apart(llm: LLM) -> None:
    def num_cached(salt: str) -> int:
        return llm.decide({"prompt": PROMPT * 9, "cache_salt": salt}, LABELS).usage.cached_tokens

    llm.clear_prefix_cache()
    assert num_cached("a") == 0
    assert num_cached("b") == 0
    assert num_cached("a") > 0


def test_where_a_label_changes_the_prompts_end(llm: LLM) -> None:
    assert llm.tokenizer is not None
    prompt, labels = "The girl was hap", ["py and sad", "less", "py"]
    decision = llm.decide(prompt, labels)
    assert decision.usage.prompt_tokens < len(llm.tokenizer.encode(prompt))
    full = [llm.tokenizer.encode(prompt + label) for label in labels]
    for label, whole in zip(labels, full, strict=True):
        assert decision.scores[label].num_tokens == len(whole) - decision.usage.prompt_tokens
    assert decision.label == "py"


def test_in_an_event_loop(llm: LLM) -> None:
    async def ask() -> Decision:
        async with AsyncLLM(
            "stories", EngineConfig(kv_memory=32 * 2**20, threads=1, kv_dtype="f32", activations="f32")
        ) as other:
            found = await asyncio.gather(*(other.decide(PROMPT, LABELS) for _ in range(3)))
            assert found[0].scores == found[1].scores == found[2].scores
            task = asyncio.create_task(other.decide(PROMPT * 20, LABELS))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return found[0]

    assert asyncio.run(ask()).scores == llm.decide(PROMPT, LABELS).scores


@pytest.mark.parametrize(
    ("prompt", "labels", "message", "param"),
    [
        (PROMPT, [], "labels must be a list of 1 to 1,024 texts", "labels"),
        (PROMPT, " girl", "labels must be a list of 1 to 1,024 texts", "labels"),
        (PROMPT, [" girl", ""], "expected texts that are not empty", "labels"),
        (PROMPT, [" girl", 5], "expected texts that are not empty", "labels"),
        (PROMPT, [" girl", " boy", " girl"], "has ' girl' twice", "labels"),
        (PROMPT, [" girl" * 3000], "exceed the context", "labels"),
        (PROMPT * 3000, [" girl"], "exceed the context", "prompt"),
        ([1, 2, 3], [" girl"], "must be a text or messages", "prompt"),
        ({"prompt_token_ids": [1, 2, 3]}, [" girl"], "must be a text or messages", "prompt"),
        ([], [" girl"], "must be a text or messages", "prompt"),
        ([PROMPT, PROMPT], [" girl"], "must be a text or messages", "prompt"),
        (5, [" girl"], "must be a text or messages", "prompt"),
        ({"prompt": PROMPT, "prediction": " girl"}, [" girl"], "nothing is generated", "prediction"),
        ({"prompt": PROMPT, "cache_salt": ""}, [" girl"], "cache_salt must be text", "cache_salt"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    llm: LLM, prompt: object, labels: object, message: str, param: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        llm.decide(prompt, labels)  # type: ignore[arg-type]
    assert refused.value.param == param
    assert not llm.stats().kv_blocks_used
