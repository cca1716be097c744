"""Chat templates against transformers' own rendering, and what clients may get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from headrace.errors import DamagedFile, ModelError, ModelNotFound, RequestError
from headrace.hub.files import ModelFiles
from headrace.text.chat import ChatTemplate, load_chat_template

ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TEMPLATES = [
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
]


def user(text: str = "Hi <there> & 'you'") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Größe <b>&</b>"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It's so", "parameters": PARAMETERS}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": '{"degrees": 3}'}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], Any, dict[str, Any]]] = {
    "plain": ([user()], None, {}),
    "system": ([SYSTEM, user()], None, {}),
    "turns": ([user(), assistant(), user("  And? \n")], None, {}),
    "system and turns": ([SYSTEM, user(), assistant("<think>\nhm\n</think>\n\nHello"), user()], None, {}),
    "reasoning": ([user(), assistant(reasoning_content="Hm."), user()], None, {}),
    "thinking off": ([user()], None, {"enable_thinking": False}),
    "thinking on": ([user()], None, {"enable_thinking": True}),
    "tools": ([user()], TOOLS, {}),
    "system and tools": ([SYSTEM, user()], TOOLS, {}),
    "call": ([user(), assistant("", tool_calls=[CALL]), RESULT], TOOLS, {}),
    "call and turns": ([user(), assistant("", tool_calls=[CALL]), RESULT, assistant(), user()], TOOLS, {}),
}


WITHOUT_CALLS = ("google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct", "ibm-granite-granite-3.3-2B-Instruct")
NULL_BESIDE_CALLS = ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B",)
"""Templates that leave calls out unless the content is null, and want arguments as text"""


def null_beside_calls(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    as_text = [{**c, "function": {**c["function"], "arguments": '{"city": "Zürich"}'}} for c in calls]
    return {**message, "content": None, "tool_calls": as_text}


def oracle(source: str, messages: list[dict[str, Any]], tools: Any, **options: Any) -> str | None:
    """transformers' rendering, or None where the template refuses the conversation."""
    try:
        rendered, _ = render_jinja_template([messages], tools=tools, chat_template=source, **{**ROLES, **options})
    except Exception:  # noqa: BLE001  (templates fail in any way)
        return None
    return str(rendered[0])


def ours(template: ChatTemplate, *arguments: Any, **options: Any) -> str | None:
    try:
        return template.render(*arguments, **options)
    except RequestError:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates(shared: Path, name: str) -> None:
    source = (shared / f"data/chat_templates/{name}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(source, ROLES)
    rendered = 0
    for title, (messages, tools, further) in CONVERSATIONS.items():
        for opens in (True, False):
            if title.startswith("call") and name in WITHOUT_CALLS:
                continue  # what stands in for them is tested below
            given = [null_beside_calls(each) for each in messages] if name in NULL_BESIDE_CALLS else messages
            expected = oracle(source, given, tools, add_generation_prompt=opens, **further)
            text = ours(template, messages, tools, add_generation_prompt=opens, template_kwargs=further)
            assert text == expected, (title, opens)
            rendered += text is not None
    assert rendered >= 8


@pytest.mark.parametrize("name", WITHOUT_CALLS)
def test_calls_are_never_left_out(shared: Path, name: str) -> None:
    source = (shared / f"data/chat_templates/{name}.jinja").read_text(encoding="utf-8")
    messages, tools, _ = CONVERSATIONS["call"]
    if "granite" in name:
        written = ChatTemplate(source, ROLES).render(messages, tools)
        assert '<|tool_call|>[{"name": "weather", "arguments": {"city": "Zürich"}}]<|end_of_text|>' in written
    else:
        with pytest.raises(RequestError, match="knows no tool calls"):
            ChatTemplate(source, ROLES).render(messages)


def test_a_template_that_wants_descriptions_gets_them(shared: Path) -> None:
    bare = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    for name, expected in (
        ("openai-gpt-oss-120b", "// \ntype weather"),
        ("Qwen-Qwen3-0.6B", '{"name": "weather", "param'),
    ):
        source = (shared / f"data/chat_templates/{name}.jinja").read_text(encoding="utf-8")
        assert expected in ChatTemplate(source, ROLES).render([user()], bare)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("last", ["Once upon", "Once upon "])
def test_continuing_the_final_message(shared: Path, name: str, last: str) -> None:
    source = (shared / f"data/chat_templates/{name}.jinja").read_text(encoding="utf-8")
    messages = [user(), assistant(last)]
    expected = oracle(source, messages, None, continue_final_message=True)
    template = ChatTemplate(source, ROLES)
    assert ours(template, messages, add_generation_prompt=False, continue_final_message=True) == expected
    if expected is not None:
        assert expected.endswith(last.rstrip()) or expected.endswith(last)


def test_every_template_in_shared_is_listed(shared: Path) -> None:
    assert sorted(path.stem for path in (shared / "data/chat_templates").glob("*.jinja")) == sorted(TEMPLATES)


LOOP = "{% for message in messages %}[{{ message.role }}:{{ message.content }}]{% endfor %}"
PARTS = (
    "{% for message in messages %}[{{ message.role }}:{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}]{% endfor %}"
)
BOTH = (
    "{% for message in messages %}[{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}<{{ part.text }}>{% endfor %}{% endif %}]{% endfor %}"
)


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatTemplate(source, ROLES).render(messages, **options)


def test_content_takes_the_form_that_the_template_reads() -> None:
    assert render(LOOP, {"role": "user", "content": parts("a", "b")}) == "[user:a\nb]"
    assert render(LOOP, {"role": "user", "content": ["a", *parts("b")]}) == "[user:a\nb]"
    assert render(PARTS, {"role": "user", "content": parts("a", "b")}) == "[user:ab]"
    assert render(PARTS, user("ab"), assistant("c"), SYSTEM) == "[user:ab][assistant:c][system:Be brief.]"
    assert render(BOTH, {"role": "user", "content": parts("a", "b")}, assistant("c")) == "[<a><b>][c]"
    assert render(BOTH, {"role": "tool", "content": parts("a", "b")}) == "[a\nb]"  # roles beyond chat get strings


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_parts_are_refused_by_name(kind: str) -> None:
    with pytest.raises(RequestError, match=kind) as caught:
        render(LOOP, {"role": "user", "content": [*parts("a"), {"type": kind, kind: {}}]})
    assert caught.value.param == "messages"


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("said", [{}, {"content": None}])
def test_who_says_nothing_at_all_is_asked_for_content(role: str, said: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"messages\[1\] has no content") as caught:
        render(LOOP, SYSTEM, {"role": role, **said})
    assert caught.value.param == "messages"
    assert render(LOOP, {"role": role, "content": ""}) == f"[{role}:]"


CALLS = (
    "{% for message in messages %}{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("arguments", [{"city": "Zürich"}, '{"city": "Zürich"}'])
def test_tool_arguments_take_the_form_that_the_template_writes(arguments: Any) -> None:
    message = assistant("", tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": arguments}}])
    assert render(CALLS, user(), message) == 'weather({"city": "Zürich"})'
    assert render(CALLS.replace(" | tojson", ""), user(), message) == 'weather({"city": "Zürich"})'
    concatenated = CALLS.replace("{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}")
    assert render(concatenated, user(), message) == 'weather({"city": "Zürich"})'


def test_templates_that_need_tools_are_understood_too() -> None:
    source = "{% for tool in tools %}{% endfor %}" + CALLS.replace(
        "{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}"
    )
    call = {"function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    assert render(source, user(), assistant("", tool_calls=[call]), tools=TOOLS) == 'weather({"city": "Zürich"})'


def test_empty_and_wrong_tool_arguments() -> None:
    def call(arguments: Any) -> dict[str, Any]:
        return assistant("", tool_calls=[{"function": {"name": "weather", "arguments": arguments}}])

    assert render(CALLS, call("")) == render(CALLS, call(None)) == "weather({})"
    for bad, words in (("{", "no JSON"), ("[1]", "JSON object"), (3, "JSON object")):
        with pytest.raises(RequestError, match=words):
            render(CALLS, call(bad))
    for bad in ('{"a": ' + "1" * 5000 + "}", '{"a": ' * 50_000):
        with pytest.raises(RequestError, match="no JSON"):
            render(CALLS, call(bad))
    with pytest.raises(RequestError, match="no list of objects"):
        render(CALLS, assistant("", tool_calls=["weather"]))
    with pytest.raises(RequestError, match="no object"):
        render(CALLS, assistant("", tool_calls=[{"function": "weather"}]))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "Hi",
        {"role": "user"},
        ["Hi"],
        [{"content": "Hi"}],
        [{"role": 3}],
        [user(7)],
        [user(object())],
        [user("\ud83d")],
    ],  # type: ignore[arg-type]
)
def test_malformed_messages(messages: Any) -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate(LOOP, ROLES).render(messages)
    assert caught.value.param == "messages"


def test_null_fields_are_as_good_as_none() -> None:
    source = "{% for message in messages %}{{ message.keys() | list }}{% endfor %}"
    assert render(source, {"role": "user", "content": "a", "name": None, "tool_calls": None}) == "['role', 'content']"


def test_refusals_of_the_template_are_the_clients() -> None:
    source = "{{ raise_exception('Only user and assistant roles') }}"
    with pytest.raises(RequestError, match="Only user and assistant roles") as caught:
        render(source, user())
    assert (caught.value.status, caught.value.param) == (400, "messages")
    with pytest.raises(RequestError, match="template line 2"):
        render("a\n{{ messages[0].nothing.at_all }}", user())


@pytest.mark.parametrize(("source", "line"), [("a\n{% if %}", 2), ("{{ 'open", 1), ("{% generation %}", 1)])
def test_broken_templates_name_the_line(source: str, line: int) -> None:
    with pytest.raises(ModelError, match=f"line {line}: .*[^.]; give another with --chat-template FILE"):
        ChatTemplate(source, ROLES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{% for a in range(99999999) %}{% endfor %}",
        "{% for a in range(9000) %}{{ 'x' * 9000 }}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_hostile_templates_are_stopped(source: str) -> None:
    with pytest.raises((ModelError, RequestError)) as caught:
        render(source, user())
    assert "template" in str(caught.value)


@pytest.mark.parametrize("source", ["{{ 'x' * 99999999999 }}", "{{ 99999999999 * [1] }}", "{{ ('x' * 30000000) * 2 }}"])
def test_repetition_is_stopped_before_it_takes_memory(source: str) -> None:
    with pytest.raises(ModelError, match="at most"):
        render(source, user())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_found_under_each_of_its_names(field: str) -> None:
    source = "{{ messages[1].reasoning_content }}|{{ messages[1].thinking }}"
    messages = [user(), assistant(**{field: "Hm."})]
    assert render(source, *messages) == oracle(source, messages, None) == "Hm.|Hm."


def test_helpers_of_hugging_face_templates() -> None:
    noon = datetime(2026, 1, 2, 12, 0)
    source = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(source, ROLES, now=lambda: noon).render([user()]) == "02 Jan 2026"
    assert render("{{ {'a': '<é>'} | tojson }}", user()) == '{"a": "<é>"}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}", user()) == json.dumps({"b": 1, "a": 2}, indent=2)
    assert (
        render(
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 3 %}{% break %}"
            "{% endif %}{{ i }}{% endfor %}",
            user(),
        )
        == "013"
    )
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}", user("a")) == "a"
    assert render("{{ bos_token }}{{ sep_token }}|", user()) == "<s>|"
    assert render("  {% if true %}\n  a\n  {% endif %}\n", user()) == "  a\n"
    assert render("{{ 'ab' * 2 }}{{ 2 ** 3 }}", user()) == "abab8"


def test_generation_has_a_scope_of_its_own() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(source, user()) == oracle(source, [user()], None) == "21"


def test_named_templates() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, ROLES)
    assert template.render([user()]) == "plain"
    assert template.render([user()], tools=TOOLS) == "tools"
    assert template.render([user()], tools=[]) == "plain"
    assert ChatTemplate({"default": "plain"}, ROLES).render([user()], tools=TOOLS) == "plain"
    with pytest.raises(ModelError, match="rag"):
        ChatTemplate({"rag": "x"}, ROLES).render([user()])


def test_further_arguments() -> None:
    assert render("{{ mode }}", user(), template_kwargs={"mode": "x"}) == "x"
    assert render("{{ bos_token }}", user(), template_kwargs={"bos_token": "B"}) == "B"
    for bad in ({"messages": []}, {"tools": []}, {"mode": object()}):
        with pytest.raises(RequestError) as caught:
            render("x", user(), template_kwargs=bad)
        assert caught.value.param == "chat_template_kwargs"
    with pytest.raises(RequestError, match="exclude"):
        render("x", user(), continue_final_message=True)
    for message in (user("a"), assistant("", tool_calls=[CALL]), {"role": "assistant"}):
        with pytest.raises(RequestError, match=r"continue_final_message|knows no tool calls"):
            render("fixed", message, continue_final_message=True, add_generation_prompt=False)


def test_which_variables_a_template_reads(shared: Path) -> None:
    def reads(name: str, variable: str) -> bool:
        source = (shared / f"data/chat_templates/{name}.jinja").read_text(encoding="utf-8")
        return ChatTemplate(source, ROLES).reads(variable)

    assert reads("Qwen-Qwen3-0.6B", "tools")
    assert reads("Qwen-Qwen3-0.6B", "enable_thinking")
    assert not reads("Qwen-Qwen2.5-7B-Instruct", "enable_thinking")
    assert not reads("google-gemma-2-2b-it", "tools")


def test_a_template_gets_copies() -> None:
    messages = [user(), assistant("", tool_calls=[CALL])]
    before = json.dumps(messages)
    render(CALLS, *messages)
    assert json.dumps(messages) == before


# Where templates come from

Write = Callable[[dict[str, Any]], ModelFiles]


def source_of(files: ModelFiles, override: Path | None = None) -> Any:
    template = load_chat_template(files, override)
    return None if template is None else dict(template.sources)


def test_places_in_a_folder(write_folder: Write) -> None:
    config = {"chat_template": "of config", "bos_token": "<s>"}
    assert source_of(write_folder({"config.json": {}})) is None
    assert source_of(write_folder({"tokenizer_config.json": config})) == {"default": "of config"}
    assert source_of(write_folder({"chat_template.json": {"chat_template": "of json"}})) == {"default": "of json"}
    assert source_of(write_folder({"chat_template.jinja": "of jinja"})) == {"default": "of jinja"}
    more = write_folder({"additional_chat_templates/tool_use.jinja": "of tools"})
    assert source_of(more) == {"default": "of jinja", "tool_use": "of tools"}


def test_named_templates_in_the_config(write_folder: Write) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    files = write_folder({"tokenizer_config.json": {"chat_template": named}})
    assert source_of(files) == {"default": "a", "tool_use": "b"}
    with pytest.raises(DamagedFile, match="chat_template"):
        load_chat_template(write_folder({"tokenizer_config.json": {"chat_template": [{"name": "default"}]}}))


def test_override(write_folder: Write, tmp_path: Path) -> None:
    files = write_folder(
        {"chat_template.jinja": "own", "other.jinja": "{{ eos_token }}", "other.json": {"chat_template": "j"}}
    )
    assert source_of(files, tmp_path / "other.jinja") == {"default": "{{ eos_token }}"}
    assert source_of(files, tmp_path / "other.json") == {"default": "j"}
    with pytest.raises(ModelNotFound, match="missing"):
        load_chat_template(files, tmp_path / "missing.jinja")
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xfe")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("bad.jinja", "bad.json", "deep.json"):
        with pytest.raises(DamagedFile, match=name):
            load_chat_template(files, tmp_path / name)


def test_a_template_that_may_not_be_read(write_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_folder({"chat_template.jinja": "own"})

    def refuse(path: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ModelError, match=r"chat_template.jinja cannot be read \(Permission denied\); check the path"):
        load_chat_template(files)


def test_special_tokens_reach_the_template(write_folder: Write) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": None, "image_token": "<img>"}
    files = write_folder(
        {
            "tokenizer_config.json": config,
            "special_tokens_map.json": {"unk_token": "<unk>"},
            "chat_template.jinja": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ image_token }}",
        }
    )
    template = load_chat_template(files)
    assert template is not None
    assert template.render([user()]) == "<s>||<unk>|<img>"


def test_gguf(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"])
    writer.add_chat_template(
        [{"name": "default", "template": "{{ bos_token }}a"}, {"name": "tool_use", "template": "b"}]
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    template = load_chat_template(ModelFiles("model", gguf_path=path))
    assert template is not None
    assert template.render([user()]) == "<s>a"
    assert template.render([user()], tools=TOOLS) == "b"
