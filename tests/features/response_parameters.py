"""Parameters of /v1/responses. What the sampler does is tried at chat and completions; here that it gets there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest
from features.asking import Asking, Json
from features.catalogue import RESPONSES, Parameter, no_effect, refused, works
from features.chat_parameters import OF_OPENAI
from features.shared_parameters import OF_MULTIMODAL, OF_REPLICAS, TOKEN, WANDERING
from waiting import asked_until

TOOL = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
SCHEMA = {"type": "object", "properties": {"legs": {"type": "integer", "maximum": 99}}, "required": ["legs"]}


def text(ask: Asking, **fields: object) -> str:
    """The text of an answer."""
    return text_of(ask.answer(**fields))


def text_of(response: Json) -> str:
    """The same of one that is there."""
    return "".join(part["text"] for item in _items(response, "message") for part in item["content"])


def _items(response: Json, kind: str) -> list[Json]:
    return [item for item in response["output"] if item["type"] == kind]


def _model(ask: Asking) -> None:
    assert ask.answer()["model"] == ask.base["model"]
    with pytest.raises(openai.NotFoundError):
        ask.answer(model="other")


def _input(ask: Asking) -> None:
    user = {"role": "user", "content": [{"type": "input_text", "text": ask.base["input"]}]}
    assert text(ask, input=[user]) == text(ask)
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    given = {"type": "function_call_output", "call_id": "a", "output": "a dog"}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    longer = [user, thought, call, given]
    assert _input_tokens(ask, input=longer) > _input_tokens(ask) + 8


def _input_tokens(ask: Asking, **fields: object) -> int:
    count: int = ask.usage(**fields)["input_tokens"]
    return count


def _stream(ask: Asking) -> None:
    events = ask.events()
    assert [events[0]["type"], events[-1]["type"]] == ["response.created", "response.incomplete"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 5
    assert "".join(deltas) == text(ask) == text_of(events[-1]["response"])


def _obfuscation(ask: Asking) -> None:
    events = ask.events(stream_options={"include_obfuscation": True})
    assert any(event.get("obfuscation") for event in events)
    assert not any("obfuscation" in event for event in ask.events())


def _store(ask: Asking) -> None:
    kept = ask.answer(store=True)
    assert text_of(ask.client.responses.retrieve(kept["id"]).model_dump()) == text_of(kept)
    with pytest.raises(openai.NotFoundError):
        ask.client.responses.retrieve(ask.answer(store=False)["id"])


def _background(ask: Asking) -> None:
    later = ask.answer(background=True, store=True)
    response = asked_until(
        lambda: ask.client.responses.retrieve(later["id"]),
        lambda response: response.status not in ("queued", "in_progress"),
        seconds=300,
    )
    assert response.output_text == text(ask)
    ask.refusal("background", background=True, store=False)


def _previous(ask: Asking) -> None:
    first = ask.answer(store=True)
    second = ask.answer(input="And then?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > _input_tokens(ask, input="And then?") + 10
    with pytest.raises(openai.APIStatusError) as missing:
        ask.answer(previous_response_id="resp_0")
    assert "resp_0" in missing.value.message


def _calls(ask: Asking, **fields: object) -> list[str]:
    response = ask.answer(**{"tools": [TOOL], "max_output_tokens": 80, **fields})
    calls = _items(response, "function_call")
    assert all(json.loads(call["arguments"]) == {} for call in calls)
    return [call["name"] for call in calls]


def _tools(ask: Asking) -> None:
    assert _input_tokens(ask, tools=[TOOL]) > _input_tokens(ask) == _input_tokens(ask, tools=[])
    ask.refusal("tools", tools=[{"type": "web_search"}])


def _tool_choice(ask: Asking) -> None:
    assert set(_calls(ask, tool_choice="required")) == {"look"}
    assert set(_calls(ask, tool_choice={"type": "function", "name": "look"})) == {"look"}
    assert _calls(ask, tool_choice="none") == []
    ask.refusal("tool_choice", tool_choice="required")


def _parallel_tool_calls(ask: Asking) -> None:
    for seed in range(3):
        fields = {"tool_choice": "required", "parallel_tool_calls": False, "seed": seed, "temperature": 2}
        assert _calls(ask, **fields) == ["look"]


def _text_format(ask: Asking) -> None:
    schema = {"type": "json_schema", "name": "animal", "schema": SCHEMA}
    for seed in range(4):
        said = text(ask, text={"format": schema}, max_output_tokens=40, seed=seed, temperature=1.5)
        assert "legs" in json.loads(said)
    any_object = text(ask, text={"format": {"type": "json_object"}}, max_output_tokens=40)
    assert isinstance(json.loads(any_object), dict)
    assert text(ask, text={"format": {"type": "text"}, "verbosity": "medium"}) == text(ask)
    ask.refusal("text", text={"verbosity": "low"})


def _reasoning(ask: Asking) -> None:
    assert _items(ask.answer(reasoning={"effort": "low"}), "reasoning")
    assert not _items(ask.answer(reasoning={"effort": "none"}), "reasoning")
    ask.refusal("reasoning", reasoning={"summary": "detailed"})


def _max_output_tokens(ask: Asking) -> None:
    response = ask.answer(max_output_tokens=5)
    assert response["usage"]["output_tokens"] == 5
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def _temperature(ask: Asking) -> None:
    assert len({text(ask, temperature=0, seed=seed) for seed in range(4)}) == 1
    assert len({text(ask, seed=seed, **WANDERING) for seed in range(4)}) == 4


def _seed(ask: Asking) -> None:
    texts = [text(ask, seed=seed, **WANDERING) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def _only_likeliest(name: str, value: object) -> Parameter:
    def prove(ask: Asking) -> None:
        texts = {text(ask, seed=seed, **{**WANDERING, name: value}) for seed in range(4)}
        assert texts == {text(ask, temperature=0)}

    seen = f"{value}: only the likeliest token is left"
    return works(name, prove, seen, source="OpenAI vLLM" if name == "top_p" else "vLLM")


_LOGPROBS = {"include": ["message.output_text.logprobs"]}


def _logprobs(ask: Asking, **fields: object) -> list[Json]:
    [message] = _items(ask.answer(**fields), "message")
    shown: list[Json] = message["content"][0]["logprobs"]
    return shown


def _top_logprobs(ask: Asking) -> None:
    assert all(len(each["top_logprobs"]) == 3 for each in _logprobs(ask, top_logprobs=3, **_LOGPROBS))


def _include(ask: Asking) -> None:
    assert "".join(each["token"] for each in _logprobs(ask, **_LOGPROBS)) == text(ask)
    assert _logprobs(ask) == []
    thinking = {"reasoning": {"effort": "low"}}
    [plain] = _items(ask.answer(**thinking), "reasoning")
    [encoded] = _items(ask.answer(include=["reasoning.encrypted_content"], **thinking), "reasoning")
    assert encoded["encrypted_content"]
    assert not plain.get("encrypted_content")
    ask.refusal("include", include=["file_search_call.results"])


def _metadata(ask: Asking) -> None:
    assert ask.answer(metadata={"a": "b"})["metadata"] == {"a": "b"}
    ask.refusal("metadata", metadata={str(number): "" for number in range(17)})


def _truncation(ask: Asking) -> None:
    assert text(ask, truncation="disabled") == text(ask)
    ask.refusal("truncation", truncation="auto")


def _stop(ask: Asking) -> None:
    whole = text(ask)
    word = whole.split()[3]
    assert text(ask, stop=[word, "never"]) == whole[: whole.index(word)]
    assert ask.answer(stop=word)["status"] == "completed"
    assert text(ask, stop=word, include_stop_str_in_output=True) == whole[: whole.index(word)] + word


def _penalty(name: str, value: float, source: str = "vLLM") -> Parameter:
    def prove(ask: Asking) -> None:
        plain = {"max_output_tokens": 60, "repetition_penalty": 1, "ignore_eos": True}
        assert text(ask, **{**plain, name: value}) != text(ask, **plain)
        ask.refusal(name, **{name: -3})

    return works(name, prove, f"{value:g}: another text", source=source)


def _ending(ask: Asking) -> dict[str, Any]:
    [end] = ask.llm.tokenizer.eos_token_ids  # type: ignore[union-attr]
    return {"logit_bias": {str(end): 100}}


def _ignore_eos(ask: Asking) -> None:
    assert ask.answer(**_ending(ask))["status"] == "completed"
    assert ask.answer(ignore_eos=True, **_ending(ask))["status"] == "incomplete"


def _skip_special_tokens(ask: Asking) -> None:
    assert text(ask, ignore_eos=True, **_ending(ask)) == ""
    assert text(ask, ignore_eos=True, skip_special_tokens=False, **_ending(ask)) == "<|end|>" * 12


def _logit_bias(ask: Asking) -> None:
    tokenizer = ask.llm.tokenizer
    assert tokenizer is not None
    assert text(ask, logit_bias={str(TOKEN): 100}, max_output_tokens=3) == tokenizer.decode([TOKEN] * 3)


def _priority(ask: Asking) -> None:
    assert text(ask, priority=5) == text(ask)
    ask.refusal("priority", priority=2**63)


def _cache_salt(ask: Asking) -> None:
    salt, prompt = secrets.token_hex(), {"input": str(ask.base["input"]) * 20}
    cached = [ask.usage(cache_salt=salt, **prompt)["input_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert cached[0] == 0 < cached[1]


def _template_kwargs(ask: Asking) -> None:
    yes, no = (_input_tokens(ask, chat_template_kwargs={"enable_thinking": value}) for value in (True, False))
    assert yes != no


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, endpoints=(RESPONSES,))
    for one in (
        works("model", _model, "another name than the served one is a 404"),
        works("input", _input, "text, or items: messages, calls, what they gave, thoughts"),
        works(
            "instructions",
            lambda ask: _assert(_input_tokens(ask, instructions="Be brief.") > _input_tokens(ask)),
            "stand before the input, as a system message",
        ),
        works("stream", _stream, "events whose deltas are the text"),
        works("stream_options", _obfuscation, "include_obfuscation pads events", source="OpenAI"),
        works("store", _store, "false: it cannot be asked for again"),
        works("background", _background, "answered at once; the text is there when the response is asked for"),
        works("previous_response_id", _previous, "the conversation up to there comes first"),
        works("tools", _tools, "functions; tools of OpenAI's services are a 400"),
        works("tool_choice", _tool_choice, "required and a named function: calls whose arguments satisfy the schema"),
        works("parallel_tool_calls", _parallel_tool_calls, "false: at most one call"),
        works("text", _text_format, "format: text, json_object, json_schema; no verbosity but medium"),
        works("reasoning", _reasoning, "effort: none has no thought; thoughts are never summarised"),
        works("max_output_tokens", _max_output_tokens, "so many tokens, then the response is incomplete"),
        works("temperature", _temperature, "0: always the same; 2: another with each seed"),
        works("top_logprobs", _top_logprobs, "so many likeliest tokens at each position"),
        works("include", _include, "message.output_text.logprobs, reasoning.encrypted_content"),
        works("metadata", _metadata, "shown again; up to 16 pairs"),
        works("truncation", _truncation, "disabled; auto is a 400: nothing is cut unseen"),
        _only_likeliest("top_p", 1e-6),
        _only_likeliest("top_k", 1),
        _only_likeliest("min_p", 1.0),
        works("seed", _seed, "the same text again, another with another seed", source="vLLM"),
        works("stop", _stop, "the text ends before the string", source="vLLM"),
        works("include_stop_str_in_output", _stop, "the string is the text's end", source="vLLM"),
        _penalty("presence_penalty", 2),
        _penalty("frequency_penalty", 2),
        _penalty("repetition_penalty", 2),
        works("ignore_eos", _ignore_eos, "goes on after the model's end", source="vLLM"),
        works("skip_special_tokens", _skip_special_tokens, "false shows them", source="vLLM"),
        works("logit_bias", _logit_bias, "100 makes a token the only one", source="vLLM"),
        works("priority", _priority, "the order of work, not the text", source="vLLM"),
        works("cache_salt", _cache_salt, "prefixes are shared only with the same salt", source="vLLM"),
        works("chat_template_kwargs", _template_kwargs, "variables of the template", source="vLLM"),
        no_effect("max_tool_calls", 1, why="it is about tools of the server, which has none"),
        no_effect("user", "a", why="nothing is counted by user"),
        no_effect("safety_identifier", "a", why=OF_OPENAI, source="OpenAI"),
        no_effect("prompt_cache_key", "a", why="prefixes are always shared"),
        no_effect("prompt_cache_options", {"mode": "implicit"}, why="prefixes are always shared", source="OpenAI"),
        no_effect("prompt_cache_retention", "in_memory", "24h", why="only an upper bound", source="OpenAI"),
        refused("context_management", [{"type": "compaction"}], why="nothing is cut unseen", source="OpenAI"),
        refused("conversation", "conv_1", why="previous_response_id goes on from a response", source="OpenAI"),
        refused("moderation", {"model": "a"}, why=OF_OPENAI, source="OpenAI"),
        refused("prompt", {"id": "pmpt_1"}, why="prompts are not kept here", source="OpenAI"),
        refused("service_tier", "flex", why=f"{OF_OPENAI}; auto and default are taken", source="OpenAI"),
        refused("enable_response_messages", True, why="the items say the same", source="vLLM"),
        refused("kv_transfer_params", {"a": 1}, why=OF_REPLICAS, source="vLLM"),
        refused("mm_processor_kwargs", {"a": 1}, why=OF_MULTIMODAL, source="vLLM"),
        refused("previous_input_messages", [{"role": "user"}], why="previous_response_id says it", source="vLLM"),
        refused("request_id", "mine", why="ids are the server's: they open what is stored", source="vLLM"),
        refused("structured_outputs", {"regex": "a"}, why="text.format says it", source="vLLM"),
        refused("vllm_xargs", {"a": 1}, why="arguments of vLLM's extensions", source="vLLM"),
    )
)


def _assert(holds: bool) -> None:
    assert holds
