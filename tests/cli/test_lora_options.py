"""`--lora` of `headrace run`, `--lora` and `--lora-dir` of `headrace serve`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from features.adapter import random_adapter
from features.doors import served
from in_process import Headrace

from headrace import LLM, AsyncLLM
from headrace.server import run as server
from headrace.server.settings import ServerSettings

PROMPT = "Once upon a time"
GREEDY = ("--temperature", "0", "--max-tokens", "20", "-q")


@pytest.fixture(scope="module")
def llm(stories: str) -> Iterator[LLM]:
    with LLM(stories) as llm:
        yield llm


@pytest.fixture(scope="module")
def folder(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, and another one in a folder of adapters beside it."""
    folder = tmp_path_factory.mktemp("adapters")
    random_adapter(folder / "below" / "second", llm.spec)
    return random_adapter(folder / "first", llm.spec).parent


@pytest.mark.parametrize("raw", [True, False])
def test_run_answers_with_it(headrace: Headrace, llm: LLM, stories: str, folder: Path, raw: bool) -> None:
    lora = ("--lora", str(folder / "first"))
    params = replace(llm.default_params, temperature=0, max_tokens=20)
    llm.load_adapter("a", folder / "first")
    try:
        if raw:
            [expected] = llm.generate(PROMPT, params, adapter="a")
        else:
            [expected] = llm.chat([{"role": "user", "content": PROMPT}], params, adapter="a")
    finally:
        llm.unload_adapter("a")
    options = (*GREEDY, *(["--raw"] if raw else []))
    done = headrace("run", stories, PROMPT, *options, *lora)
    assert (done.code, done.out, done.err) == (0, expected.outputs[0].text.removesuffix("\n") + "\n", "")
    assert headrace("run", stories, PROMPT, *options).out != done.out


def test_run_tells_the_bundled_story_with_it(headrace: Headrace, folder: Path) -> None:
    lora = ("--lora", str(folder / "first"))
    assert headrace("run", *GREEDY).out != headrace("run", *GREEDY, *lora).out


def test_run_says_what_it_has_loaded(headrace: Headrace, stories: str, folder: Path) -> None:
    done = headrace("run", stories, PROMPT, *GREEDY[:-1], "--lora", str(folder / "first"))
    assert re.search(r"^adapter lora: [\d.]+ KiB$", done.err, re.MULTILINE), done.err


@pytest.mark.parametrize(
    ("verb", "lora", "words"),
    [
        ("run", "nowhere", "Directory 'nowhere' does not exist"),
        ("run", __file__, "is a file"),
        ("run", "{empty}", "has no adapter_config.json"),
        ("run", "{other}", "o_proj.lora_A.weight"),
        ("serve", "sql", "'sql' is not a name and a folder, expected NAME=FOLDER"),
        ("serve", "=x", "'=x' is not a name and a folder"),
        ("serve", "sql=", "'sql=' is not a name and a folder"),
        ("serve", "sql=nowhere", "there is no folder nowhere"),
        ("serve", "sql={empty}", "has no adapter_config.json"),
        ("serve", "stories={first}", "two models or adapters are called 'stories'"),
    ],
)
def test_what_is_no_adapter_is_said_in_a_line(
    headrace: Headrace, stories: str, folder: Path, tmp_path: Path, verb: str, lora: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "other" / name).write_bytes((folder / "first" / name).read_bytes())
    config = tmp_path / "other" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 3}))
    given = lora.format(empty=tmp_path / "empty", other=tmp_path / "other", first=folder / "first")
    arguments = (PROMPT, *GREEDY) if verb == "run" else ("--port", "0")
    done = headrace(verb, stories, *arguments, "--lora", given)
    assert done.code in (1, 2)
    assert done.out == ""
    assert words in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


def test_serve_takes_several_but_each_name_once(
    headrace: Headrace, stories: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def run_server(llm: AsyncLLM, host: str, port: int, name: str, settings: ServerSettings, **_: object) -> None:
        seen.update(paths={name: each.path for name, each in llm.adapters.items()}, folder=settings.adapter_folder)
        asyncio.run(llm.close())

    monkeypatch.setattr(server, "run_server", run_server)
    first, second = str(folder / "first"), str(folder / "below" / "second")
    several = ("--lora", f"sql={first}", "--lora", f"a=b={second}")
    assert headrace("serve", stories, "--port", "0", *several[:2]).code == 0
    assert seen == {"paths": {"sql": first}, "folder": None}
    twice = headrace("serve", stories, "--port", "0", "--lora", f"sql={first}", "--lora", f"sql={second}")
    assert (twice.code, twice.err.count("\n")) == (2, 1)
    assert "two models or adapters are called 'sql'" in twice.err
    below = str(folder / "below")
    both = ("--lora", f"sql={first}", "--lora", f"poems={second}", "--lora-dir", below)
    assert headrace("serve", stories, "--port", "0", *both).code == 0
    assert seen == {"paths": {"sql": first, "poems": second}, "folder": Path(below)}
    for wrong, words in (("nowhere", "does not exist"), (__file__, "is a file")):
        refused = headrace("serve", stories, "--port", "0", "--lora-dir", wrong)
        assert refused.code == 2
        assert words in refused.err


@pytest.mark.slow
def test_a_served_adapter_is_a_model_and_more_are_loaded_by_name(stories: str, folder: Path) -> None:
    with served(stories, "--lora", f"sql={folder / 'first'}", "--lora-dir", str(folder / "below")) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)

        def text(model: str) -> str:
            asked = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=12)
            return asked.choices[0].text

        assert [model.id for model in client.models.list()] == ["stories", "sql"]
        assert text("sql") != text("stories")
        for path, status in (("first", 404), (str(folder / "first"), 404), ("second", 200)):
            body = {"lora_name": "new", "lora_path": path}
            assert httpx.post(f"{base}/v1/load_lora_adapter", json=body).status_code == status, path
        assert text("new") == text("sql")  # the two folders hold the same
        assert httpx.post(f"{base}/v1/unload_lora_adapter", json={"lora_name": "new"}).status_code == 200
        with pytest.raises(openai.NotFoundError):
            text("new")
