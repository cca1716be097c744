"""Adapters as models over HTTP: listed, asked for, loaded and unloaded while the server runs, by name only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_llm import serving
from tiny_adapters import make_adapter
from tiny_models import make_tiny, reference

from headrace.async_llm import AsyncLLM
from headrace.config import EngineConfig
from headrace.errors import ConfigError
from headrace.server.app import create_app

GREEDY = {"max_tokens": 8, "temperature": 0, "extra_body": {"return_token_ids": True}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("headrace.ops.cpu", reason="the kernels are not built")
    folder = make_tiny("llama", tmp_path_factory.mktemp("llama"))
    base = reference(folder)
    for seed, name in enumerate(["first", "second", "third"]):
        make_adapter(folder / "adapters" / name, base, seed=seed)
    make_adapter(folder / "elsewhere", base)
    make_adapter(folder / "adapters", base)  # "." is no name, although there is one
    (folder / "adapters" / "link").symlink_to(folder / "elsewhere")
    linked = folder / "adapters" / "linked-file"
    linked.mkdir()
    (linked / "adapter_config.json").write_text((folder / "elsewhere" / "adapter_config.json").read_text())
    (linked / "adapter_model.safetensors").symlink_to(folder / "elsewhere" / "adapter_model.safetensors")
    broken = folder / "adapters" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "use_dora": True}))
    (broken / "adapter_model.safetensors").write_bytes(b"")
    damaged = folder / "adapters" / "damaged"
    damaged.mkdir()
    (damaged / "adapter_config.json").write_text("{")
    (damaged / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    llm: Any = AsyncLLM(model, EngineConfig(threads=1), adapters={"sql": model / "adapters" / "first"})
    with serving(llm, "base", adapter_folder=model / "adapters") as address:
        yield address


def post(url: str, what: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{what}_lora_adapter", json=body)


def complete(url: str, name: str) -> list[int]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.completions.create(model=name, prompt=[5, 6, 7, 8], **GREEDY)
    assert answer.model == name
    return answer.choices[0].token_ids  # type: ignore[attr-defined,no-any-return]


def test_an_adapter_is_a_model(url: str, model: Path) -> None:
    listed = {each["id"]: each for each in httpx.get(f"{url}/v1/models").json()["data"]}
    assert list(listed) == ["base", "sql"]
    assert listed["sql"]["parent"] == "base"
    assert listed["sql"]["root"] == str(model / "adapters" / "first")
    assert httpx.get(f"{url}/v1/models/sql").json() == listed["sql"]
    assert complete(url, "sql") != complete(url, "base")
    assert httpx.post(f"{url}/v1/completions", json={"model": "csv", "prompt": [5]}).status_code == 404


def test_loaded_used_replaced_and_unloaded(url: str) -> None:
    loaded = post(url, "load", lora_name="new", lora_path="second")
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'new' added successfully.")
    assert loaded.headers["content-type"].startswith("text/plain")
    second = complete(url, "new")
    again = post(url, "load", lora_name="new", lora_path="third")
    assert again.status_code == 400
    assert "already" in again.json()["error"]["message"]
    assert complete(url, "new") == second
    assert post(url, "load", lora_name="new", lora_path="third", load_inplace=True).status_code == 200
    assert complete(url, "new") not in (second, complete(url, "base"), complete(url, "sql"))
    gone = post(url, "unload", lora_name="new")
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'new' removed successfully.")
    assert post(url, "unload", lora_name="new").status_code == 404
    assert httpx.post(f"{url}/v1/completions", json={"model": "new", "prompt": [5]}).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["../elsewhere", "link", "linked-file", ".", "", "none", "first/../../elsewhere", "/etc", "a\0b", "x" * 5000],
)
def test_only_what_lies_below_the_folder(url: str, path: str) -> None:
    refused = post(url, "load", lora_name="bad", lora_path=path)
    assert refused.status_code == 404
    assert "no adapter" in refused.json()["error"]["message"]
    assert "elsewhere" not in refused.json()["error"]["message"].replace(path, "")


def test_absolute_paths_below_the_folder_are_fine(url: str, model: Path) -> None:
    assert post(url, "load", lora_name="absolute", lora_path=str(model / "adapters" / "second")).status_code == 200
    assert post(url, "unload", lora_name="absolute").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lora_name": "base", "lora_path": "second"}, "lora_name"),
        ({"lora_name": "", "lora_path": "second"}, "lora_name"),
        ({"lora_name": "x"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "second", "base_model": "b"}, "base_model"),
        ({"lora_name": "x", "lora_path": "broken"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "damaged"}, "lora_path"),
    ],
)
def test_what_is_wrong_is_named(url: str, body: dict[str, Any], param: str, model: Path) -> None:
    refused = httpx.post(f"{url}/v1/load_lora_adapter", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert str(model) not in refused.text


def test_a_server_without_the_folder_loads_nothing(model: Path) -> None:
    llm: Any = AsyncLLM(model, EngineConfig(threads=1))
    with serving(llm, "base") as address:
        refused = post(address, "load", lora_name="x", lora_path=str(model / "adapters" / "first"))
        assert refused.status_code == 400
        assert "--lora-dir" in refused.json()["error"]["message"]


def test_an_adapter_cannot_have_the_models_name(model: Path) -> None:
    llm = AsyncLLM(model, EngineConfig(threads=1), adapters={"base": model / "adapters" / "first"})
    with pytest.raises(ConfigError, match="the model's name"):
        create_app(llm, "base")
    asyncio.run(llm.close())
