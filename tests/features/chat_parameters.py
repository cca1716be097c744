"""Parameters of /v1/chat/completions alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from features.asking import Asking
from features.catalogue import CHAT, Parameter, no_effect, refused, works
from features.shared_parameters import OF_MULTIMODAL

USER = {"role": "user", "content": "Once upon a time"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
OF_OPENAI = "a service of OpenAI's"


def _messages(ask: Asking) -> None:
    begun = {"role": "assistant", "content": "a big red dog saw a cat"}
    assert ask.text(messages=[USER, begun]) != ask.text()
    parts = [{"type": "text", "text": "Once upon"}, {"type": "text", "text": "a time"}]
    assert ask.usage(messages=[{"role": "user", "content": parts}])["prompt_tokens"] > 3
    for role in ("system", "developer"):
        first = {"role": role, "content": "Be brief."}
        assert ask.text(messages=[first, USER]) == ask.text(messages=[{**first, "role": "system"}, USER])
        assert ask.text(messages=[first, USER]) != ask.text()
    assert ask.text(messages=[{**USER, "name": "Tom"}]) != ask.text()


def _max_completion_tokens(ask: Asking) -> None:
    assert ask.usage(max_tokens=None, max_completion_tokens=5)["completion_tokens"] == 5
    ask.refusal("max_completion_tokens", max_tokens=4, max_completion_tokens=5)


def _logprobs(ask: Asking) -> None:
    content = ask.choice(logprobs=True)["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == ask.text()
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in content)
    assert ask.choice()["logprobs"] is None


def _top_logprobs(ask: Asking) -> None:
    for entry in ask.choice(logprobs=True, top_logprobs=3)["logprobs"]["content"]:
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy


def _template_kwargs(ask: Asking) -> None:
    plain, yes, no = (ask.usage(chat_template_kwargs=kwargs)["prompt_tokens"] for kwargs in _THINKING)
    assert len({plain, yes, no}) == 3


_THINKING = ({}, {"enable_thinking": True}, {"enable_thinking": False})


def _add_generation_prompt(ask: Asking) -> None:
    with_it, without = (ask.usage(add_generation_prompt=value)["prompt_tokens"] for value in (True, False))
    assert with_it == without + 1


def _continue(ask: Asking) -> None:
    messages = [USER, {"role": "assistant", "content": ", there was a"}]
    continued = ask.text(messages=messages, add_generation_prompt=False, continue_final_message=True)
    assert continued != ask.text(messages=messages)
    ask.refusal("continue_final_message", messages=messages, continue_final_message=True)


def _tools(ask: Asking) -> None:
    assert (
        ask.usage(tools=[TOOL])["prompt_tokens"] > ask.usage()["prompt_tokens"] == ask.usage(tools=[])["prompt_tokens"]
    )
    called = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"far": 1}'}}
    result = {"role": "tool", "tool_call_id": "a", "content": "a dog"}
    said = {"role": "assistant", "content": None, "tool_calls": [called]}
    with_call, without = [USER, said, result, USER], [USER, result, USER]
    assert ask.usage(messages=with_call)["prompt_tokens"] > ask.usage(messages=without)["prompt_tokens"] + 8
    ask.refusal("tools", tools=[TOOL, TOOL])


NO_ARGUMENTS = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "additionalProperties": False}},
}


def _calls(ask: Asking, **fields: object) -> list[str]:
    choice = ask.choice(tools=[NO_ARGUMENTS], max_tokens=80, **fields)
    calls = choice["message"].get("tool_calls") or []
    assert choice["finish_reason"] in ("tool_calls", "stop", "length")
    for call in calls:
        assert json.loads(call["function"]["arguments"]) == {}
    return [call["function"]["name"] for call in calls]


def _tool_choice(ask: Asking) -> None:
    assert set(_calls(ask, tool_choice="required")) == {"look"}
    assert set(_calls(ask, tool_choice={"type": "function", "function": {"name": "look"}})) == {"look"}
    assert _calls(ask, tool_choice="none") == []
    ask.refusal("tool_choice", tool_choice="required")
    ask.refusal("tool_choice", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "see"}})


def _parallel_tool_calls(ask: Asking) -> None:
    for seed in range(3):
        assert _calls(ask, tool_choice="required", parallel_tool_calls=False, seed=seed, temperature=2) == ["look"]


def _functions(ask: Asking) -> None:
    function = NO_ARGUMENTS["function"]
    assert ask.usage(functions=[function])["prompt_tokens"] == ask.usage(tools=[NO_ARGUMENTS])["prompt_tokens"]
    said = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"far": 1}'}}
    result = {"role": "function", "name": "look", "content": "a dog"}
    assert ask.usage(messages=[USER, said, result])["prompt_tokens"] > ask.usage()["prompt_tokens"] + 8
    ask.refusal("functions", functions=[function], tools=[TOOL])


def _function_call(ask: Asking) -> None:
    function = NO_ARGUMENTS["function"]
    fields = {"functions": [function], "function_call": {"name": "look"}, "max_tokens": 80}
    choice = ask.choice(**fields)
    assert choice["message"]["function_call"]["name"] == "look"
    assert json.loads(choice["message"]["function_call"]["arguments"]) == {}
    assert choice["finish_reason"] == "stop"
    deltas = [event["choices"][0]["delta"].get("function_call", {}) for event in ask.events(**fields)]
    assert "".join(delta.get("arguments", "") for delta in deltas) == choice["message"]["function_call"]["arguments"]
    assert "function_call" not in ask.choice(**{**fields, "function_call": "none"})["message"]
    ask.refusal("function_call", functions=[function], function_call={"name": "see"})


def _prediction(ask: Asking) -> None:
    plain = ask.answer(max_tokens=40)
    text = plain["choices"][0]["message"]["content"]
    answer = ask.answer(max_tokens=40, prediction={"type": "content", "content": text})
    assert answer["choices"] == plain["choices"]
    details = answer["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 30
    wrong = {"type": "content", "content": [{"type": "text", "text": "Nothing of the kind."}]}
    answer = ask.answer(max_tokens=40, prediction=wrong)
    assert answer["choices"] == plain["choices"]
    assert answer["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] > 3


_THOUGHT = {"chat_template_kwargs": {"enable_thinking": True}}


def _reasoning_effort(ask: Asking) -> None:
    assert "reasoning_content" not in ask.choice(reasoning_effort="none")["message"]
    assert ask.choice(reasoning_effort="low")["message"]["reasoning_content"]
    ask.refusal("reasoning_effort", reasoning_effort="enormous")


def _thinking_token_budget(ask: Asking) -> None:
    answer = ask.answer(thinking_token_budget=3, max_tokens=40, **_THOUGHT)
    assert answer["choices"][0]["message"]["content"]
    assert 3 <= answer["usage"]["completion_tokens_details"]["reasoning_tokens"] < 40


def _include_reasoning(ask: Asking) -> None:
    message = ask.choice(**_THOUGHT)["message"]
    assert message["reasoning_content"] == message["reasoning"] != ""
    assert message["content"] is None
    assert "reasoning_content" not in ask.choice(include_reasoning=False, **_THOUGHT)["message"]


def _documents(ask: Asking) -> None:
    documents = [{"title": "Cats", "text": "They purr."}]
    assert "Cats: They purr." in ask.answer(documents=documents, return_prompt_text=True)["prompt_text"]
    ask.refusal("documents", documents=documents, chat_template="{{ messages[0].content }}")


def _chat_template(ask: Asking) -> None:
    template = "{{ bos_token }}{{ messages[0].content | upper }}"
    answer = ask.answer(chat_template=template, return_prompt_text=True)
    assert answer["prompt_text"] == "<|begin|>ONCE UPON A TIME"
    ask.refusal("chat_template", chat_template="{% for %}")


def _prompt_text(ask: Asking) -> None:
    assert ask.answer(return_prompt_text=True)["prompt_text"] == "<|begin|>Once upon a time,"
    assert ask.events(return_prompt_text=True)[0]["prompt_text"] == "<|begin|>Once upon a time,"


def _echo(ask: Asking) -> None:
    fields = {
        "messages": [USER, {"role": "assistant", "content": ", there was a"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    assert ask.text(echo=True, **fields) == ", there was a" + ask.text(**fields)


PARAMETERS: Sequence[Parameter] = tuple(
    replace(one, endpoints=(CHAT,))
    for one in (
        works(
            "messages",
            _messages,
            "system, developer, user, assistant and tool with text, whole or in parts, thoughts and tool calls, through"
            " the model's template",
            takes=(
                *(
                    f"[{role}]{rest}"
                    for role in ("developer", "system", "user", "assistant", "tool")
                    for rest in ("", ".content", ".content[text]", ".content[text].text", ".name")
                    if (role, rest) not in (("assistant", ""), ("assistant", ".name"), ("tool", ".name"))  # no content
                ),
                "[tool].tool_call_id",
            ),
        ),
        works("max_completion_tokens", _max_completion_tokens, "as max_tokens; both only if equal"),
        works("logprobs", _logprobs, "each token of the text with its log-probability and bytes"),
        works("top_logprobs", _top_logprobs, "so many likeliest tokens at each position", needs={"logprobs": True}),
        works("chat_template_kwargs", _template_kwargs, "variables of the template", source="vLLM"),
        works("documents", _documents, "given to the template; a 400 where it does not read them", source="vLLM"),
        works(
            "chat_template",
            _chat_template,
            "takes the model's place, on a server with --trust-request-chat-template; else a 400",
            source="vLLM",
        ),
        works("return_prompt_text", _prompt_text, "what the model is given, as text", source="vLLM"),
        works("add_generation_prompt", _add_generation_prompt, "false leaves the turn unopened", source="vLLM"),
        works(
            "continue_final_message",
            _continue,
            "the last message is gone on with",
            source="vLLM",
            needs={"add_generation_prompt": False},
        ),
        works("echo", _echo, "the message that is continued comes first", source="vLLM"),
        no_effect(
            "prompt_cache_options",
            {"mode": "implicit"},
            why="prefixes are always shared; mode explicit and ttl are a 400",
            source="OpenAI",
            takes=(".mode=implicit",),
            refuses=(".mode=explicit", ".ttl"),
        ),
        refused("audio", {"voice": "ash", "format": "wav"}, why=OF_MULTIMODAL, source="OpenAI"),
        refused(
            "modalities",
            ["text", "audio"],
            why=f'{OF_MULTIMODAL}; ["text"] is taken',
            source="OpenAI",
            takes=("=text",),
        ),
        refused("moderation", {"model": "m"}, why=OF_OPENAI, source="OpenAI"),
        refused("web_search_options", {}, why=OF_OPENAI, source="OpenAI"),
        works(
            "prediction",
            _prediction,
            "its text is guessed: the same answer, sooner; the usage says how much of it came",
            source="OpenAI",
            takes=("[content]", "[content].content", "[content].content[text]", "[content].content[text].text"),
        ),
        refused(
            "verbosity",
            "low",
            "high",
            why="for models of OpenAI's that know it; medium, its neutral value, is taken",
            source="OpenAI",
            takes=("=medium",),
        ),
        works(
            "reasoning_effort",
            _reasoning_effort,
            "none: no thought; low and medium bound it, for models whose template does not read it",
            takes=tuple(f"={effort}" for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        ),
        works("thinking_token_budget", _thinking_token_budget, "the thought is closed after so many", source="vLLM"),
        works(
            "tools",
            _tools,
            "the model's template shows them; calls come as tool_calls",
            takes=tuple(
                f"[function]{rest}"
                for rest in (
                    *("", ".type=function", ".function", ".function.name", ".function.description"),
                    *(".function.parameters", ".function.strict=true", ".function.strict=false"),
                )
            ),
        ),
        works(
            "tool_choice",
            _tool_choice,
            "required and a named function: the answer is calls whose arguments satisfy the schema; none: no call",
            takes=("=none", "=auto", "=required"),
            needs={"tools": [TOOL], "max_tokens": 80},
        ),
        works("parallel_tool_calls", _parallel_tool_calls, "false: at most one call"),
        works(
            "functions",
            _functions,
            "tools in OpenAI's older words: at most one call, which comes as function_call",
            source="OpenAI",
            takes=(".name", ".description", ".parameters"),
        ),
        works(
            "function_call",
            _function_call,
            "a name: the answer is a call of it; none: no call",
            source="OpenAI",
            takes=("=none", "=auto", ".name"),
            needs={"functions": [{"name": "text"}], "max_tokens": 80},
        ),
        works("include_reasoning", _include_reasoning, "false leaves the thought out of the answer", source="vLLM"),
        refused("media_io_kwargs", {"a": {}}, why=OF_MULTIMODAL, source="vLLM"),
        refused("reasoning_format", "none", why="thoughts stand apart; auto is taken", source="llama.cpp"),
        refused("parse_tool_calls", False, why="include_reasoning and tools say what is read", source="llama.cpp"),
        refused("thinking_forced_open", True, why="the template says where a thought begins", source="llama.cpp"),
        refused("mm_processor_kwargs", {"a": 1}, why=OF_MULTIMODAL, source="vLLM"),
    )
)
