"""Texts of SamplingParams as token ids."""

from __future__ import annotations

import pytest

from headrace import LLM, SamplingParams
from headrace.config import EngineConfig
from headrace.errors import RequestError
from headrace.text.phrases import Phrases
from headrace.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("stories", EngineConfig(kv_memory=32 * 2**20, threads=1))


@pytest.fixture(scope="module")
def tokenizer(llm: LLM) -> Tokenizer:
    assert llm.tokenizer is not None
    return llm.tokenizer


def test_a_word_is_banned_alone_and_behind_a_space(tokenizer: Tokenizer) -> None:
    found = Phrases(tokenizer, tokenizer.vocab_size).bad_words([" little", "little", "dragon"])
    assert [tokenizer.decode(phrase) for phrase in found] == ["little", " little", "dragon", " dragon"]


def test_breakers_are_all_tokens_that_hold_one(tokenizer: Tokenizer) -> None:
    found = Phrases(tokenizer, tokenizer.vocab_size).dry_breakers(("\n", "ou"))
    single = {phrase[0] for phrase in found if len(phrase) == 1}
    wanted = {
        i
        for i in range(tokenizer.vocab_size)
        if {"\n", "ou"} & {p for p in ("\n", "ou") if p in tokenizer.token_text(i)}
    }
    assert single == wanted
    assert len(single) > 10


def test_a_breaker_of_several_tokens_is_spelt(tokenizer: Tokenizer) -> None:
    found = Phrases(tokenizer, tokenizer.vocab_size).dry_breakers(("Once upon a time",))
    assert {tokenizer.decode(phrase).strip() for phrase in found} == {"Once upon a time"}


def test_what_the_model_cannot_produce_is_left_out(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError) as refused:
        Phrases(tokenizer, 3).bad_words(["little"])
    assert refused.value.param == "bad_words"


def test_a_lone_surrogate(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError) as refused:
        Phrases(tokenizer, tokenizer.vocab_size).bad_words(["\ud800"])
    assert refused.value.param == "bad_words"


def test_bad_words_do_not_appear(llm: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=40)
    text = llm.generate(["Once upon a time"], greedy)[0].outputs[0].text
    words = sorted(set(text.replace(".", " ").replace(",", " ").split()), key=len)[-3:]
    banned = SamplingParams(temperature=0, max_tokens=40, bad_words=words)
    other = llm.generate(["Once upon a time"], banned)[0].outputs[0].text
    assert not any(word in other.replace(".", " ").replace(",", " ").split() for word in words)


def test_all_logprobs(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=-1, prompt_logprobs=-1)
    output = llm.generate(["Once"], params)[0]
    assert output.outputs[0].logprobs is not None
    assert output.prompt_logprobs is not None
    for entry in (*output.outputs[0].logprobs, output.prompt_logprobs[-1]):
        assert entry is not None
        assert len(entry) == llm.spec.vocab_size
        assert sorted(each.rank for each in entry.values())[0] == 1


def test_an_allowed_set_of_which_nothing_is_left(llm: LLM) -> None:
    assert llm.tokenizer is not None
    [end] = llm.tokenizer.eos_token_ids
    for params in (
        SamplingParams(allowed_token_ids=[end], min_tokens=2),
        SamplingParams(allowed_token_ids=[llm.tokenizer.encode(" little", False)[0]], bad_words=["little"]),
        SamplingParams(allowed_token_ids=[llm.spec.vocab_size]),
    ):
        with pytest.raises(RequestError) as refused:
            llm.generate(["Once"], params)
        assert refused.value.param == "allowed_token_ids"
