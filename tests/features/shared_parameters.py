"""Parameters that chat and completions share."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

import openai
import pytest
from features.asking import Asking, Json, text_of
from features.catalogue import CHAT, COMPLETIONS, Parameter, PerEndpoint, no_effect, refused, works
from waiting import wait_until

WANDERING = {"temperature": 2, "top_k": 0, "top_p": 1}
"""So hot that a text repeats only if something forces it."""
TOKEN = 300
"""Some token that is neither special nor empty."""


def _model(ask: Asking) -> None:
    assert ask.answer()["model"] == ask.base["model"]
    with pytest.raises(openai.NotFoundError) as missing:
        ask.answer(model="other")
    assert missing.value.param == "model"


def _stream(ask: Asking) -> None:
    events = [event for event in ask.events() if event["choices"]]
    assert len(events) > 5
    pieces = [choice.get("text") or choice.get("delta", {}).get("content") or "" for [choice] in map(_choices, events)]
    assert "".join(pieces) == ask.text()


def _choices(event: dict[str, list[dict[str, dict[str, str]]]]) -> list[dict[str, dict[str, str]]]:
    return event["choices"]


def _include_usage(ask: Asking) -> None:
    assert all("usage" not in event for event in ask.events())
    *rest, last = ask.events(stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in rest)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == ask.usage()["completion_tokens"]


def _continuous_usage(ask: Asking) -> None:
    events = ask.events(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [event["usage"]["completion_tokens"] for event in events if event["usage"]]
    assert counts == sorted(counts)
    assert counts[-1] == ask.usage()["completion_tokens"]


def _max_tokens(ask: Asking) -> None:
    answer = ask.answer(max_tokens=5)
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"


def _n(ask: Asking) -> None:
    texts = ask.texts(n=3, seed=1, **WANDERING)
    assert len(set(texts)) == 3
    assert texts == ask.texts(n=3, seed=1, **WANDERING)


def _temperature(ask: Asking) -> None:
    assert len({ask.text(temperature=0, seed=seed) for seed in range(4)}) == 1
    assert len({ask.text(seed=seed, **WANDERING) for seed in range(4)}) == 4


def only_likeliest(ask: Asking, **fields: object) -> None:
    """All seeds give the text of temperature 0."""
    texts = {ask.text(seed=seed, **{**WANDERING, **fields}) for seed in range(4)}
    assert texts == {ask.text(temperature=0)}


def _penalty(name: str) -> Parameter:
    def prove(ask: Asking) -> None:
        fewer, plain, more = (
            len(set(tokens(ask, max_tokens=120, repetition_penalty=1, **{name: value}))) for value in (2, 0, -2)
        )
        assert fewer > plain > more

    return works(name, prove, "of 120 tokens more are different at 2, fewer at -2, than at 0")


def _repetition_penalty(ask: Asking) -> None:
    different = tokens(ask, max_tokens=40, repetition_penalty=1e6)
    assert len(set(different)) == len(different) == 40
    assert len(set(tokens(ask, max_tokens=40, repetition_penalty=1))) < 40


def tokens(ask: Asking, **fields: object) -> Sequence[str]:
    """The texts of an answer's tokens."""
    logprobs = ask.choice(logprobs=True if ask.path.startswith("/chat") else 0, **fields)["logprobs"]
    return logprobs["tokens"] if "tokens" in logprobs else [entry["token"] for entry in logprobs["content"]]


def _logit_bias(ask: Asking) -> None:
    [token] = set(tokens(ask, logit_bias={str(TOKEN): 100}))
    assert token == ask.llm.tokenizer.token_text(TOKEN)  # type: ignore[union-attr]
    greedy = tokens(ask)[0]
    [banned] = [i for i in range(2000) if ask.llm.tokenizer.token_text(i) == greedy][:1]  # type: ignore[union-attr]
    assert tokens(ask, logit_bias={str(banned): -100})[0] != greedy


def _seed(ask: Asking) -> None:
    texts = [ask.text(seed=seed, **WANDERING) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert ask.text(**WANDERING) != ask.text(**WANDERING)


def _stop(ask: Asking) -> None:
    text = ask.text()
    word = text.split()[3]
    choice = ask.choice(stop=[word, "never"])
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == word
    assert ask.text(stop=word) == text[: text.index(word)]


def _include_stop(ask: Asking) -> None:
    word = ask.text().split()[3]
    assert ask.text(stop=word, include_stop_str_in_output=True) == ask.text(stop=word) + word


def _stop_token_ids(ask: Asking) -> None:
    choice = ask.choice(logit_bias={str(TOKEN): 100}, stop_token_ids=[TOKEN])
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", TOKEN)


def _ending(ask: Asking) -> dict[str, object]:
    [end] = ask.llm.tokenizer.eos_token_ids  # type: ignore[union-attr]
    return {"logit_bias": {str(end): 100}}


def _min_tokens(ask: Asking) -> None:
    assert ask.usage(**_ending(ask))["completion_tokens"] == 1
    assert ask.usage(min_tokens=7, **_ending(ask))["completion_tokens"] == 8


def _ignore_eos(ask: Asking) -> None:
    choice = ask.choice(ignore_eos=True, **_ending(ask))
    assert choice["finish_reason"] == "length"
    assert ask.choice(**_ending(ask))["finish_reason"] == "stop"


def _skip_special_tokens(ask: Asking) -> None:
    assert ask.text(ignore_eos=True, **_ending(ask)) == ""
    assert ask.text(ignore_eos=True, skip_special_tokens=False, **_ending(ask)) == "<|end|>" * 12


def _logprob_token_ids(ask: Asking) -> None:
    fields = {"logprob_token_ids": [TOKEN], "logprobs": True if ask.path.startswith("/chat") else 1}
    name = f"token_id:{TOKEN}"
    answer = ask.answer(max_tokens=3, return_tokens_as_token_ids=True, **fields)["choices"][0]["logprobs"]
    if "content" in answer:
        tops = [{each["token"] for each in entry["top_logprobs"]} for entry in answer["content"]]
    else:
        tops = [set(each) for each in answer["top_logprobs"]]
    assert all(name in top for top in tops)
    assert all(len(top) <= 2 for top in tops)
    ask.refusal("logprob_token_ids", logprob_token_ids=[TOKEN])


def _prompt_logprobs(ask: Asking) -> None:
    answer = ask.answer(prompt_logprobs=2)
    positions = answer.get("prompt_logprobs") or answer["choices"][0]["prompt_logprobs"]
    assert positions[0] is None
    assert len(positions) == answer["usage"]["prompt_tokens"]
    assert all(len(position) >= 2 for position in positions[1:])


def _add_special_tokens(ask: Asking) -> None:
    more, fewer = (ask.usage(add_special_tokens=value)["prompt_tokens"] for value in (True, False))
    assert more == fewer + 1


def _obfuscation(ask: Asking) -> None:
    events = ask.events(stream_options={"include_obfuscation": True})
    assert all(event["obfuscation"].isascii() for event in events)
    assert len({len(event["obfuscation"]) for event in events}) > 1
    assert not any("obfuscation" in event for event in ask.events())


def _truncate(ask: Asking) -> None:
    whole = ask.usage()["prompt_tokens"]
    assert [ask.usage(truncate_prompt_tokens=length)["prompt_tokens"] for length in (1, 3, 99)] == [1, 3, whole]
    too_long = {name: _long(value) for name, value in ask.base.items() if name in ("prompt", "messages")}
    ask.refusal(next(iter(too_long)), **too_long)
    assert ask.usage(truncate_prompt_tokens=-1, **too_long)["total_tokens"] == ask.llm.max_context


def _long(value: object) -> object:
    return value * 400 if isinstance(value, str) else [{"role": "user", "content": "Once upon a time" * 400}]


def _truncation_side(ask: Asking) -> None:
    asked = {"truncate_prompt_tokens": 2, "return_token_ids": True}
    ids = {side: _prompt_ids(ask.answer(truncation_side=side, **asked)) for side in ("left", "right")}
    whole = _prompt_ids(ask.answer(return_token_ids=True))
    assert ids == {"left": whole[-2:], "right": whole[:2]}
    assert _prompt_ids(ask.answer(**asked)) == ids["left"]


def _prompt_ids(answer: Json) -> list[int]:
    ids: list[int] = answer.get("prompt_token_ids") or answer["choices"][0]["prompt_token_ids"]
    return ids


def _stream_interval(ask: Asking) -> None:
    counts = [
        len(event["choices"][0].get("token_ids") or ())
        for event in ask.events(stream_interval=4, return_token_ids=True)
    ]
    assert [count for count in counts if count] == [1, 4, 4, 3]


def _return_token_ids(ask: Asking) -> None:
    answer = ask.answer(return_token_ids=True)
    [choice] = answer["choices"]
    tokenizer = ask.llm.tokenizer
    assert tokenizer is not None
    assert tokenizer.decode(choice["token_ids"]) == text_of(choice)
    assert len(_prompt_ids(answer)) == answer["usage"]["prompt_tokens"]
    events = ask.events(return_token_ids=True)
    streamed = [token for event in events for token in event["choices"][0].get("token_ids", ())]
    assert streamed == choice["token_ids"]
    assert _prompt_ids(events[0]) == _prompt_ids(answer)
    assert "prompt_token_ids" not in str(events[2])


def _tokens_as_ids(ask: Asking) -> None:
    ids = ask.choice(return_token_ids=True)["token_ids"]
    assert tokens(ask, return_tokens_as_token_ids=True) == [f"token_id:{token}" for token in ids]
    ask.refusal("return_tokens_as_token_ids", return_tokens_as_token_ids=True)


def _request_id(ask: Asking) -> None:
    assert ask.answer(request_id="mine")["id"].endswith("-mine")
    assert ask.events(request_id="mine")[0]["id"].endswith("-mine")


def _priority(ask: Asking) -> None:
    """Four sequences run at once here: while a request has all, eight wait; the four of lowest number run first."""
    finished: list[int] = []

    def run(priority: int) -> None:
        ask.text(priority=priority, max_tokens=60, ignore_eos=True)
        finished.append(priority)

    busy = threading.Thread(target=ask.texts, kwargs={"n": 4, "max_tokens": 480, "ignore_eos": True})
    threads = [busy, *(threading.Thread(target=run, args=(priority,)) for priority in range(7, -1, -1))]
    _start_when(threads[:1], lambda: True)
    _start_when(threads[1:], lambda: ask.llm.stats().num_running == 4)
    _start_when([], lambda: ask.llm.stats().num_waiting == 8)
    for thread in threads:
        thread.join()
    ranks = [finished.index(priority) for priority in range(8)]
    assert sum(ranks[:4]) < sum(ranks[4:]), finished  # by arrival it would be the other way round


def _start_when(threads: Sequence[threading.Thread], is_time: Callable[[], bool]) -> None:
    wait_until(is_time)
    for thread in threads:
        thread.start()


def _cache_salt(ask: Asking) -> None:
    prompt = {name: _long_enough(value) for name, value in ask.base.items() if name in ("prompt", "messages")}

    def cached(**fields: object) -> int:
        count: int = ask.usage(**prompt, **fields)["prompt_tokens_details"]["cached_tokens"]
        return count

    cached()
    assert cached() > 0
    assert cached(cache_salt=secrets.token_hex()) == 0
    salt = secrets.token_hex()
    assert [cached(cache_salt=salt) > 0 for _ in range(2)] == [False, True]
    ask.refusal("cache_salt", cache_salt="")


def _cache_prompt(ask: Asking) -> None:
    prompt = {name: _long_enough(value) for name, value in ask.base.items() if name in ("prompt", "messages")}
    cached = [
        ask.usage(**prompt, cache_prompt=wanted)["prompt_tokens_details"]["cached_tokens"]
        for wanted in (True, True, False)
    ]
    assert cached[1] > cached[2] == 0


def _long_enough(value: object) -> object:
    return value * 20 if isinstance(value, str) else [{"role": "user", "content": "Once upon a time" * 20}]


OF_MULTIMODAL = "there is no model with images, sound or video here"
OF_REPLICAS = "there is one engine, nothing is handed on between several"
FOR_LATER = "not yet"
NOTHING_SHIFTS = "nothing is shifted out of the context"
ONLY_THERE = "of llama-server's own paths"


BEAMS = {"use_beam_search": True, "n": 4}
"""What the parameters of beam search need"""


def _sums(ask: Asking, **fields: object) -> list[float]:
    """Of each choice's log-probabilities, divided by its length."""
    sums = []
    for choice in ask.answer(logprobs=True if ask.path.startswith("/chat") else 0, **fields)["choices"]:
        logprobs = choice["logprobs"]
        values = logprobs.get("token_logprobs") or [entry["logprob"] for entry in logprobs["content"]]
        sums.append(sum(values) / len(values))
    return sums


def _use_beam_search(ask: Asking) -> None:
    texts = ask.texts(**BEAMS)
    assert len(set(texts)) == 4
    sums = _sums(ask, **BEAMS)
    assert sums == sorted(sums, reverse=True)
    assert sums[0] >= _sums(ask)[0]  # greedy
    assert texts == ask.texts(**BEAMS, temperature=None, seed=5)
    streamed = [event["choices"][0] for event in ask.events(**BEAMS) if event["choices"]]
    assert texts == [
        "".join(
            each.get("text") or each.get("delta", {}).get("content") or "" for each in streamed if each["index"] == i
        )
        for i in range(4)
    ]
    for name, value in (("top_k", 5), ("temperature", 0.5), ("stop", ["x"]), ("logit_bias", {"5": 1})):
        ask.refusal(name, **BEAMS, **{name: value})
    ask.refusal("response_format", **BEAMS, response_format={"type": "json_object"})


def _lengths(ask: Asking, **fields: object) -> int:
    """Tokens of four beams that may end soon."""
    likely = {ask.llm.tokenizer.encode(text, add_special_tokens=False)[-1] for text in ask.texts(**BEAMS)}  # type: ignore[union-attr]
    return int(ask.usage(**BEAMS, max_tokens=30, stop_token_ids=sorted(likely), **fields)["completion_tokens"])


def _length_penalty(ask: Asking) -> None:
    assert _lengths(ask, length_penalty=-5) < _lengths(ask, length_penalty=5, early_stopping="never")
    ask.refusal("length_penalty", length_penalty=0.5)


def _early_stopping(ask: Asking) -> None:
    at_once, when_no_better, when_none_can = (
        _lengths(ask, early_stopping=value, length_penalty=3) for value in (True, False, "never")
    )
    assert at_once <= when_no_better <= when_none_can
    assert at_once < when_none_can
    ask.refusal("early_stopping", early_stopping=True)


PARAMETERS: Sequence[Parameter] = (
    works("model", _model, "another name than the served one is a 404"),
    works("stream", _stream, "server-sent events, whose pieces make up the same text"),
    works("stream_options", _include_usage, "with stream=true; null is no option", needs={"stream": True}, takes=("",)),
    works(
        "stream_options.include_usage",
        _include_usage,
        "the last event has the usage and no choices, the others have null",
        needs={"stream": True},
    ),
    works(
        "stream_options.continuous_usage_stats",
        _continuous_usage,
        "every event has the usage so far",
        source="vLLM",
        needs={"stream": True},
    ),
    works(
        "stream_options.include_obfuscation",
        _obfuscation,
        "events are padded to multiples of 128 bytes; off unless asked for",
        source="OpenAI",
        needs={"stream": True},
    ),
    works("max_tokens", _max_tokens, "so many tokens, finish_reason length"),
    works("n", _n, "so many texts, each its own, all repeated by the seed"),
    works("temperature", _temperature, "0 always gives the same text, 2 never"),
    works("top_p", lambda ask: only_likeliest(ask, top_p=1e-6), "next to 0 only the likeliest token is left"),
    works("top_k", lambda ask: only_likeliest(ask, top_k=1), "1 leaves only the likeliest token", source="vLLM"),
    works("min_p", lambda ask: only_likeliest(ask, min_p=1), "1 leaves only the likeliest token", source="vLLM"),
    _penalty("presence_penalty"),
    _penalty("frequency_penalty"),
    works("repetition_penalty", _repetition_penalty, "so high that no token comes twice; at 1 some do", source="vLLM"),
    works("logit_bias", _logit_bias, "100 makes a token the only one, -100 keeps the likeliest away"),
    works("seed", _seed, "the same text again, another with another seed, and always another without"),
    works("stop", _stop, "the text ends before the string; stop_reason says which"),
    works("include_stop_str_in_output", _include_stop, "the string is the text's end", source="vLLM"),
    works("stop_token_ids", _stop_token_ids, "the token ends the text; stop_reason says which", source="vLLM"),
    works("min_tokens", _min_tokens, "an end that would come at once comes after them", source="vLLM"),
    works("ignore_eos", _ignore_eos, "goes on after the end-of-sequence token", source="vLLM"),
    works("skip_special_tokens", _skip_special_tokens, "false shows them in the text", source="vLLM"),
    works("use_beam_search", _use_beam_search, "the n likeliest of n beams, best first", source="vLLM"),
    works("length_penalty", _length_penalty, "below 0 short ones come first", source="vLLM", needs=BEAMS),
    works("early_stopping", _early_stopping, "true, false and never; true ends first", source="vLLM", needs=BEAMS),
    works("prompt_logprobs", _prompt_logprobs, "one entry for each prompt token", source="vLLM"),
    works("add_special_tokens", _add_special_tokens, "true adds the begin-of-sequence token", source="vLLM"),
    works("truncate_prompt_tokens", _truncate, "so many of the prompt's last tokens; -1 is what fits", source="vLLM"),
    works(
        "truncation_side",
        _truncation_side,
        "right keeps the first tokens, left the last",
        source="vLLM",
        needs={"truncate_prompt_tokens": 2},
    ),
    works(
        "stream_interval",
        _stream_interval,
        "so many tokens an event, but for the first and the last",
        source="vLLM",
        needs={"stream": True},
    ),
    works(
        "return_token_ids", _return_token_ids, "ids of the prompt and of the text, whole and streamed", source="vLLM"
    ),
    works(
        "return_tokens_as_token_ids",
        _tokens_as_ids,
        "log-probabilities name tokens token_id:17",
        source="vLLM",
        needs={"logprobs": PerEndpoint({CHAT: True, COMPLETIONS: 1})},
    ),
    works("request_id", _request_id, "is the end of the answer's id", source="vLLM"),
    works("priority", _priority, "a lower one overtakes those that wait", source="vLLM"),
    works("cache_prompt", _cache_prompt, "false: no token of the prompt comes from the cache", source="llama.cpp"),
    *(
        no_effect(name, 0, 1, why=why, source="llama.cpp")
        for name, why in (
            ("id_slot", "prefixes are shared by all requests"),
            ("n_keep", NOTHING_SHIFTS),
            ("n_discard", NOTHING_SHIFTS),
        )
    ),
    refused("n_predict", 5, why="max_tokens says the same", source="llama.cpp"),
    refused("n_cmpl", 2, why="n says the same; 1 is taken", source="llama.cpp"),
    refused("return_tokens", True, why="return_token_ids says the same", source="llama.cpp"),
    refused("timings_per_token", True, why=ONLY_THERE, source="llama.cpp"),
    refused("response_fields", ["content"], why=ONLY_THERE, source="llama.cpp"),
    refused("return_progress", True, why=ONLY_THERE, source="llama.cpp"),
    refused("sse_ping_interval", 5, why="streams are not kept open by comments", source="llama.cpp"),
    refused("t_max_predict_ms", 5, why="x-request-timeout bounds a request", source="llama.cpp"),
    refused("n_indent", 2, why="lines may be indented as they come", source="llama.cpp"),
    refused("n_cache_reuse", 5, why="only prefixes are reused: the rest would change the answer", source="llama.cpp"),
    refused("lora", [{"id": 0, "scale": 1}], why="an adapter is a model, with a name", source="llama.cpp"),
    refused("image_data", [{"id": 1}], why=OF_MULTIMODAL, source="llama.cpp"),
    works("cache_salt", _cache_salt, "prefixes are shared only with the same salt", source="vLLM"),
    no_effect(
        "spaces_between_special_tokens",
        False,
        why="special tokens are written as they are, as vLLM's fast tokenizers do",
        source="vLLM",
    ),
    no_effect("user", "me", why="a name for the provider's records; there are none"),
    no_effect("safety_identifier", "me", why="a name for the provider's records; there are none", source="OpenAI"),
    no_effect("metadata", {"a": "b"}, why="notes for the provider's records; there are none", source="OpenAI"),
    no_effect(
        "prompt_cache_key", "key", why="a hint which requests share a prefix; all that do are found", source="OpenAI"
    ),
    no_effect(
        "prompt_cache_retention",
        "in_memory",
        "24h",
        why="bounds how long a prefix may be kept, which is shorter here",
        source="OpenAI",
        takes=("=in_memory", "=24h"),
    ),
    no_effect(
        "service_tier",
        "auto",
        "default",
        why="there is one tier; flex, scale, priority and fast are a 400",
        source="OpenAI",
        takes=("=auto", "=default"),
        refuses=("=flex", "=scale", "=priority", "=fast"),
    ),
    refused("store", True, why="nothing is stored; false is taken", source="OpenAI", takes=("=false",)),
    no_effect("session_id", "ours", why="a name for routing between replicas; there is one engine", source="vLLM"),
    works(
        "logprob_token_ids",
        _logprob_token_ids,
        "of these tokens at each position, likely or not",
        source="vLLM",
        needs={"logprobs": PerEndpoint({CHAT: True, COMPLETIONS: 1})},
    ),
    refused("thinking_token_budget", 5, why="a completion has no thought", source="vLLM", endpoints=(COMPLETIONS,)),
    refused("repetition_detection", {"max_pattern_size": 4}, why=FOR_LATER, source="vLLM"),
    refused("watermarking", True, why="there are no watermarks", source="vLLM"),
    refused("return_token_offsets", True, why="of vLLM's render endpoints, which are not here", source="vLLM"),
    refused("routed_experts_prompt_start", 1, why="which experts were used is not shown", source="vLLM"),
    refused("mm_payload", "none", why=OF_MULTIMODAL, source="vLLM"),
    refused("return_mm_kwargs", True, why=OF_MULTIMODAL, source="vLLM"),
    refused("kv_transfer_params", {"a": 1}, why=OF_REPLICAS, source="vLLM"),
    refused("ec_transfer_params", {"a": 1}, why=OF_REPLICAS, source="vLLM"),
    refused("vllm_xargs", {"a": 1}, why="arguments of vLLM's extensions", source="vLLM"),
    refused("logits_processors", ["a"], why="code in requests is not run", source="vLLM"),
    refused("guided_decoding_backend", "outlines", why="there is one; auto is taken", source="vLLM", takes=("=auto",)),
)
